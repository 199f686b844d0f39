"""Synthetic whole bodies, with lesions of two classes: patches in 25 minutes on 2 cores.

It makes the phantoms where they are missing; nothing has to be downloaded.

    isanet train --config body --workdir runs/body
    isanet eval --workdir runs/body
"""

from isanet_jax.configs import hecktor


def get_config():
    """The settings of configs/hecktor.py, smaller, for bodies of any size."""
    config = hecktor.get_config()
    config.data.cases = "cases/body"
    config.data.classes = ("soft", "bone")
    config.data.fit = "whole"
    config.data.spacing_mm = 4.0
    config.data.patch = 48
    config.data.ct_window = "cohort"  # soft tissues that the wide window shows as one
    config.data.phantoms = 60
    # Nested: the reported phantoms are neither trained on nor used to choose the checkpoint.
    config.selection = "nested"
    config.model.name = "unet"
    config.model.width = 8
    config.model.levels = 4
    config.loss.name = "dice_ce"
    config.augment.mixup_probability = 0.0
    config.augment.tumour_patch_probability = 0.5
    config.augment.patch_beyond = 0.25  # arms and shoulders lie at the field's sides
    config.optimizer.peak_learning_rate = 2e-3
    config.optimizer.schedule = "poly"
    config.train.epochs = 20
    config.train.steps_per_epoch = 120
    config.train.validate_every = 20  # a validation takes as long as two epochs
    return config
