"""The demo: a small ISA-Net on synthetic patients, in minutes on two CPU cores.

It makes the phantoms where they are missing; nothing has to be downloaded.

    isanet train --config phantom --workdir runs/demo
    isanet eval --workdir runs/demo
"""

from isanet_jax.configs import hecktor


def get_config():
    """The settings of configs/hecktor.py, smaller and with a faster schedule."""
    config = hecktor.get_config()
    config.data.cases = "cases/phantom"
    config.data.size = 32
    config.data.spacing_mm = 6.0
    config.data.phantoms = 24
    # Nested: the reported phantoms are neither trained on nor used to choose the checkpoint.
    config.selection = "nested"
    config.model.width = 8
    config.optimizer.peak_learning_rate = 1e-3
    config.train.epochs = 18
    config.train.validate_every = 3
    return config
