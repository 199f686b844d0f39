"""Xie et al., third of HECKTOR 2020, by its own recipe: nnU-Net with scSE.

isanet train --config own/xie2020 --workdir runs/x0
"""

from isanet_jax.configs.own import nnunet
from isanet_jax.configs.recipe import with_recipe

RECIPE = {**nnunet.SHARED, "model": {**nnunet.SHARED["model"], "name": "xie2020"}}


def get_config(dataset: str = ""):
    """The settings of a dataset with this recipe; see configs/recipe.py."""
    return with_recipe(RECIPE, dataset)
