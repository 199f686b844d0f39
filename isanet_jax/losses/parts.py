"""What losses are made of (paper section 2.5): Dice, focal loss and cross-entropy, from logits."""

import jax
import jax.numpy as jnp

from isanet_jax.settings.table import Loss as LossSettings

_VOLUME = (1, 2, 3)


def dice_loss(
    logits: jax.Array,
    label: jax.Array,
    *,
    squared: bool = False,
    smooth: float = 1e-3,
    of_batch: bool = False,
    known: jax.Array | None = None,
) -> jax.Array:
    """Eq. 9: 1 - 2 sum(yp) / (sum(y) + sum(p) + eps) per sample and class, then their mean.

    Args:
        logits: (B, D, H, W, classes) float32.
        label: (B, D, H, W, classes), in [0, 1]; may be soft.
        squared: V-Net's form: squares in the denominator, `smooth` added above and below.
        smooth: of the squared form.
        of_batch: sum over the batch's samples, too, so that one without a class does not count 1.
        known: (B, D, H, W, 1), 0 where a voxel is to be left out; None: all count.

    Returns:
        () float32. An empty label gives a finite value.
    """
    p = jax.nn.sigmoid(logits)
    if known is not None:
        p, label = p * known, label * known
    axes = (0, *_VOLUME) if of_batch else _VOLUME
    overlap = jnp.sum(label * p, axes)
    if squared:
        total = jnp.sum(jnp.square(label), axes) + jnp.sum(jnp.square(p), axes)
        return jnp.mean(1 - (2 * overlap + smooth) / (total + smooth))
    total = jnp.sum(label, axes) + jnp.sum(p, axes)
    return jnp.mean(1 - 2 * overlap / (total + 1e-5))


def dice_of(logits, label, settings: LossSettings, known) -> jax.Array:
    """`dice_loss` in the form that the settings ask for."""
    return dice_loss(
        logits,
        label,
        squared=settings.dice_squared,
        smooth=settings.dice_smooth,
        of_batch=settings.batch_dice,
        known=known,
    )


def focal_loss(
    logits: jax.Array,
    label: jax.Array,
    *,
    alpha: float = 0.5,
    gamma: float = 2.0,
    known: jax.Array | None = None,
) -> jax.Array:
    """Eq. 10, with its printed exponents read as gamma; the mean over voxels and classes.

    Args:
        logits, label, known: as for `dice_loss`.
        alpha: weight of the tumour's voxels; the others weigh 1 - alpha.
        gamma: how much well-classified voxels count less.

    Returns:
        () float32.
    """
    log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    tumour = alpha * label * jnp.exp(gamma * log_not_p) * log_p
    other = (1 - alpha) * (1 - label) * jnp.exp(gamma * log_p) * log_not_p
    if known is None:
        return -jnp.mean(tumour + other)
    count = jnp.maximum(jnp.sum(known) * logits.shape[-1], 1)
    return -jnp.sum((tumour + other) * known) / count


def cross_entropy(
    logits: jax.Array, label: jax.Array, *, known: jax.Array | None = None
) -> jax.Array:
    """Binary cross-entropy, the mean over voxels and classes: the focal loss unfocused, times 2.

    Args:
        logits, label, known: as for `dice_loss`.

    Returns:
        () float32.
    """
    return 2.0 * focal_loss(logits, label, alpha=0.5, gamma=0.0, known=known)
