"""The paper's Fig. 6 (weights of PET and CT) on HECKTOR.

    python compare.py --config configs/compare/fig6_hecktor.py --workdir runs/fig6_hecktor

--config configs/compare/fig6_hecktor.py:smoke is a size for two CPU
cores. See paper.py beside this.
"""

from isanet_jax.configs.compare import paper


def get_config(options: str = ""):
    """The comparison; see configs/compare/paper.py for the options."""
    return paper.fig6("hecktor", options)
