"""Dice + focal, the paper's loss (Eq. 11)."""

from isanet_jax.losses.parts import dice_of, focal_loss
from isanet_jax.losses.segmentation import Loss


def dice_focal(logits, label, settings, known):
    """Eq. 11."""
    focal = focal_loss(logits, label, alpha=settings.alpha, gamma=settings.gamma, known=known)
    return {
        "dice_loss": dice_of(logits, label, settings, known),
        "focal_loss": settings.focal_weight * focal,
    }


LOSSES = {"dice_focal": Loss(dice_focal, reads=("alpha", "gamma", "focal_weight"))}
