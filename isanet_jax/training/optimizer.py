"""The optimiser, its learning rate and the average of its weights, from the settings."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from isanet_jax.settings.table import Optimizer
from isanet_jax.training.schedule import cosine_schedule, poly_schedule, restart_schedule


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


def make_optimizer(settings: Optimizer, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adam as in the paper, AdamW, or nnU-Net's SGD with Nesterov momentum.

    Args:
        settings: `weight_decay` is an L2 penalty, added to the gradient; of AdamW, taken off the
            weights (Loshchilov and Hutter 2019). The others as their texts say.
        schedule: step -> learning rate.
    """
    parts = []
    if settings.clip_norm:
        parts.append(optax.clip_by_global_norm(settings.clip_norm))
    if settings.weight_decay and settings.name != "adamw":
        parts.append(optax.add_decayed_weights(settings.weight_decay))
    if settings.name == "sgd":
        parts.append(optax.sgd(schedule, momentum=settings.momentum, nesterov=True))
    elif settings.name == "adamw":
        decay = {"weight_decay": settings.weight_decay}
        parts.append(optax.adamw(schedule, b1=settings.b1, b2=settings.b2, **decay))
    else:
        parts.append(optax.adam(schedule, b1=settings.b1, b2=settings.b2))
    if settings.average:
        parts.append(average_weights(settings.average))
    return optax.chain(*parts)


def make_schedule(settings: Optimizer, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate of a training of so many epochs: step -> rate."""
    peak, floor = settings.peak_learning_rate, settings.floor_learning_rate
    if settings.schedule == "cosine":
        warmup_steps = settings.warmup_epochs * steps_per_epoch
        steps = epochs * steps_per_epoch
        return cosine_schedule(peak=peak, floor=floor, warmup_steps=warmup_steps, steps=steps)
    if settings.schedule == "poly":
        return poly_schedule(peak=peak, epochs=epochs, steps_per_epoch=steps_per_epoch)
    return restart_schedule(
        peak=peak,
        floor=floor,
        restart_epochs=settings.restart_epochs,
        steps_per_epoch=steps_per_epoch,
    )
