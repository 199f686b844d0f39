r"""What it is worth to start from a trained network, where there are few patients of one's own.

    isanet bundle --workdir runs/demo --output phantoms.isanet
    isanet prepare table --source eight.csv --output cases/eight --fit resize --size 32
    isanet compare --config compare/finetune:phantoms.isanet \
        --config.base.data.cases=cases/eight --workdir runs/finetune

The table's column `fold` says who is tested on (0), who chooses the checkpoint (1), and who is
trained on (2). The network must be the one that is started from: `nnunet`, width 8.
"""

import copy

from isanet_jax.configs.compare.comparison import add_method, comparison
from isanet_jax.configs.compare.search import START
from ml_collections import ConfigDict


def get_config(model: str = "") -> ConfigDict:
    """From drawn parameters, and from a model's."""
    if not model:
        raise ValueError("say what to start from: --config compare/finetune:MODEL")
    config = comparison("Starting from a trained network", "sts")
    config.size = "32³"
    config.folds, config.seeds = (0,), (0, 1, 2)
    config.reference = "drawn"
    config.base.data.size = 32
    config.base.selection = "nested"
    for section, settings in START.items():
        config.base[section].update(copy.deepcopy(settings))
    config.base.train.update({"epochs": 60, "steps_per_epoch": 10, "validate_every": 2})
    add_method(config, "drawn", "drawn parameters", {})
    add_method(config, "started", "a trained network's", {"init": model})
    return config
