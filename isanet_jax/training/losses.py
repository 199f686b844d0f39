"""Dice and focal loss (paper section 2.5), from logits, per batch."""

import jax
import jax.numpy as jnp

_VOLUME = (1, 2, 3)


def dice_loss(logits: jax.Array, label: jax.Array, *, squared: bool = False) -> jax.Array:
    """Eq. 9: 1 - 2 sum(yp) / (sum(y) + sum(p) + eps) per sample, then the batch's mean.

    Args:
        logits: (B, D, H, W) float32.
        label: (B, D, H, W), in [0, 1]; may be soft.
        squared: V-Net's form: squares in the denominator, 1e-3 added above and below.

    Returns:
        () float32. An empty label gives a finite value.
    """
    p = jax.nn.sigmoid(logits)
    overlap = jnp.sum(label * p, _VOLUME)
    if squared:
        total = jnp.sum(jnp.square(label), _VOLUME) + jnp.sum(jnp.square(p), _VOLUME)
        return jnp.mean(1 - (2 * overlap + 1e-3) / (total + 1e-3))
    total = jnp.sum(label, _VOLUME) + jnp.sum(p, _VOLUME)
    return jnp.mean(1 - 2 * overlap / (total + 1e-5))


def focal_loss(
    logits: jax.Array, label: jax.Array, *, alpha: float = 0.5, gamma: float = 2.0
) -> jax.Array:
    """Eq. 10, with its printed exponents read as gamma; the mean over voxels.

    Args:
        logits, label: (B, D, H, W), as for `dice_loss`.
        alpha: weight of the tumour's voxels; the others weigh 1 - alpha.
        gamma: how much well-classified voxels count less.

    Returns:
        () float32.
    """
    log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    tumour = alpha * label * jnp.exp(gamma * log_not_p) * log_p
    other = (1 - alpha) * (1 - label) * jnp.exp(gamma * log_p) * log_not_p
    return -jnp.mean(tumour + other)
