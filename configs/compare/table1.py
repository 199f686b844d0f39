"""The paper's Table 1: ISA-Net on CT, on PET and on both.

    isanet compare --config compare/table1:sts --workdir runs/table1

The options after the colon are in comparison.py, beside this.
"""

from isanet_jax.configs.compare.comparison import NETWORK_METRICS, add_method, comparison
from isanet_jax.configs.compare.published import TABLE_1
from ml_collections import ConfigDict


def get_config(options: str = "") -> ConfigDict:
    """ISA-Net on CT, on PET and on both."""
    inputs = {"ct": ("CT", ("ct",)), "pet": ("PET", ("pet",)), "isa": ("PET+CT", ("ct", "pet"))}
    config = comparison("Table 1: input modalities", options)
    for name, (label, modalities) in inputs.items():
        printed = dict(zip(NETWORK_METRICS, TABLE_1[config.dataset][name], strict=True))
        add_method(config, name, label, {"model": {"modalities": modalities}}, published=printed)
    return config
