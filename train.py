"""Trains a network, or resumes a run that was stopped: python train.py --help."""

from isanet_jax.cli import run

if __name__ == "__main__":
    run("train")
