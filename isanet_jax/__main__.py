"""`python -m isanet_jax NAME`: the command `isanet`, where it is not on the path."""

from isanet_jax.cli import main

if __name__ == "__main__":
    main()
