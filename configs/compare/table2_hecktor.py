"""The paper's Table 2 (attention modules) on HECKTOR.

    python compare.py --config configs/compare/table2_hecktor.py --workdir runs/table2_hecktor

--config configs/compare/table2_hecktor.py:smoke is a size for two CPU
cores. See paper.py beside this.
"""

from isanet_jax.configs.compare import paper


def get_config(options: str = ""):
    """The comparison; see configs/compare/paper.py for the options."""
    return paper.table2("hecktor", options)
