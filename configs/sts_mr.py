r"""ISA-Net on CT, PET and T1-weighted MRI: the 34 sarcoma patients that have all three.

A branch for each image. The patient's body in voxels of 2 mm, in patches:

    isanet prepare sts --source DIR --output cases/sts_mr --images ct,pet,mr_t1 \
        --fit whole --spacing-mm 2 --skip-bad
    isanet train --config sts_mr --workdir runs/mr0 --config.fold=0
    isanet eval --workdir runs/mr0

--config.model.modalities="('mr_t1',)" sees the MRI alone. Not run at this size yet.
"""

from isanet_jax.configs import hecktor


def get_config():
    """The settings of configs/hecktor.py with three images, in patches."""
    config = hecktor.get_config()
    config.data.cases = "cases/sts_mr"
    config.data.images = ("ct", "pet", "mr_t1")
    config.data.fit = "whole"
    config.data.spacing_mm = 2.0
    config.data.patch = 96
    config.train.steps_per_epoch = 100
    return config
