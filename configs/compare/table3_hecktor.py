"""The paper's Table 3 (systems of the HECKTOR challenges) on HECKTOR.

    python compare.py --config configs/compare/table3_hecktor.py --workdir runs/table3_hecktor

--config configs/compare/table3_hecktor.py:smoke is a size for two CPU
cores. See paper.py beside this.
"""

from isanet_jax.configs.compare import paper


def get_config(options: str = ""):
    """The comparison; see configs/compare/paper.py for the options."""
    return paper.table3("hecktor", options)
