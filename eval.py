"""Scores a run or masks: python eval.py --workdir runs/h0, or --predictions DIR --references DIR."""

from isanet_jax import console
from isanet_jax.evaluation.command import main

if __name__ == "__main__":
    console.run(main)
