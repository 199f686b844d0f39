"""Runs as nobody plans them: signals at bad moments, tiny cohorts, windows larger than the body."""

import dataclasses
import os
import signal

import numpy as np
import pytest

from isanet_jax.cases.cohort import read_cohort
from isanet_jax.cases.preparation import Settings
from isanet_jax.cases.prepare_cohort import prepare
from isanet_jax.classes import Classes
from isanet_jax.datasets.table import read_table
from isanet_jax.errors import DataError, IsaNetError
from isanet_jax.nifti import read_volume, write_volume
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.runs.checkpoint import Checkpoints
from isanet_jax.runs.log import read_log
from isanet_jax.training import loop
from isanet_jax.volume import Volume
from tests.conftest import small_config


def losses(workdir):
    lines = [line for line in read_log(workdir / "metrics.jsonl") if "loss" in line]
    return {line["step"]: line["loss"] for line in lines}


def terminated(function):
    """The function, which a SIGTERM meets when it begins, the first time."""
    sent = []

    def run(*arguments, **options):
        if not sent:
            sent.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*arguments, **options)

    return run


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (loop, "validate"),
        (Checkpoints, "save_latest"),
        (Checkpoints, "save_best"),
        (Checkpoints, "wait"),
    ],
)
def test_a_signal_within_a_validation_or_a_save(
    owner, name, config, trained, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, terminated(getattr(owner, name)))
        assert loop.train(config, tmp_path / "run") is False
    assert loop.train(config, tmp_path / "run") is True
    assert losses(tmp_path / "run") == losses(trained)
    found, expected = (Predictor([run]).networks[0][1] for run in (tmp_path / "run", trained))
    for a, b in zip(*map(_leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(a, b)


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)


def test_a_batch_of_more_than_there_are(config, tmp_path):
    config["train"] |= {"batch": 50, "epochs": 2}
    assert loop.train(config, tmp_path)
    assert list(losses(tmp_path)) == [1, 2]


def scans_of(cohort_folder, folder, change):
    """The phantoms' scans with other labels."""
    scans = []
    for scan in read_table(cohort_folder / "scans" / "cases.csv"):
        label = read_volume(scan.label, dtype=np.uint8)
        path = folder / scan.case / "label.nii.gz"
        write_volume(path, Volume(change(label.data), label.affine))
        scans.append(dataclasses.replace(scan, label=path))
    return scans


def test_ignore_everywhere_leaves_nothing_to_learn(cohort_folder, tmp_path):
    settings = Settings(size=16, fit="crop", spacing_mm=12.0, classes=Classes(ignore=(9,)))
    scans = scans_of(cohort_folder, tmp_path / "scans", lambda data: np.full_like(data, 9))
    prepare(scans, settings, tmp_path / "cases", kind="table", folds=3, seed=0, workers=1)
    with pytest.raises(DataError, match="the labels of all 4 training cases are empty"):
        loop.train(small_config(tmp_path / "cases"), tmp_path / "run")


def test_ignore_around_the_tumour_leaves_the_tumour(cohort_folder, tmp_path):
    settings = Settings(size=16, fit="crop", spacing_mm=12.0, classes=Classes(ignore=(9,)))
    scans = scans_of(
        cohort_folder, tmp_path / "scans", lambda data: np.where(data, 1, 9).astype(np.uint8)
    )
    prepare(scans, settings, tmp_path / "cases", kind="table", folds=3, seed=0, workers=1)
    config = small_config(tmp_path / "cases")
    config["train"]["epochs"] = 1
    assert loop.train(config, tmp_path / "run")
    assert all(np.isfinite(list(losses(tmp_path / "run").values())))


def test_a_window_larger_than_the_body(cohort_folder, tmp_path):
    settings = Settings(fit="whole", spacing_mm=12.0)
    scans = read_table(cohort_folder / "scans" / "cases.csv")
    prepare(scans, settings, tmp_path / "cases", kind="table", folds=3, seed=0, workers=1)
    cohort = read_cohort(tmp_path / "cases")
    assert max(max(entry["shape"]) for entry in cohort.cases.values()) < 24
    config = small_config(tmp_path / "cases")
    config["data"] |= {"fit": "whole", "patch": 24}
    config["train"]["epochs"] = 1
    assert loop.train(config, tmp_path / "run")
    case = cohort.stored(min(cohort.cases)).read()
    (probability,) = Predictor([tmp_path / "run"]).probabilities([case])
    assert probability.shape == (*case.label.shape, 1)
    assert probability.max() > 0


def test_a_case_that_is_made_anew_while_it_is_read_is_an_error(cohort_folder, tmp_path):
    scans = read_table(cohort_folder / "scans" / "cases.csv")[:2]
    settings = Settings(size=16, fit="crop", spacing_mm=12.0)
    options = {"kind": "table", "folds": 2, "seed": 0, "workers": 1}
    prepare(scans, settings, tmp_path / "cases", **options)
    cohort = read_cohort(tmp_path / "cases")
    opened = cohort.stored(scans[0].case)
    opened.read()
    other = dataclasses.replace(scans[1], case=scans[0].case, patient=scans[0].patient)
    prepare([other, scans[1]], settings, tmp_path / "cases", **options)
    with pytest.raises(DataError, match=r"has changed since the program began \(it was replaced"):
        opened.read()
    # Who opens it now, with the manifest of before, is told.
    with pytest.raises(DataError, match="not the file that manifest.json describes"):
        cohort.stored(scans[0].case)


def test_a_training_that_diverges_does_not_end_as_done(config, tmp_path, monkeypatch):
    read, factors = loop._Reader.take_losses, iter([1.0, 1.0, 350_000.0])

    def of_three_epochs(self):
        return list(next(factors) * np.array(read(self)))

    monkeypatch.setattr(loop._Reader, "take_losses", of_three_epochs)
    with pytest.raises(IsaNetError, match=r"diverged: the loss is .*The last checkpoint, of step"):
        loop.train(config, tmp_path)
    with pytest.raises(IsaNetError, match="No checkpoint had been saved before"):
        loop._check_loss([3e6], {"first_loss": 0.5}, 0)
    loop._check_loss([900.0], {"first_loss": 0.5}, 0)
    loop._check_loss([], {}, 0)
