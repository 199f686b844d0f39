"""Every section of docs/extending.md does what it says, from a file outside the package."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from isanet_jax.settings import changed, read
from isanet_jax.settings.declare import check_value, declared
from isanet_jax.settings.table import Loss, Model
from isanet_jax.training.check import check_config
from tests.conftest import small_flags

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = {
    heading: re.findall(r"```python\n(.*?)```", body, re.S)
    for heading, body in re.findall(r"^## An? (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
}
USED = {"dataset", "system", "loss", "metric", "output format", "setting", "recipe"}


def snippet(name):
    (code,) = SECTIONS[name]
    return code


def test_every_section_with_code_is_run():
    assert {name for name, codes in SECTIONS.items() if codes} == USED


def isanet(*words, extensions, cwd):
    """The program in a process of its own, with these files as extensions."""
    paths = [os.environ["ISANET_EXTENSIONS"], *map(str, extensions)]
    environ = os.environ | {
        "ISANET_EXTENSIONS": os.pathsep.join(paths),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "isanet_jax", *map(str, words)],
        cwd=cwd, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_system_a_loss_a_metric_and_a_format_of_ones_own(cohort_folder, tmp_path):
    files = []
    for name in ("system", "loss", "metric", "output format"):
        files.append(tmp_path / f"my_{name.replace(' ', '_')}.py")
        files[-1].write_text(snippet(name))
    recipe = tmp_path / "mine.py"
    recipe.write_text(snippet("recipe"))

    def run(*words):
        return isanet(*words, extensions=files, cwd=tmp_path)

    flags = small_flags(cohort_folder, model__name="tiny", loss__name="dice_l2", train__epochs=1)
    run("train", *flags, "--workdir", "r")
    line = json.loads(Path(tmp_path / "r" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["loss"] == pytest.approx(line["dice_loss"] + line["l2"], rel=1e-5)
    shown = run("eval", "--workdir", "r")
    assert "volume difference ml" in shown
    found = json.loads((tmp_path / "r" / "eval" / "metrics.json").read_text())
    for metrics in found["cases"].values():
        difference = metrics["volume_ml"] - metrics["reference_volume_ml"]
        assert metrics["volume_difference_ml"] == pytest.approx(difference, abs=1e-3)
    scan = cohort_folder / "scans" / "phantom_000"
    images = ["--ct", scan / "ct.nii.gz", "--pet", scan / "pet.nii.gz"]
    run("predict", "--workdir", "r", *images, "--output", "m.nii.gz", "--format", "nifti,npz")
    with np.load(tmp_path / "m.npz") as stored:
        assert stored["labels"].shape == (80, 80, 60)
    settings = json.loads(run("train", "--config", f"{recipe}:sts", "--print-config"))
    assert settings["optimizer"]["name"] == "sgd"
    assert settings["data"]["cases"] == "cases/sts"


def test_a_loss_of_ones_own_leaves_out_what_is_not_known():
    content = {}
    exec(snippet("loss"), content)  # noqa: S102 - the documentation's own
    function = content["LOSSES"]["dice_l2"].function
    logits = jnp.zeros((1, 2, 1, 1, 1))
    label = jnp.array([0.5, 1.0]).reshape(1, 2, 1, 1, 1)
    known = jnp.array([1.0, 0.0]).reshape(1, 2, 1, 1, 1)
    assert function(logits, label, Loss(), known)["l2"] == 0
    assert function(logits, label, Loss(), None)["l2"] == pytest.approx(0.125)


def test_a_setting_is_one_field():
    """As it would stand in the table: declared, checked and with the meaning of older runs."""
    content = {"__annotations__": {}}
    exec(snippet("setting"), content)  # noqa: S102 - the documentation's own
    field = content["label_smoothing"]
    made = dataclasses.make_dataclass(
        "Loss", [("label_smoothing", float, field)], bases=(Loss,), frozen=True
    )
    one = declared(made)["label_smoothing"]
    assert made().label_smoothing == one.before == 0.0
    check_value("loss.label_smoothing", 0.1, one)
    with pytest.raises(Exception, match=r"loss.label_smoothing is 0.9; it must be .* 0 to 0.5"):
        check_value("loss.label_smoothing", 0.9, one)


def test_what_a_loss_does_not_read_is_refused(config):
    assert "alpha" in declared(Loss)
    assert "width" in declared(Model)
    focal = changed(read(config), {"loss.name": "dice_ce", "loss.alpha": 0.3})
    with pytest.raises(Exception, match=r"loss.alpha is 0.3, and nothing reads it with loss.name"):
        check_config(focal)
