"""Dice with focal loss (paper section 2.5) or cross-entropy, from logits, per batch."""

import jax
import jax.numpy as jnp

from isanet_jax.network.blocks import Output

LOSSES = ("dice_focal", "dice_ce")
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
    batch_dice=False,
    ignored: jax.Array | None = None,
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
        batch_dice: see `dice_loss`.
        ignored: (B, D, H, W), above 0 in voxels that are left out; None: all count.

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
        factors = [a // b for a, b in zip(label.shape[1:4], logits.shape[1:4], strict=True)]
        coarse = (slice(None), *[slice(factor // 2, None, factor) for factor in factors])
        target = label[coarse]
        known = None if ignored is None else (ignored[coarse] == 0).astype(logits.dtype)[..., None]
        form = {"squared": dice_squared, "smooth": dice_smooth, "of_batch": batch_dice}
        dice = dice_loss(logits, target, known=known, **form)
        if name == "dice_ce":
            focal = cross_entropy(logits, target, known=known)
        else:
            focal = focal_loss(logits, target, alpha=alpha, gamma=gamma, known=known)
            focal = focal_weight * focal
        parts = parts or {"dice_loss": dice, "focal_loss": focal}
        total, weights = total + weight * (dice + focal), weights + weight
    return total / weights, parts
