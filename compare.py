"""Trains and compares methods over folds: python compare.py --help."""

from isanet_jax import console
from isanet_jax.comparison.command import main

if __name__ == "__main__":
    console.run(main)
