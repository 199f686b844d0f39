"""Scores a trained run, or anyone's masks: python eval.py --help."""

from isanet_jax import console
from isanet_jax.evaluation.command import main

if __name__ == "__main__":
    console.run(main)
