"""The optimiser and its learning rate, from the settings."""

import optax

from isanet_jax.training.schedule import poly_schedule, restart_schedule

OPTIMIZERS = ("adam", "sgd")


def make_optimizer(
    schedule: optax.Schedule,
    *,
    name="adam",
    b1=0.9,
    b2=0.99,
    momentum=0.99,
    weight_decay=0.0,
    clip_norm=0.0,
) -> optax.GradientTransformation:
    """Adam as in the paper, or nnU-Net's SGD with Nesterov momentum.

    Args:
        schedule: step -> learning rate.
        name: see `OPTIMIZERS`.
        b1, b2: Adam's momentum factors.
        momentum: of SGD.
        weight_decay: L2 penalty, added to the gradient; 0: none.
        clip_norm: largest norm of the whole gradient; 0: not clipped.
    """
    parts = []
    if clip_norm:
        parts.append(optax.clip_by_global_norm(clip_norm))
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay))
    if name == "sgd":
        parts.append(optax.sgd(schedule, momentum=momentum, nesterov=True))
    else:
        parts.append(optax.adam(schedule, b1=b1, b2=b2))
    return optax.chain(*parts)


def make_schedule(config: dict, steps_per_epoch: int) -> optax.Schedule:
    """The config's learning rate: step -> rate."""
    settings = config["optimizer"]
    peak = settings["peak_learning_rate"]
    if settings["schedule"] == "poly":
        epochs = config["train"]["epochs"]
        return poly_schedule(peak=peak, epochs=epochs, steps_per_epoch=steps_per_epoch)
    return restart_schedule(
        peak=peak,
        floor=settings["floor_learning_rate"],
        restart_epochs=settings["restart_epochs"],
        steps_per_epoch=steps_per_epoch,
    )


def make_optimizer_from(schedule: optax.Schedule, config: dict) -> optax.GradientTransformation:
    """The config's optimiser."""
    names = ("name", "b1", "b2", "momentum", "weight_decay", "clip_norm")
    return make_optimizer(schedule, **{name: config["optimizer"][name] for name in names})
