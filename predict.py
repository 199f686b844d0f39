"""Predicts tumour masks with a trained run: python predict.py --help."""

from isanet_jax import console
from isanet_jax.prediction.command import main

if __name__ == "__main__":
    console.run(main)
