"""A DICOM node: python node.py --help."""

from isanet_jax.cli import run

if __name__ == "__main__":
    run("node")
