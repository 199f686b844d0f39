"""nnU-Net by its own recipe (2.8.1), and what the two systems built on it share.

Dice + cross-entropy on 128^3 patches, a third of them on the tumour, batch 2, deep supervision, SGD
with Nesterov momentum and a poly schedule over 1000 epochs of 250 steps; its augmentation; a
sliding window with half overlap and Gaussian weights, and the mean over the mirror images:

    isanet train --config own/nnunet --workdir runs/n0 --config.fold=0
    isanet eval --workdir runs/n0 --checkpoint latest

The CT is standardised by the training cases' tumours, and the checkpoint that it calls best is
chosen on drawn patches; what predicts in nnU-Net is the last one. Not as in nnU-Net: the patch and
the voxel size are the dataset's here, and are not planned from it.
"""

from isanet_jax.configs.recipe import with_recipe

SHARED = {
    "data": {"patch": 128},
    "augment": {
        "mixup_probability": 0.0,
        "rotation_probability": 0.2,
        "rotation_degrees": 30.0,
        "rotation_of_all_axes": True,
        "scaling_probability": 0.2,
        "mirror_probability": 1.0,
        "noise_probability": 0.1,
        "blur_probability": 0.2,
        "brightness_probability": 0.15,
        "contrast_probability": 0.15,
        "low_resolution_probability": 0.25,
        "inverted_gamma_probability": 0.1,
        "gamma_probability": 0.3,
    },
    "model": {"deep_supervision": True},
    "loss": {"name": "dice_ce"},
    "optimizer": {
        "name": "sgd",
        "schedule": "poly",
        "peak_learning_rate": 1e-2,
        "weight_decay": 3e-5,
        "clip_norm": 12.0,
    },
    "train": {"batch": 2, "epochs": 1000, "steps_per_epoch": 250, "validate_every": 10},
    "predict": {"mirror": True},
}
RECIPE = SHARED | {
    "data": SHARED["data"] | {"ct_window": "cohort"},
    "model": SHARED["model"] | {"name": "nnunet"},
    "train": SHARED["train"] | {"validate_every": 1, "validate_on": "patches"},
}


def get_config(dataset: str = ""):
    """The settings of a dataset with this recipe; see configs/recipe.py."""
    return with_recipe(RECIPE, dataset)
