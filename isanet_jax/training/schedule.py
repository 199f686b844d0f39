"""Learning rate: cosine annealing with warm restarts (paper section 3.2)."""

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
