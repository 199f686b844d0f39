"""Learning rates: cosine annealing with warm restarts (paper section 3.2), poly, and cosine."""

import jax.numpy as jnp
import optax


def restart_schedule(
    *, peak: float, floor: float, restart_epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """lr(t) = floor + (peak - floor)/2 (1 + cos(pi (t mod T)/T)), t whole epochs, T restart_epochs.

    Args:
        peak, floor: learning rates at the start and (not reached) the end of a period.
        restart_epochs: length T of a period.
        steps_per_epoch: steps for which t stays the same.

    Returns:
        step -> learning rate.
    """

    def learning_rate(step):
        phase = (step // steps_per_epoch) % restart_epochs / restart_epochs
        return floor + 0.5 * (peak - floor) * (1 + jnp.cos(jnp.pi * phase))

    return learning_rate


def poly_schedule(*, peak: float, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """nnU-Net's lr(t) = peak (1 - t / epochs)^0.9 in whole epochs t: step -> learning rate."""

    def learning_rate(step):
        return peak * (1 - jnp.minimum(step // steps_per_epoch, epochs) / epochs) ** 0.9

    return learning_rate


def cosine_schedule(*, peak: float, floor: float, warmup_steps: int, steps: int) -> optax.Schedule:
    """Linear from 0 to the peak over the warm-up, then half a cosine to the floor.

    Args:
        peak, floor: the largest learning rate, and that of the end.
        warmup_steps: steps until the peak.
        steps: of the whole training.

    Returns:
        step -> learning rate.
    """
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, steps, floor)
