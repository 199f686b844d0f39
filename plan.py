"""Says what a config needs of devices that are not attached: python plan.py --help."""

from isanet_jax.cli import run

if __name__ == "__main__":
    run("plan")
