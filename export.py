"""Writes trained networks for programs without JAX: python export.py --help."""

from isanet_jax.cli import run

if __name__ == "__main__":
    run("export")
