"""nnU-Net, planned by its own rules from prepared cases: patch, levels, kernels, batch.

    isanet prepare table --source scans.csv --output cases/mine --fit whole --spacing-mm auto
    isanet train --config nnunet:cases/mine --workdir runs/n0 --config.fold=0
    isanet eval --workdir runs/n0 --checkpoint latest

cases/mine,resenc_m (or resenc_l, resenc_xl: 8, 24 and 40 GB) plans its network with a residual
encoder. The recipe is configs/own/nnunet.py's; --print-config shows the plan. As in nnU-Net,
patches of which one edge is a third of another are turned in the plane of their slices alone. Not
as in nnU-Net: where it would train a coarser stage first, that is not made.
"""

from isanet_jax.configs.own.nnunet import RECIPE
from isanet_jax.configs.recipe import with_recipe

from isanet_jax.cases.cohort import read_cohort
from isanet_jax.planning.nnunet import PRESETS, plan

_FLAT = 3  # times longer than another, an edge makes a patch one of slices


def get_config(options: str = ""):
    """The recipe with the plan of a folder of cases.

    Args:
        options: the folder, and after a comma a preset.

    Raises:
        ValueError: no folder, cases that were not prepared as `whole`.
        ConfigError, DataError: no such preset, no prepared cases.
    """
    folder, _, preset = options.partition(",")
    if not folder:
        raise ValueError(
            f"no cases to plan for; give their folder, as in configs/nnunet.py:cases/mine, and "
            f"after a comma one of {', '.join(PRESETS)}"
        )
    cohort = read_cohort(folder)
    settings, entries = cohort.settings, list(cohort.cases.values())
    if settings["fit"] != "whole":
        raise ValueError(
            f"the cases in {folder} were prepared with --fit {settings['fit']}; nnU-Net plans for "
            "--fit whole --spacing-mm auto"
        )
    shapes = [entry["shape"] for entry in entries]
    classes = tuple(settings["classes"])
    found = plan(entries[0]["spacing_mm"], shapes, classes=len(classes), preset=preset or "plain")
    config = with_recipe(RECIPE)
    config.data.cases, config.data.fit = folder, "whole"
    config.data.spacing_mm = settings["spacing_mm"]
    config.data.images = tuple(settings["images"])
    config.data.classes = classes
    config.data.patch = found.topology.patch
    config.model.name = PRESETS[preset or "plain"].system
    config.model.strides, config.model.kernels = found.topology.strides, found.topology.kernels
    config.loss.batch_dice = found.batch_dice
    config.train.batch = found.batch
    edges = found.topology.patch
    if max(edges) > _FLAT * min(edges):
        through = edges.index(min(edges))
        config.augment.rotation_degrees = tuple(180.0 * (axis == through) for axis in range(3))
    return config
