"""Scores a trained run, or anyone's masks: python eval.py --help."""

from isanet_jax import runtime
from isanet_jax.cli.evaluate import main

if __name__ == "__main__":
    runtime.run(main)
