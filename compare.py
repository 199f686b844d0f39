"""Trains and compares methods over folds: python compare.py --help."""

from isanet_jax.cli import run

if __name__ == "__main__":
    run("compare")
