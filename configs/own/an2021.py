"""An et al., second of HECKTOR 2021: a cascade of three residual U-Nets, trained together.

The report gives no optimiser that could be confirmed: the paper's Adam at 1e-4 is kept. One
command trains all three networks:

    python train.py --config configs/own/an2021.py --workdir runs/an0
"""

from isanet_jax.configs import hecktor


def get_config():
    """The settings of configs/hecktor.py with this network and the paper's rate for it."""
    config = hecktor.get_config()
    config.model.name = "an2021"
    config.optimizer.peak_learning_rate = 1e-4
    return config
