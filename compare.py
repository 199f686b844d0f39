"""Trains and compares methods over folds: python compare.py --help."""

from isanet_jax import runtime
from isanet_jax.cli.compare import main

if __name__ == "__main__":
    runtime.run(main)
