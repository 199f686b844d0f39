"""Says what this machine has, and tries it: python doctor.py --help."""

from isanet_jax.cli import run

if __name__ == "__main__":
    run("doctor")
