"""ISA-Net on the sarcoma cohort in two grids: patches of one voxel size, and the field resized.

    isanet prepare sts --source DIR --output cases/sts96 --fit resize --size 96
    isanet prepare sts --source DIR --output cases/sts_2mm --fit whole --spacing-mm 2
    isanet compare --config compare/fits --workdir runs/fits

Either sees 96^3 voxels in a step. fits.py:sts,smoke is a size for two CPU cores: 48^3 voxels, and 4
mm (`--size 48 --output cases/sts48`, `--spacing-mm 4 --output cases/sts_4mm`).
"""

from isanet_jax.configs.compare.comparison import add_method, comparison
from ml_collections import ConfigDict


def get_config(options: str = "sts") -> ConfigDict:
    """Patches of whole cases beside resized ones."""
    config = comparison("Whole cases in patches, and resized", options)
    if config.dataset != "sts":
        raise ValueError(f"options {options!r}; of the cohorts, it is for sts")
    is_smoke = config.size == "smoke"
    size, spacing_mm = (48, 4.0) if is_smoke else (96, 2.0)
    if is_smoke:
        config.folds = (0, 1)
    config.base.data.size = size  # of what the networks see
    config.base.train.steps_per_epoch = 0  # each case once, of either grid
    resized = {"cases": f"cases/sts{size}", "fit": "resize", "size": size}
    whole = {"cases": f"cases/sts_{spacing_mm:g}mm", "fit": "whole", "spacing_mm": spacing_mm}
    add_method(config, "isa", f"resized to {size}³", {})
    add_method(config, "whole", f"{spacing_mm:g} mm, {size}³ patches", {})
    config.methods.isa.settings = ConfigDict({"data": resized})
    config.methods.whole.settings = ConfigDict({"data": whole | {"patch": size}})
    return config
