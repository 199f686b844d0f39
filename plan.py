"""Says what training and prediction need of a device: python plan.py --help."""

from isanet_jax import console
from isanet_jax.planning.command import main

if __name__ == "__main__":
    console.run(main)
