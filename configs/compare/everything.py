r"""The methods of the paper's tables and this project's, each for the same processor time.

    python -m benchmarks.nnunet --config compare/everything:sts,smoke \
        --source DIR --cases cases/sts32 --workdir runs/everything --minutes 5 --jobs 2

sets nnU-Net itself beside them: docs/evidence/nnunet.md. compare.py takes the config, too. The
systems of the challenges and `nnunet` train by the paper's loop; the options are in comparison.py.
"""

import copy

from isanet_jax.configs.compare.comparison import (
    ALL_METRICS,
    LABELS,
    add_method,
    comparison,
    papers_loop,
)
from isanet_jax.configs.compare.published import TABLE_2, TABLE_3
from ml_collections import ConfigDict

from isanet_jax.configs import strong

CPU_MINUTES = 60.0
SMOKE_WIDTH = 8  # of `strong`, half of its own


def get_config(options: str = "sts") -> ConfigDict:
    """Tables 2 and 3, nnU-Net's network, and `strong`; nested folds."""
    config = comparison("All methods, the same processor time", options)
    config.cpu_minutes = CPU_MINUTES
    config.base.selection = "nested"
    config.thresholds = True
    figures = TABLE_3[config.dataset] | TABLE_2[config.dataset]
    for name, values in figures.items():
        printed = dict(zip(ALL_METRICS, values, strict=False))
        add_method(config, name, LABELS[name], papers_loop(name), published=printed)
    add_method(config, "nnunet", "nnU-Net's network", {"model": {"name": "nnunet"}})
    add_method(config, "strong", "strong", {})
    config.methods.strong.settings = ConfigDict(copy.deepcopy(strong.RECIPE))  # as it is
    if config.size == "smoke":
        config.methods.strong.settings.model.width = SMOKE_WIDTH
    config.reference = "strong"
    return config
