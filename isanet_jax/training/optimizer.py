"""The optimiser, its learning rate and the average of its weights, from the settings."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from isanet_jax.training.schedule import cosine_schedule, poly_schedule, restart_schedule

OPTIMIZERS = ("adam", "adamw", "sgd")


class WeightAverage(NamedTuple):
    """The state of `average_weights`: how many updates there were, and their decayed sum."""

    count: jax.Array
    sum: dict


def average_weights(decay: float) -> optax.GradientTransformation:
    """Changes no update, and keeps the exponential average of the weights that they lead to.

    Args:
        decay: what is kept of the average at each step.
    """

    def init(params):
        return WeightAverage(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params):
        new = optax.apply_updates(params, updates)
        total = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, state.sum, new)
        return updates, WeightAverage(state.count + 1, total)

    return optax.GradientTransformation(init, update)


def averaged(params: dict, opt_state, decay: float) -> dict:
    """The weights to predict with after some steps: their average, where one is kept.

    The average begins with zeros; what of it is still these is divided away, as in Adam.
    """
    if not decay:
        return params
    state = next(part for part in opt_state if isinstance(part, WeightAverage))
    # Compiled, since of several processes no one has all devices' values to compute with; and laid
    # where the weights lie: of split volumes, the optimiser's state is split, too.
    places = jax.tree.map(lambda x: x.sharding, params)
    return jax.jit(_without_zeros, out_shardings=places)(state, decay)


def _without_zeros(state, decay):
    share = 1 - decay**state.count
    return jax.tree.map(lambda x: x / share, state.sum)


def make_optimizer(
    schedule: optax.Schedule,
    *,
    name="adam",
    b1=0.9,
    b2=0.99,
    momentum=0.99,
    weight_decay=0.0,
    clip_norm=0.0,
    average=0.0,
) -> optax.GradientTransformation:
    """Adam as in the paper, AdamW, or nnU-Net's SGD with Nesterov momentum.

    Args:
        schedule: step -> learning rate.
        name: see `OPTIMIZERS`.
        b1, b2: Adam's momentum factors.
        momentum: of SGD.
        weight_decay: L2 penalty, added to the gradient; of AdamW, taken off the weights
            (Loshchilov and Hutter 2019); 0: none.
        clip_norm: largest norm of the whole gradient; 0: not clipped.
        average: decay of `average_weights`; 0: none is kept.
    """
    parts = []
    if clip_norm:
        parts.append(optax.clip_by_global_norm(clip_norm))
    if weight_decay and name != "adamw":
        parts.append(optax.add_decayed_weights(weight_decay))
    if name == "sgd":
        parts.append(optax.sgd(schedule, momentum=momentum, nesterov=True))
    elif name == "adamw":
        parts.append(optax.adamw(schedule, b1=b1, b2=b2, weight_decay=weight_decay))
    else:
        parts.append(optax.adam(schedule, b1=b1, b2=b2))
    if average:
        parts.append(average_weights(average))
    return optax.chain(*parts)


def make_schedule(config: dict, steps_per_epoch: int) -> optax.Schedule:
    """The config's learning rate: step -> rate."""
    settings = config["optimizer"]
    peak = settings["peak_learning_rate"]
    epochs = config["train"]["epochs"]
    if settings["schedule"] == "cosine":
        return cosine_schedule(
            peak=peak,
            floor=settings["floor_learning_rate"],
            warmup_steps=settings["warmup_epochs"] * steps_per_epoch,
            steps=epochs * steps_per_epoch,
        )
    if settings["schedule"] == "poly":
        return poly_schedule(peak=peak, epochs=epochs, steps_per_epoch=steps_per_epoch)
    return restart_schedule(
        peak=peak,
        floor=settings["floor_learning_rate"],
        restart_epochs=settings["restart_epochs"],
        steps_per_epoch=steps_per_epoch,
    )


def make_optimizer_from(schedule: optax.Schedule, config: dict) -> optax.GradientTransformation:
    """The config's optimiser."""
    names = ("name", "b1", "b2", "momentum", "weight_decay", "clip_norm", "average")
    return make_optimizer(schedule, **{name: config["optimizer"][name] for name in names})
