"""Xie and Peng, first of HECKTOR 2021, by its own recipe: nnU-Net with SE-Norm.

The mean of the five folds' probabilities is the prediction:

    for k in 0 1 2 3 4; do
      isanet train --config own/xie2021 --workdir runs/x$k --config.fold=$k
    done
    isanet predict --workdir runs/x0 runs/x1 runs/x2 runs/x3 runs/x4 --table scans.csv \
      --output masks
"""

from isanet_jax.configs.own import nnunet
from isanet_jax.configs.recipe import with_recipe

RECIPE = {**nnunet.SHARED, "model": {**nnunet.SHARED["model"], "name": "xie2021"}}


def get_config(dataset: str = ""):
    """The settings of a dataset with this recipe; see configs/recipe.py."""
    return with_recipe(RECIPE, dataset)
