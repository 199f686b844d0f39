"""ISA-Net with the paper's recipe and `strong`, as benchmarks/nnunet.py sets them beside nnU-Net.

    python -m benchmarks.nnunet --source DIR --cases cases/sts32 --workdir runs/nnunet --smoke

32^3 over the whole field, and the same processor time for each method: `strong` is an ensemble of
networks, which share it, 2.5 minutes each: eight in 20 minutes (`:sts,20`), fewer where a processor
makes less than 60 epochs in them. After these a network of this size is at its best; what is left
of the time is worth more in others that see the cases otherwise. As nnU-Net, its networks train on
all that is not tested, and keep the last average of their weights: a fold to choose a checkpoint by
is worth more as cases to learn from (docs/evidence/search.md;
--config.methods.strong.settings.selection=nested is what was before). `isa` chooses its checkpoint
by a fold, as the paper does: its rate may be high where its time ends.
"""

import copy

from isanet_jax.configs.compare.comparison import LABELS, add_method, comparison
from ml_collections import ConfigDict

from isanet_jax.configs import strong

SIZE = 32
WIDTH = 8  # of all: of wider ones, too few steps fit into the time
NETWORK_MINUTES, LEAST_EPOCHS = 2.5, 60
# Half of the ensemble is as `strong` is, half sees the CT in two windows, one case at a time.
WIDE, TWO_WINDOWS = {}, {"data": {"ct_window": "both"}, "train": {"batch": 1}}


def get_config(options: str = "sts,20") -> ConfigDict:
    """The two recipes, with so many minutes of the processor a training."""
    dataset, _, minutes = options.partition(",")
    minutes = minutes or "20"
    if dataset != "sts" or not minutes.replace(".", "", 1).isdigit():
        raise ValueError(f"options {options!r}; it is for sts and minutes: 'sts,20'")
    config = comparison("Ours beside nnU-Net, the same processor time", dataset)
    config.size = f"{SIZE}³"
    config.cpu_minutes = float(minutes)
    networks = max(1, round(config.cpu_minutes / NETWORK_MINUTES))
    members = ((WIDE, TWO_WINDOWS) * networks)[:networks]
    config.base.data.cases = f"cases/sts{SIZE}"
    config.base.data.size = SIZE
    config.base.selection = "nested"
    add_method(config, "isa", LABELS["isa"], {"model": {"width": WIDTH}})
    recipe = copy.deepcopy(strong.RECIPE)
    recipe["model"]["width"] = WIDTH
    recipe["selection"] = "none"
    add_method(config, "strong", "strong", recipe, members=members, least_epochs=LEAST_EPOCHS)
    config.reference = "strong"
    return config
