"""Trains a network: python train.py --config configs/hecktor.py --workdir runs/h0."""

import sys

from isanet_jax import console


def main():
    """Parses the command line and trains; the imports wait until they are needed."""
    from isanet_jax.training.config import parse_command_line
    from isanet_jax.training.loop import train

    train(*parse_command_line(sys.argv))


if __name__ == "__main__":
    console.run(main)
