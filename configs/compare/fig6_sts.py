"""The paper's Fig. 6 (weights of PET and CT) on the soft-tissue sarcoma cohort.

    python compare.py --config configs/compare/fig6_sts.py --workdir runs/fig6_sts

--config configs/compare/fig6_sts.py:smoke is a size for two CPU
cores. See paper.py beside this.
"""

from isanet_jax.configs.compare import paper


def get_config(options: str = ""):
    """The comparison; see configs/compare/paper.py for the options."""
    return paper.fig6("sts", options)
