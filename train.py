"""Trains a network, or resumes a run that was stopped: python train.py --help."""

from isanet_jax.cli import start

if __name__ == "__main__":
    start("train")
