"""Prepares raw PET/CT scans for training: python prepare.py --help."""

from isanet_jax.cli import run

if __name__ == "__main__":
    run("prepare")
