r"""`strong` on phantoms of two classes, a primary tumour and lymph nodes as in HECKTOR 2022, beside
nnU-Net.

    isanet prepare phantom --kind nodes --cases 40 --output cases/nodes48
    python -m benchmarks.nnunet --config compare/nodes --minutes 20 \
        --source cases/nodes48/scans/cases.csv --cases cases/nodes48 --workdir runs/nodes

docs/evidence/nnunet.md has what came of it.
"""

import copy

from isanet_jax.configs.compare.comparison import add_method, comparison
from ml_collections import ConfigDict

from isanet_jax.configs import hecktor22, strong

SIZE = 48
CPU_MINUTES = 20.0
WIDTH = 8  # half of its own
NETWORKS = 2  # 10 minutes each: they still improve after 5


def get_config(options: str = "") -> ConfigDict:
    """`strong` with the settings of configs/hecktor22.py."""
    if options:
        raise ValueError(f"options {options!r}; it has none")
    config = comparison("A tumour and its nodes, the same processor time")
    config.dataset = "phantoms"
    config.base = hecktor22.get_config()
    config.base.data.cases = f"cases/nodes{SIZE}"
    config.base.data.size = SIZE
    config.base.data.spacing_mm = 4.0  # of the whole field
    # Muscle and tumours differ by 40 HU, which the wide window of 2,048 does not show.
    config.base.data.ct_window = "cohort"
    config.base.selection = "nested"
    config.size = f"{SIZE}³"
    config.cpu_minutes = CPU_MINUTES
    recipe = copy.deepcopy(strong.RECIPE)
    recipe["model"]["width"] = WIDTH
    recipe["train"]["batch"] = 1  # more steps in the time
    recipe["loss"]["batch_dice"] = False
    add_method(config, "strong", "strong", recipe, members=({},) * NETWORKS)
    config.reference = "strong"
    return config
