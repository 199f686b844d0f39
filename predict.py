"""Predicts masks: python predict.py --workdir runs/h0 --ct ct.nii.gz --pet pet.nii.gz --output m.nii.gz."""

from isanet_jax import console
from isanet_jax.prediction.command import main

if __name__ == "__main__":
    console.run(main)
