"""The same processor time for all methods of a comparison."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from isanet_jax.cases.case import read_case
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.comparison import budget
from isanet_jax.comparison.cell import run_cell
from isanet_jax.comparison.grid import make_cells
from isanet_jax.comparison.resources import Resources
from isanet_jax.errors import ConfigError
from isanet_jax.files import write_json
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.runs.checkpoint import read_progress
from isanet_jax.settings import changed, read, to_dict
from tests.conftest import small_config

COST = {"start_s": 10.0, "epoch_s": 10.0, "validation_s": 1.0}


@pytest.fixture
def comparison(cohort_folder):
    base = to_dict(small_config(cohort_folder))
    methods = {
        name: {"label": name, "settings": {"model": {"width": width}}, "published": {}}
        for name, width in (("narrow", 2), ("wide", 4))
    }
    return {
        "base": base, "methods": methods, "order": ["narrow", "wide"], "reference": "wide",
        "thresholds": True, "folds": (0, 1), "seeds": (0,), "cpu_minutes": 1.0,
    }  # fmt: skip


def test_a_cell_that_a_signal_stopped_is_not_done(cohort_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("isanet_jax.training.loop.train", lambda *_: False)
    assert run_cell(read(small_config(cohort_folder)), tmp_path, thresholds=False) is False
    assert [path.name for path in tmp_path.iterdir()] == ["basis.json"]


def test_what_fits_is_trained(comparison, tmp_path, capsys):
    write_json(tmp_path / "narrow" / "cost.json", COST)
    write_json(tmp_path / "wide" / "cost.json", COST | {"epoch_s": 3.0})
    before = copy.deepcopy(comparison)
    found = budget.within_budget(comparison, tmp_path)
    assert comparison == before  # it is another's
    trained = {cell.method: cell.config for cell in make_cells(found, tmp_path)}
    # (60 - 10 - 5 x 1) s over 10 and over 3
    assert trained["narrow"].train.epochs == 4
    assert trained["wide"].train.epochs == 15
    assert trained["wide"].train.validate_every == 3
    assert trained["narrow"].optimizer.restart_epochs <= 4
    assert "narrow: 10 s to start, 10.0 s an epoch" in capsys.readouterr().out
    assert (
        budget.within_budget(comparison | {"cpu_minutes": 0}, tmp_path)["methods"]
        == before["methods"]
    )


def test_the_networks_of_an_ensemble_share_the_time_and_predict_together(
    comparison, tmp_path, monkeypatch
):
    write_json(tmp_path / "narrow" / "cost.json", COST | {"epoch_s": 3.0})
    changes = [{}, {"loss": {"batch_dice": True}}]
    comparison["methods"]["narrow"]["members"] = changes
    comparison |= {"order": ["narrow"], "reference": "narrow", "folds": (0,), "seeds": (3,)}
    found = budget.within_budget(comparison, tmp_path)
    cell = make_cells(found, tmp_path)[0]
    assert cell.config.train.epochs == 5  # (30 - 10 - 5) s over 3
    short = {"train.epochs": 1, "train.validate_every": 1, "selection": "nested"}
    config = changed(cell.config, short)
    members = [changed(member, short) for member in cell.members]
    assert run_cell(config, cell.folder, thresholds=False, members=members)
    both = [cell.folder / "member0", cell.folder / "member1"]
    seeds = [json.loads((run / "config.json").read_text())["seed"] for run in both]
    assert seeds == [6, 7]
    predictor, cohort = Predictor(both), read_cohort(config.data.cases)
    # Each is chosen on other cases, which the others are trained on.
    first, second = (description["split"] for description in predictor.descriptions)
    assert not set(first["selection"]) & set(second["selection"])
    assert set(first["selection"]) <= set(second["train"])
    for case, metrics in cell.scores()["network"].items():
        stored = read_case(cohort.path(case))
        (mask,) = stored.masks(("tumour",)).values()
        assert metrics["reference_voxels"] > 0
        with np.load(cell.folder / "masks.npz") as masks:
            packed = np.unpackbits(masks[case], count=mask.size).reshape(mask.shape)
        probability = predictor.probabilities([stored])[0][..., 0]
        np.testing.assert_array_equal(packed, probability >= 0.5)
    chosen = [d["progress"]["best_dsc"] for d in predictor.descriptions]
    assert cell.training["validation_dsc"] == pytest.approx(np.mean(chosen))
    # A cell that is resumed counts what its networks took before.
    monkeypatch.setattr(budget.machine, "seconds_by", lambda clock: 6.0)
    assert run_cell(config, cell.folder, thresholds=False, members=members)
    taken = sum(read_progress(run)["seconds"]["cpu"] for run in both)
    assert taken > 0
    assert cell.training["cpu_minutes"] == pytest.approx((6 + taken) / 60)


def test_networks_that_would_not_learn_enough_are_left_out(comparison, tmp_path, capsys):
    """On a slow processor eight networks had 39 epochs each, and were worse than two with 63."""
    write_json(tmp_path / "narrow" / "cost.json", COST | {"epoch_s": 3.0})
    comparison["methods"]["narrow"] |= {"members": [{}, {"seed": 5}, {"seed": 6}]}
    comparison |= {"order": ["narrow"], "reference": "narrow", "folds": (0,)}
    # Of a minute one network has 15 epochs, two have 5 each, and three have 1.
    for least, networks, epochs in ((0, 3, 1), (2, 2, 5), (5, 2, 5), (6, 1, 15), (99, 1, 15)):
        comparison["methods"]["narrow"]["least_epochs"] = least
        found = budget.within_budget(comparison, tmp_path)
        cell = make_cells(found, tmp_path)[0]
        assert (len(cell.members), cell.config.train.epochs) == (networks, epochs)
        assert ("1 of its 3 networks" in capsys.readouterr().out) == (networks == 1)
    assert budget.networks_within(COST, 1.0, 0, 60) == 0


def test_snapshots_are_of_one_training_over_restarts(comparison, tmp_path):
    method = comparison["methods"]["narrow"]
    method |= {"members": [{}, {}], "snapshots": True}
    comparison |= {"order": ["narrow"], "reference": "narrow", "folds": (0,), "seeds": (3,)}
    cell = make_cells(comparison, tmp_path)[0]
    short = {"train.epochs": 1, "train.validate_every": 1, "selection": "nested"}
    config = changed(cell.config, short)
    options = {"members": [config, config], "snapshots": cell.snapshots}
    assert run_cell(config, cell.folder, thresholds=False, **options)
    both = [cell.folder / "member0", cell.folder / "member1"]
    first, second = (description["split"] for description in Predictor(both).descriptions)
    assert first == second
    started = [json.loads((run / "config.json").read_text())["init"] for run in both]
    assert started == ["", str(both[0])]


def test_too_little_time_is_said_with_what_an_epoch_takes(comparison, tmp_path):
    write_json(tmp_path / "narrow" / "cost.json", COST)
    with pytest.raises(
        ConfigError, match="method narrow needs 10 s to start and 10 s for an epoch"
    ):
        budget.within_budget(comparison | {"cpu_minutes": 0.3}, tmp_path)


def test_what_cannot_be_measured_is_told_with_its_reason(comparison, tmp_path, monkeypatch):
    comparison["base"]["data"]["cases"] = str(tmp_path / "absent")
    with pytest.raises(ConfigError, match="narrow costs could not be measured: .*no such folder"):
        budget.within_budget(comparison, tmp_path / "w")
    assert "no such folder" in (tmp_path / "w" / "narrow" / "cost.log").read_text()


@pytest.mark.parametrize("clock", ["cpu", "gpu"])
def test_a_cost_is_of_the_processor_or_of_the_clock(comparison, clock, monkeypatch):
    config = make_cells(comparison, Path("w"))[0].config
    asked = []
    of_clock = budget.machine.seconds_by
    monkeypatch.setattr(
        budget.machine, "seconds_by", lambda name: asked.append(name) or of_clock(name)
    )
    cost = budget.measure(config, clock)
    assert set(asked) == {clock}
    assert cost.keys() == COST.keys()
    assert all(value > 0 for value in cost.values())
    json.dumps(cost)


def test_a_gpus_time_is_shared_where_there_is_one(comparison, tmp_path, monkeypatch):
    gpu = Resources(gpu="0")
    comparison |= {"cpu_minutes": 0.0, "gpu_minutes": 1.0}
    with pytest.raises(ConfigError, match="gpu_minutes compares .* and there is none here"):
        budget.within_budget(comparison, tmp_path)
    with pytest.raises(ConfigError, match="both given"):
        budget.within_budget(comparison | {"cpu_minutes": 1.0}, tmp_path)
    monkeypatch.setattr(budget, "divide_resources", lambda jobs: [gpu])
    with pytest.raises(ConfigError, match="give gpu_minutes in its place"):
        budget.within_budget(comparison | {"cpu_minutes": 1.0, "gpu_minutes": 0.0}, tmp_path)
    for name in comparison["order"]:
        write_json(tmp_path / name / "cost.json", COST)
    found = budget.within_budget(comparison, tmp_path)
    trained = [cell for cell in make_cells(found, tmp_path) if cell.method in comparison["order"]]
    assert {cell.config.train.epochs for cell in trained} == {4}
