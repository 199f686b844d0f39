"""Predicts tumour masks: python predict.py --help."""

from isanet_jax.cli import run

if __name__ == "__main__":
    run("predict")
