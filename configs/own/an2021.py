"""An et al., second of HECKTOR 2021: a cascade of three residual U-Nets, trained together.

The report gives no optimiser that could be confirmed: the paper's Adam at 1e-4 is kept. One
command trains all three networks:

    isanet train --config own/an2021 --workdir runs/an0
"""

from isanet_jax.configs.recipe import with_recipe

RECIPE = {"model": {"name": "an2021"}, "optimizer": {"peak_learning_rate": 1e-4}}


def get_config(dataset: str = ""):
    """The settings of a dataset with this recipe; see configs/recipe.py."""
    return with_recipe(RECIPE, dataset)
