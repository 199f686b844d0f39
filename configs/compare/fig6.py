"""The paper's Fig. 6: the weights of PET and CT in the decoder's fusion.

    isanet compare --config compare/fig6:sts --workdir runs/fig6

The options after the colon are in comparison.py, beside this.
"""

from isanet_jax.configs.compare.comparison import add_method, comparison
from ml_collections import ConfigDict


def get_config(options: str = "") -> ConfigDict:
    """The weights of PET and CT in the decoder's fusion, alpha = w_PET / w_CT."""
    weights = {  # (CT, PET)
        "alpha_0": ("0", (1.0, 0.0)),
        "alpha_half": ("0.5", (1.0, 0.5)),
        "isa": ("1", (1.0, 1.0)),
        "alpha_2": ("2", (0.5, 1.0)),
        "alpha_inf": ("∞", (0.0, 1.0)),
    }
    config = comparison("Fig. 6: weights of PET and CT in the fusion", options)
    config.curve = "α = w_PET / w_CT"
    for name, (label, pair) in weights.items():
        add_method(config, name, f"α = {label}", {"model": {"fusion_weights": pair}})
    return config
