"""The networks of the model `sarcoma` that comes with the package: `make model` trains them.

    isanet train --config sarcoma --workdir runs/sarcoma0 --config.seed=0

`strong`, small enough for a package, on the public sarcomas. The field is cut at random, so that
the networks do not rely on where the public copy ends. `sarcoma:soft` is shown the CT in the
soft-tissue window, too; a model is two of each.
"""

from isanet_jax.configs.recipe import with_recipe

from isanet_jax.configs import strong

SIZE = 32


def get_config(form: str = ""):
    """The settings; of a form, "" or "soft"."""
    if form not in ("", "soft"):
        raise ValueError(f"no form {form!r}; sarcoma or sarcoma:soft")
    config = with_recipe(strong.RECIPE, "sts")
    config.data.cases, config.data.size = f"cases/sts{SIZE}", SIZE
    config.model.width = 8
    config.augment.crop_probability, config.augment.crop_share = 0.7, 0.3
    config.train.epochs, config.selection, config.fold = 70, "none", "all"
    if form:
        config.data.ct_window, config.train.batch = "both", 1
    return config
