"""Prepares raw PET/CT scans for training: python prepare.py {hecktor,sts,table,phantom} --help."""

from isanet_jax import runtime
from isanet_jax.cli.prepare import main

if __name__ == "__main__":
    runtime.run(main)
