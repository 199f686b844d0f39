"""ISA-Net on T1-weighted MRI, on PET/CT and on all three, for the 34 patients that have them.

    isanet prepare sts --source DIR --output cases/sts_mr --images ct,pet,mr_t1 --skip-bad \
        --fit whole --spacing-mm 2
    isanet compare --config compare/sts_mr --workdir runs/sts_mr

The paper has no such table. sts_mr.py:sts,smoke is a size for two CPU cores, of cases that are made
with `--fit resize --size 32 --output cases/sts_mr32`.
"""

from isanet_jax.configs.compare.comparison import SMOKE_SEEDS, add_method, comparison
from ml_collections import ConfigDict

from isanet_jax.configs import sts_mr


def get_config(options: str = "sts") -> ConfigDict:
    """ISA-Net on T1, on PET/CT and on all three."""
    config = comparison("T1-weighted MRI beside PET/CT", options)
    if config.dataset != "sts":
        raise ValueError(f"options {options!r}; of the cohorts, only sts has MRI")
    images = ("ct", "pet", "mr_t1")
    if config.size == "smoke":
        config.base.data.cases = "cases/sts_mr32"
        config.base.data.images = images
        config.folds, config.seeds = (0, 1), SMOKE_SEEDS
    else:
        config.base = sts_mr.get_config()
    for name, label, modalities in (
        ("t1", "T1", ("mr_t1",)),
        ("pet_ct", "PET+CT", ("ct", "pet")),
        ("isa", "PET+CT+T1", images),
    ):
        add_method(config, name, label, {"model": {"modalities": modalities}})
    return config
