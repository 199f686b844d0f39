"""ISA-Net on whole bodies (autoPET, nnU-Net's raw format), in patches.

    isanet prepare nnunet --source DIR --output cases/autopet --fit whole --spacing-mm 2 2 3
    isanet train --config autopet --workdir runs/a0 --config.fold=0
    isanet eval --workdir runs/a0

Not run on autoPET yet.
"""

from isanet_jax.configs import hecktor


def get_config():
    """The settings of configs/hecktor.py for bodies of any size."""
    config = hecktor.get_config()
    config.data.cases = "cases/autopet"
    config.data.fit = "whole"
    config.data.spacing_mm = (2.0, 2.0, 3.0)  # right-left, front-back, feet-head
    config.data.patch = 128
    config.augment.patch_beyond = 0.25  # else the sides of the field are hardly seen
    # Two thirds of the patches lie anywhere, most of them without a lesion.
    config.train.batch = 2
    config.loss.batch_dice = True
    config.train.steps_per_epoch = 250
    config.train.validate_every = 10  # a whole body takes a hundred windows
    return config
