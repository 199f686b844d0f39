"""The paper's Table 3: the systems of the HECKTOR challenges.

    isanet compare --config compare/table3:sts --workdir runs/table3

The options after the colon are in comparison.py, beside this.
"""

import copy
import importlib

from isanet_jax.configs.compare.comparison import (
    LABELS,
    NETWORK_METRICS,
    add_method,
    comparison,
    papers_loop,
)
from isanet_jax.configs.compare.published import TABLE_3
from ml_collections import ConfigDict

OWN = ("iantsen2020", "xie2020", "xie2021", "an2021")  # systems with a file in configs/own


def get_config(options: str = "") -> ConfigDict:
    """The systems of the HECKTOR challenges; Adam at 1e-4, xie2021 with SGD at 1e-3."""
    config = comparison("Table 3: systems of the HECKTOR challenges", options)
    for name, figures in TABLE_3[config.dataset].items():
        printed = dict(zip(NETWORK_METRICS, figures, strict=True))
        is_own = config.recipe == "own" and name in OWN
        settings = _own_recipe(name) if is_own else papers_loop(name)
        add_method(config, name, LABELS[name], settings, published=printed)
    return config


def _own_recipe(name):
    """What a system's own recipe changes in the settings."""
    return copy.deepcopy(importlib.import_module(f"isanet_jax.configs.own.{name}").RECIPE)
