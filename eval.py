"""Scores a trained run, or anyone's masks: python eval.py --help."""

from isanet_jax.cli import start

if __name__ == "__main__":
    start("eval")
