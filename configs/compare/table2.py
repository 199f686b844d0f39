"""The paper's Table 2: the attention modules on one backbone, and V-Net.

    isanet compare --config compare/table2:sts --workdir runs/table2

The options after the colon are in comparison.py, beside this.
"""

from isanet_jax.configs.compare.comparison import ALL_METRICS, LABELS, add_method, comparison
from isanet_jax.configs.compare.published import TABLE_2
from ml_collections import ConfigDict


def get_config(options: str = "") -> ConfigDict:
    """The attention modules on one backbone, and V-Net."""
    config = comparison("Table 2: attention modules", options)
    config.thresholds = True
    for name, figures in TABLE_2[config.dataset].items():
        printed = dict(zip(ALL_METRICS, figures, strict=True))
        add_method(config, name, LABELS[name], {"model": {"name": name}}, published=printed)
    return config
