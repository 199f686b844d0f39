"""ISA-Net on HECKTOR 2022 and later: primary tumours (GTVp) and lymph nodes (GTVn), two classes.

    isanet prepare hecktor --source DIR --output cases/hecktor22 --classes gtvp=1 gtvn=2
    isanet train --config hecktor22 --workdir runs/h22 --config.fold=0
    isanet eval --workdir runs/h22

The evaluation has the aggregated DSC of each class and their mean, as the challenge ranks.
Not run on the challenge's data yet, which is gated.
"""

from isanet_jax.configs import hecktor


def get_config():
    """The settings of configs/hecktor.py with two classes."""
    config = hecktor.get_config()
    config.data.cases = "cases/hecktor22"
    config.data.classes = ("gtvp", "gtvn")
    # Patients without nodes are common: alone, each would count 1 for them in the Dice loss.
    config.loss.batch_dice = True
    return config
