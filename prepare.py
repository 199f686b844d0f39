"""Prepares raw PET/CT scans for training: python prepare.py --help."""

from isanet_jax.cli import start

if __name__ == "__main__":
    start("prepare")
