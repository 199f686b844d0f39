"""Losses, a file each; to add one, write a file that says `LOSSES = {"name": Loss(...)}`."""

from isanet_jax.losses.segmentation import Loss, find_loss, segmentation_loss

__all__ = ["Loss", "find_loss", "segmentation_loss"]
