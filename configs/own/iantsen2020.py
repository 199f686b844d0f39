"""Iantsen et al., winner of HECKTOR 2020, by its own recipe: residual U-Net with SE-Norm.

Trained on four leave-one-centre-out and four random splits; the mean of the eight probabilities is
the prediction. Epochs, batch and learning rates are those of the public configuration
(github.com/iantsen/hecktor, config/model_train.yaml).

    isanet train --config own/iantsen2020 --workdir runs/i0 --config.fold_by=centre
    isanet train --config own/iantsen2020 --workdir runs/i4 --config.fold=0
    isanet predict --workdir runs/i0 runs/i4 ... --table scans.csv --output masks
"""

from isanet_jax.configs.recipe import with_recipe

RECIPE = {
    "model": {"name": "iantsen2020"},
    # Dice with squared denominator, plus the focal loss without alpha: 2 x alpha 0.5.
    "loss": {"dice_squared": True, "dice_smooth": 1.0, "focal_weight": 2.0},
    "optimizer": {"peak_learning_rate": 1e-3, "floor_learning_rate": 1e-5},
    "train": {"batch": 1, "epochs": 300},
    "augment": {"mixup_probability": 0.0},
}


def get_config(dataset: str = ""):
    """The settings of a dataset with this recipe; see configs/recipe.py."""
    return with_recipe(RECIPE, dataset)
