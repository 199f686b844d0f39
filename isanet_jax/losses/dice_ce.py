"""Dice + cross-entropy, nnU-Net's loss."""

from isanet_jax.losses.parts import cross_entropy, dice_of
from isanet_jax.losses.segmentation import Loss


def dice_ce(logits, label, settings, known):
    """Both with the weight 1."""
    return {
        "dice_loss": dice_of(logits, label, settings, known),
        "cross_entropy": cross_entropy(logits, label, known=known),
    }


LOSSES = {"dice_ce": Loss(dice_ce)}
