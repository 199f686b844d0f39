"""Xie et al., third of HECKTOR 2020, by its own recipe: nnU-Net with scSE.

python train.py --config configs/own/xie2020.py --workdir runs/x0
"""

from isanet_jax.configs.own import nnunet


def get_config():
    """nnU-Net's recipe with this network."""
    config = nnunet.get_config()
    config.model.name = "xie2020"
    return config
