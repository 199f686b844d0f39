"""The recipe that this project recommends, as docs/evidence/search.md found it.

    isanet prepare sts --source DIR --output cases/sts144
    isanet train --config strong:sts --workdir runs/s0 --config.fold=0
    isanet eval --workdir runs/s0

For any network (--config.model.name=isa) and dataset (strong.py:hecktor22), see configs/recipe.py.
"""

from isanet_jax.configs.recipe import with_recipe

RECIPE = {
    "model": {"name": "nnunet", "width": 16, "deep_supervision": True, "prior": 0.05},
    "loss": {"name": "dice_ce"},
    "augment": {
        "mixup_probability": 0.0,
        "rotation_degrees": 30.0,
        "scaling_probability": 0.2,
    },
    "optimizer": {
        "name": "adamw",
        "schedule": "cosine",
        "peak_learning_rate": 2e-3,
        "weight_decay": 1e-2,
        "clip_norm": 12.0,
        "warmup_epochs": 1,
        "average": 0.98,
    },
    "train": {"batch": 2},
    "predict": {"mirror": True},
}


def get_config(dataset: str = ""):
    """The settings of a dataset with this recipe."""
    return with_recipe(RECIPE, dataset)
