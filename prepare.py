"""Prepares raw PET/CT scans for training: python prepare.py {hecktor,sts,table,phantom} --help."""

from isanet_jax import console
from isanet_jax.cases.command import main

if __name__ == "__main__":
    console.run(main)
