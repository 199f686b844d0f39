"""Dice with focal loss (paper section 2.5) or cross-entropy, from logits, per batch."""

import jax
import jax.numpy as jnp

from isanet_jax.network.blocks import Output

LOSSES = ("dice_focal", "dice_ce")
_VOLUME = (1, 2, 3)


def dice_loss(
    logits: jax.Array, label: jax.Array, *, squared: bool = False, smooth: float = 1e-3
) -> jax.Array:
    """Eq. 9: 1 - 2 sum(yp) / (sum(y) + sum(p) + eps) per sample and class, then their mean.

    Args:
        logits: (B, D, H, W, classes) float32.
        label: (B, D, H, W, classes), in [0, 1]; may be soft.
        squared: V-Net's form: squares in the denominator, `smooth` added above and below.
        smooth: of the squared form.

    Returns:
        () float32. An empty label gives a finite value.
    """
    p = jax.nn.sigmoid(logits)
    overlap = jnp.sum(label * p, _VOLUME)
    if squared:
        total = jnp.sum(jnp.square(label), _VOLUME) + jnp.sum(jnp.square(p), _VOLUME)
        return jnp.mean(1 - (2 * overlap + smooth) / (total + smooth))
    total = jnp.sum(label, _VOLUME) + jnp.sum(p, _VOLUME)
    return jnp.mean(1 - 2 * overlap / (total + 1e-5))


def focal_loss(
    logits: jax.Array, label: jax.Array, *, alpha: float = 0.5, gamma: float = 2.0
) -> jax.Array:
    """Eq. 10, with its printed exponents read as gamma; the mean over voxels and classes.

    Args:
        logits, label: (B, D, H, W, classes), as for `dice_loss`.
        alpha: weight of the tumour's voxels; the others weigh 1 - alpha.
        gamma: how much well-classified voxels count less.

    Returns:
        () float32.
    """
    log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    tumour = alpha * label * jnp.exp(gamma * log_not_p) * log_p
    other = (1 - alpha) * (1 - label) * jnp.exp(gamma * log_p) * log_not_p
    return -jnp.mean(tumour + other)


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Binary cross-entropy, the mean over voxels and classes: the focal loss unfocused, times 2.

    Args:
        logits, label: (B, D, H, W, classes), as for `dice_loss`.

    Returns:
        () float32.
    """
    return 2.0 * focal_loss(logits, label, alpha=0.5, gamma=0.0)


def segmentation_loss(
    output: Output,
    label: jax.Array,
    *,
    name="dice_focal",
    dice_squared,
    dice_smooth,
    alpha,
    gamma,
    focal_weight,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Eq. 11, Dice + focal, as the weighted mean over all that the network supervises.

    Args:
        output: of the network; a coarser auxiliary output is compared with the label's nearest
            voxels.
        label: (B, D, H, W, classes), as for `dice_loss`.
        name: of `LOSSES`: Dice + focal, or Dice + cross-entropy.
        dice_squared, dice_smooth: see `dice_loss`.
        alpha, gamma: see `focal_loss`.
        focal_weight: factor of the focal loss.

    Raises:
        ValueError: the label has not the logits' shape.

    Returns:
        loss, and its parts for the first output: `dice_loss`, `focal_loss` (the second part, also
        where it is the cross-entropy).
    """
    if label.shape != output.logits.shape:  # they would be broadcast
        raise ValueError(f"a label {label.shape} for logits {output.logits.shape}")
    total, weights, parts = 0.0, 0.0, None
    for weight, logits in ((1.0, output.logits), *output.auxiliary):
        factor = label.shape[1] // logits.shape[1]
        target = label[:, factor // 2 :: factor, factor // 2 :: factor, factor // 2 :: factor]
        dice = dice_loss(logits, target, squared=dice_squared, smooth=dice_smooth)
        if name == "dice_ce":
            focal = cross_entropy(logits, target)
        else:
            focal = focal_weight * focal_loss(logits, target, alpha=alpha, gamma=gamma)
        parts = parts or {"dice_loss": dice, "focal_loss": focal}
        total, weights = total + weight * (dice + focal), weights + weight
    return total / weights, parts
