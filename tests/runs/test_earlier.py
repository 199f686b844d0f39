"""Runs, models and cases of earlier versions: they load, predict the same, and are resumed."""

import json
import shutil
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

import isanet_jax as isa
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.runs.folder import compare_workdir

GOLDEN = Path(__file__).parents[1] / "golden"
RUNS = ("run1", "run2", "run3", "model.isanet")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    with zipfile.ZipFile(GOLDEN / "earlier.zip") as archive:
        archive.extractall(folder)
    return folder


def scan():
    """CT and PET of a ball with a hot spot, by formulas alone."""
    i, j, k = np.indices((24, 24, 24), dtype=float)
    inside = np.sqrt((i - 11.5) ** 2 + (j - 11.5) ** 2 + (k - 11.5) ** 2) < 11
    hot = np.exp(-((i - 14) ** 2 + (j - 9) ** 2 + (k - 12) ** 2) / 18)
    ct = np.where(inside, 40 * np.cos(i / 3) * np.sin(j / 4) + 20, -1000).astype(np.int16)
    pet = (np.where(inside, 1.0, 0.05) + 8 * hot).astype(np.float32)
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    affine[:3, 3] = -92
    return [nibabel.Nifti1Image(data, affine) for data in (ct, pet)]


@pytest.mark.parametrize("name", RUNS)
def test_they_predict_what_they_predicted(earlier, name):
    found = isa.load(earlier / name).predict(*scan()).probability
    expected = json.loads((GOLDEN / "probability.json").read_text())
    np.testing.assert_allclose(found[::4, ::4, ::4].ravel(), expected, atol=2e-5)


CONSTANTS = (
    *("scaling_range", "noise_sigma", "blur_sigma", "brightness_range", "contrast_range"),
    *("low_resolution_zoom", "gamma_range"),
)


@pytest.fixture
def run(earlier, tmp_path, monkeypatch):
    """A copy of the newest run, with its cases; its settings as they are said now."""
    for name in ("run3", "cases3"):
        shutil.copytree(earlier / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    config = json.loads(Path("run3/config.json").read_text())
    for name in CONSTANTS:
        del config["augment"][name]
    config["init_seen"] = False  # of after that version
    config["data"]["guidance"] = "none"
    config["augment"]["patch_beyond"] = 0.0
    return config


def test_a_run_is_resumed_with_its_settings_as_they_are_said_now(run, capsys):
    assert compare_workdir(Path("run3"), run)
    assert isa.train(run, "run3")
    assert "is trained already" in capsys.readouterr().out


def test_its_training_goes_on_from_its_last_checkpoint(run):
    """With more epochs, as if it had been asked for them: state, optimiser and data's place."""
    Path("run3/config.json").unlink()
    run["train"]["epochs"] = 9
    assert isa.train(run, "run3")
    lines = [json.loads(line) for line in Path("run3/metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert list(losses) == list(range(1, 37))
    # As 77109c3 went on itself.
    expected = [1.090919, 1.05263, 1.090332, 1.100332]
    assert [losses[step] for step in (33, 34, 35, 36)] == pytest.approx(expected, abs=2e-5)


def test_cases_are_read(earlier):
    cohort = read_cohort(earlier / "cases3")
    assert len(cohort.cases) == 5
    images = Predictor(earlier / "run3").settings.images
    assert images == {"ct": "ct", "pet": "pet"}
