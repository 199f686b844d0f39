"""Makes one file of a trained run, to share: python bundle.py --help."""

from isanet_jax.cli import run

if __name__ == "__main__":
    run("bundle")
