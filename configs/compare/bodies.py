r"""`strong` in patches on whole bodies made up, with lesions of two classes, beside nnU-Net.

    python prepare.py phantom --kind body --cases 25 --output cases/bodies
    python -m benchmarks.nnunet --config configs/compare/bodies.py --patch 48 --minutes 30 \
        --folds 0 --source cases/bodies/scans/cases.csv --cases cases/bodies --workdir runs/bodies

docs/benchmarks/sts.md has what came of it.
"""

import copy

from isanet_jax.configs.compare.comparison import add_method, comparison
from ml_collections import ConfigDict

from isanet_jax.configs import body, strong

CPU_MINUTES = 30.0  # in 5, neither learns anything
WIDTH = 8  # half of its own


def get_config(options: str = "") -> ConfigDict:
    """`strong` on the cases of configs/body.py."""
    if options:
        raise ValueError(f"options {options!r}; it has none")
    config = comparison("Two classes in whole bodies, the same processor time")
    config.dataset = "phantoms"
    config.base = body.get_config()
    config.base.data.cases = "cases/bodies"
    config.size = f"{config.base.data.patch}³ patches"
    config.cpu_minutes = CPU_MINUTES
    # Five validations on whole bodies would take most of the time.
    config.base.train.validate_on = "patches"
    config.base.train.steps_per_epoch = 0
    recipe = copy.deepcopy(strong.RECIPE)
    recipe["model"] |= {"width": WIDTH, "levels": config.base.model.levels}
    add_method(config, "strong", "strong", recipe)
    config.reference = "strong"
    return config
