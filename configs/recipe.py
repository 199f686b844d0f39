"""Recipes: what a system's own training changes in a dataset's settings. No config by itself."""

import copy

from isanet_jax.configs import hecktor, hecktor22, sts

DATASETS = {"hecktor": hecktor, "hecktor22": hecktor22, "sts": sts}


def with_recipe(recipe: dict, dataset: str = ""):
    """A dataset's settings with a recipe laid over them.

    Args:
        recipe: section -> setting -> value.
        dataset: a name of `DATASETS`; "": hecktor. On the command line it follows a colon, as in
            --config own/xie2021:sts.

    Raises:
        ValueError: no such dataset.
    """
    name = dataset or "hecktor"
    if name not in DATASETS:
        raise ValueError(f"no dataset {name!r}; choose from {', '.join(DATASETS)}")
    config = DATASETS[name].get_config()
    for section, settings in recipe.items():
        config[section].update(copy.deepcopy(settings))
    return config
