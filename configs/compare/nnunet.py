"""ISA-Net with the paper's recipe and `strong`, as benchmarks/nnunet.py sets them beside nnU-Net.

    python -m benchmarks.nnunet --source DIR --cases cases/sts32 --workdir runs/nnunet --smoke

32^3 over the whole field, nested folds, and the same processor time for each method: `strong` is
an ensemble of eight networks, which share it. (On 21 patients a network of this size is at its best
after 40 to 60 epochs; what is left of the time is worth more in others that have seen other cases,
or the same otherwise: docs/benchmarks/search.md.)
"""

import copy

from isanet_jax.configs.compare.comparison import LABELS, add_method, comparison
from ml_collections import ConfigDict

from isanet_jax.configs import strong

SIZE = 32
CPU_MINUTES = 20.0
WIDTH = 8  # of all: of wider ones, too few steps fit into the time
# Four networks as `strong` is, each chosen on another of the four folds that are not tested on, and
# four that see the CT in two windows, one case at a time.
MEMBERS = ({},) * 4 + ({"data": {"ct_window": "both"}, "train": {"batch": 1}},) * 4


def get_config(options: str = "sts") -> ConfigDict:
    """The two recipes."""
    config = comparison("Ours beside nnU-Net, the same processor time", options)
    if config.dataset != "sts" or config.size != "full":
        raise ValueError(f"options {options!r}; it is for sts, in its one size")
    config.size = f"{SIZE}³"
    config.cpu_minutes = CPU_MINUTES
    config.base.data.cases = f"cases/sts{SIZE}"
    config.base.data.size = SIZE
    config.base.selection = "nested"
    add_method(config, "isa", LABELS["isa"], {"model": {"width": WIDTH}})
    recipe = copy.deepcopy(strong.RECIPE)
    recipe["model"]["width"] = WIDTH
    add_method(config, "strong", "strong", recipe, members=MEMBERS)
    config.reference = "strong"
    return config
