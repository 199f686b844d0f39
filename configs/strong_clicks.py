"""`strong`, for a network that also takes a reader's clicks.

    isanet train --config strong_clicks:sts --workdir runs/c0

In training, clicks are drawn from the network's own errors; each sample is learnt from without and
with them, so that a step takes twice as long. The model predicts without clicks as others do, and
with them in `isanet label`, `isa.load(...).predict(..., clicks=...)` and exported (`--clicks`).
"""

from isanet_jax.configs.recipe import with_recipe

from isanet_jax.configs import strong


def get_config(dataset: str = ""):
    """The settings of a dataset with this recipe."""
    config = with_recipe(strong.RECIPE, dataset)
    config.data.guidance = "clicks"
    return config
