"""Says what training and prediction need of a device: python plan.py --help."""

from isanet_jax import runtime
from isanet_jax.cli.plan import main

if __name__ == "__main__":
    runtime.run(main)
