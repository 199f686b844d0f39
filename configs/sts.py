"""ISA-Net on the soft-tissue sarcoma cohort: the whole field resized to 144^3.

The paper reports a mean DSC of 0.8378 over five folds (Table 2). 14 of the 51 tumours are longer
than 144 mm, so its "1 mm and 144^3" cannot both hold; here the field of view is kept.

    isanet prepare sts --source DIR --output cases/sts
    isanet train --config sts --workdir runs/s0 --config.fold=0
    isanet eval --workdir runs/s0
"""

from isanet_jax.configs import hecktor


def get_config():
    """The settings of configs/hecktor.py with another source."""
    config = hecktor.get_config()
    config.data.cases = "cases/sts"
    config.data.fit = "resize"
    return config
