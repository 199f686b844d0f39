"""Our plans against nnU-Net's own planner's (nnunet_plans.json; nnunet_plans.py makes it)."""

import json

import numpy as np
import pytest

from isanet_jax.errors import ConfigError
from isanet_jax.network.systems import SYSTEMS, ShapesOnly, resolve
from isanet_jax.planning.nnunet import PRESETS, feature_values, plan, topology
from tests.planning.nnunet_plans import CLASSES, PLANS, cohorts

THEIRS = json.loads(PLANS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", THEIRS)
def test_plans_are_those_of_nnunets_planner(name):
    cohort, preset = name.split()
    theirs = THEIRS[name]
    spacings, shapes = cohorts()[cohort]
    # As nnU-Net resamples: each case to whole voxels of the target spacing.
    resampled = np.rint(spacings / theirs["spacing_mm"] * shapes).astype(int)
    ours = plan(theirs["spacing_mm"], resampled, classes=CLASSES, preset=preset)
    assert list(ours.topology.patch) == theirs["patch"]
    assert [list(stride) for stride in ours.topology.strides] == theirs["strides"]
    assert [list(kernel) for kernel in ours.topology.kernels] == theirs["kernels"]
    assert (ours.batch, ours.batch_dice) == (theirs["batch"], theirs["batch_dice"])
    if theirs["coarser_mm"] is None:
        assert ours.coarser_mm is None
    else:
        np.testing.assert_allclose(ours.coarser_mm, theirs["coarser_mm"])


def test_the_cohorts_take_every_turn_of_the_planner():
    """Coarse axes, a coarser stage and none, batches above two, patches of all proportions."""
    assert any(plan["coarser_mm"] for plan in THEIRS.values())
    assert any(plan["batch"] > 2 for plan in THEIRS.values())
    assert any([1, 3, 3] in plan["kernels"] for plan in THEIRS.values())
    assert any([3, 3, 1] in plan["kernels"] for plan in THEIRS.values())
    assert any(plan["coarser_mm"] is None for plan in THEIRS.values())


def test_nnunets_own_count_of_a_residual_network():
    """Its source says 558,319,104 for a patch of 128^3 with three outputs and deep supervision."""
    found = topology((1, 1, 1), (128, 128, 128))
    coarser = 3 * sum((128 // 2**level) ** 3 for level in range(1, 5))  # its other outputs
    assert feature_values(found, "nnunet_resenc", 3) + coarser == 558_319_104


@pytest.mark.parametrize("preset", PRESETS)
def test_a_plan_is_a_network(preset):
    spacings, shapes = cohorts()["anisotropic"]
    found = plan(np.median(spacings, 0), shapes, classes=1, preset=preset)
    settings = {
        "name": PRESETS[preset].system,
        "strides": found.topology.strides,
        "kernels": found.topology.kernels,
    }
    config = resolve(found.topology.patch, settings)
    SYSTEMS[config.name].make(config, rngs=ShapesOnly())
    assert config.levels == len(found.topology.strides)


def test_a_preset_that_there_is_not():
    with pytest.raises(ConfigError, match="no preset 'huge'; choose from plain, resenc_m"):
        plan((1, 1, 1), [(64, 64, 64)], classes=1, preset="huge")
