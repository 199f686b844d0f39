"""Steps of the default recipe, as they were: a change of any number in them is noticed.

`golden/step.json` is what `python -m tests.training.test_golden_step` prints. It may be made again
only by a change that means to change training: then the changelog says that runs differ.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from isanet_jax.distributed.mesh import make_mesh
from isanet_jax.network import systems
from isanet_jax.pipeline.dataset import training_data
from isanet_jax.pipeline.inputs import make_inputs
from isanet_jax.settings import Config, changed
from isanet_jax.training.optimizer import make_optimizer, make_schedule
from isanet_jax.training.step import init_state, make_train_step

GOLDEN = Path(__file__).parents[1] / "golden" / "step.json"
STEPS = 4
# All else is the default: loss, optimiser, augmentation, ISA and its readings.
SMALL = {"data.size": 16, "data.spacing_mm": 12.0, "model.width": 2, "model.levels": 2}


def steps(cohort):
    """The losses of the first steps, and digests of the batch and of the parameters after them."""
    config = changed(Config(), SMALL)
    cases = sorted(cohort.cases)
    inputs = make_inputs(config, cohort, cases)
    optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 300, len(cases)))
    graphdef, state = init_state(systems.of_config(config), optimizer, config.seed)
    step = make_train_step(graphdef, optimizer, make_mesh(1, 1), inputs, loss=config.loss)
    batches = iter(
        training_data(cohort, cases, inputs, batch=1, seed=config.seed, augment=config.augment)
    )
    losses, order = [], []
    for _ in range(STEPS):
        batch = next(batches)
        order.append([int(batch["case"][0]), int(batch["partner"][0])])
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    leaves = jax.tree.leaves(jax.device_get(state.params))
    total = sum(float(np.abs(leaf).sum()) for leaf in leaves)
    return {"losses": losses, "cases_and_partners": order, "parameters": total}


def test_the_default_recipe_trains_as_it_did(cohort):
    found, expected = steps(cohort), json.loads(GOLDEN.read_text())
    assert found["cases_and_partners"] == expected["cases_and_partners"]
    # Processors round differently.
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    assert found["parameters"] == pytest.approx(expected["parameters"], rel=1e-5)


if __name__ == "__main__":
    import tempfile

    from isanet_jax.cases.cohort import read_cohort
    from isanet_jax.cases.prepare_cohort import prepare_phantoms

    with tempfile.TemporaryDirectory() as folder:
        prepare_phantoms(folder, cases=6, size=16, seed=1, folds=3)
        print(json.dumps(steps(read_cohort(folder)), indent=1))
