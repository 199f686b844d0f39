"""A run's settings: one table declares them, and they are read from it once, as frozen parts."""

from isanet_jax.settings.read import changed, defaults, read, read_stored, to_dict
from isanet_jax.settings.table import Config

__all__ = ["Config", "changed", "defaults", "read", "read_stored", "to_dict"]
