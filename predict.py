"""Predicts tumour masks with a trained run: python predict.py --help."""

from isanet_jax import runtime
from isanet_jax.cli.predict import main

if __name__ == "__main__":
    runtime.run(main)
