"""Predicts tumour masks: python predict.py --help."""

from isanet_jax.cli import start

if __name__ == "__main__":
    start("predict")
