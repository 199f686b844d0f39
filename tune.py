"""Chooses how probabilities become masks, on tested cases: python tune.py --help."""

from isanet_jax.cli import run

if __name__ == "__main__":
    run("tune")
