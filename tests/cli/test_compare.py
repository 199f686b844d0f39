"""isanet compare as a user runs it, on phantoms: every part of it, trainings included."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import isanet_jax
from isanet_jax.cases.case import read_label_on_reference
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.cases.preparation import settings_of
from isanet_jax.cases.prepare_cohort import prepare
from isanet_jax.cli import compare as command
from isanet_jax.datasets.table import read_table
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.nifti import read_volume, write_volume
from isanet_jax.volume import Volume
from tests.conftest import small_config

ROOT = Path(__file__).parents[2]
CONFIG = """
import json
from isanet_jax.configs.compare.comparison import add_method, comparison
from ml_collections import ConfigDict

def get_config():
    config = comparison("Small", "sts")
    config.base = ConfigDict(json.loads({base!r}))
    config.folds, config.thresholds, config.curve = (0,), True, "rate"
    config.reference = "none"
    for name, rate in (("none", 1e-6), ("some", 1e-2)):
        add_method(config, name, name, {{"optimizer": {{"peak_learning_rate": rate}}}},
                         published={{"dsc": 0.5}})
    add_method(config, "lost", "lost", {{"data": {{"cases": {absent!r}}}}})
    return config
"""


@pytest.fixture
def run(cohort_folder, tmp_path, monkeypatch):
    base = small_config(cohort_folder)
    base["train"]["epochs"] = 1
    content = CONFIG.format(base=json.dumps(base), absent=str(tmp_path / "absent"))
    (tmp_path / "small.py").write_text(content)
    monkeypatch.chdir(ROOT)
    arguments = ["--config", str(tmp_path / "small.py"), "--workdir", str(tmp_path / "w")]

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["compare.py", *arguments, *more])
        command.main()

    return run


def test_a_comparison_trains_scores_and_reports_all_that_can_be_done(run, cohort, tmp_path, capsys):
    with pytest.raises(ConfigError, match="1 of 4 cells failed"):
        run("--jobs", "2")
    out = tmp_path / "w"
    test_cases = sorted(c for c, fold in cohort.fold_of.items() if fold == 0)
    with open(out / "cases.csv") as file:
        rows = {(r["method"], r["case"]): r for r in csv.DictReader(file)}
    assert sorted(case for method, case in rows if method == "some") == test_cases
    scores = json.loads((out / "some/fold0-seed0/scores.json").read_text())["network"]
    for case in test_cases:
        assert float(rows["some", case]["dsc"]) == scores[case]["dsc"]
        assert ("SUV >= 2.5", case) in rows
    report = (out / "report.md").read_text()
    assert "FAILED: lost fold 0 seed 0: " in report
    assert "no such folder" in report
    assert "optimistic" in report
    assert "3 of 4 cells are done" in report
    pictures = ["boxes", "curve", *(f"contours/{n}" for n in ("worst", "middle", "best"))]
    for picture in pictures:
        assert (out / f"{picture}.png").stat().st_size > 5000
        assert f"({picture}.png)" in report
    page = (out / "report.html").read_text()
    assert all(f'data-case="{case}"' in page for case in test_cases)
    assert '"class": "some", "number": 1, "role": "prediction"' in page
    (text,) = re.findall(r'id="chart-data">(.*)</script>', page)
    boxes, of_methods, curves = json.loads(text)
    drawn = {group["name"]: dict(group["cases"]) for group in boxes["panels"][0]["groups"]}
    for method, case in rows:
        assert drawn[method][case] == float(rows[method, case]["dsc"])
    assert of_methods["panels"][0]["names"] == ["none", "some"]
    assert {line["name"] for line in curves["panels"][0]["lines"]} == {"none", "some"}
    with open(out / "tests.csv") as file:
        assert {r["method"] for r in csv.DictReader(file)} == {"some"}
    assert r"\begin{tabular}" in (out / "table.tex").read_text()

    # Again, without the method that cannot work: nothing is left to run.
    stamp = (out / "some/fold0-seed0/scores.json").stat().st_mtime_ns
    capsys.readouterr()
    run("--config.order=('none','some')")
    assert "3 cells: 3 done, 0 to run" in capsys.readouterr().out
    assert (out / "some/fold0-seed0/scores.json").stat().st_mtime_ns == stamp
    assert "lost" not in (out / "report.md").read_text()

    # Another program's masks, of which one is missing at first: here the references themselves.
    masks = tmp_path / "masks" / "fold0"
    for case in test_cases[1:]:
        write_volume(masks / f"{case}.nii.gz", read_label_on_reference(cohort.path(case)))
    words = ["--config.order=('none','some')", f"--config.external=('oracle={masks.parent}',)"]
    with pytest.raises(ConfigError, match="1 of 4 cells failed"):
        run(*words)
    assert f"no masks of {test_cases[0]}" in (out / "report.md").read_text()
    label = read_label_on_reference(cohort.path(test_cases[0]))
    moved = label.affine.copy()
    moved[0, 3] += 1
    path = masks / f"{test_cases[0]}.nii.gz"
    write_volume(path, Volume(label.data, moved))
    with pytest.raises(ConfigError, match="1 of 4 cells failed"):
        run(*words)
    assert "up to 1 mm apart" in (out / "report.md").read_text()
    write_volume(path, label, overwrite=True)
    run(*words)
    with open(out / "cases.csv") as file:
        found = [r for r in csv.DictReader(file) if r["method"] == "oracle"]
    assert [float(r["dsc"]) for r in found] == [1.0] * len(test_cases)
    for bad in ("('oracle',)", "('some=x',)", "('other=nowhere',)"):
        with pytest.raises(ConfigError, match="external has"):
            run(f"--config.external={bad}")


def test_no_figure_is_stale(run, cohort_folder, tmp_path, capsys):
    """Another mask, label, training case, version: scored or trained again, and nothing else."""
    cases, masks = tmp_path / "cases", tmp_path / "masks" / "fold0"
    shutil.copytree(cohort_folder, cases)
    cohort = read_cohort(cases)
    fold = {n: sorted(c for c, f in cohort.fold_of.items() if (f == 0) == (n == 0)) for n in (0, 1)}
    for case in fold[0]:
        write_volume(masks / f"{case}.nii.gz", cohort.stored(case, ()).label_on_reference())
    words = [
        "--config.order=('none',)",
        f"--config.external=('oracle={masks.parent}',)",
        f"--config.base.data.cases={cases}",
        "--config.base.selection=nested",
        "--config.thresholds=False",
        "--config.curve=",
    ]
    out = tmp_path / "w"

    def again():
        capsys.readouterr()
        run(*words)
        with open(out / "cases.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        dsc = {(row["method"], row["case"]): float(row["dsc"]) for row in rows}
        return dsc, capsys.readouterr().out

    def rewritten(path):
        volume = read_volume(path, dtype=np.uint8)
        rolled = np.roll(volume.data, 3, 0)
        write_volume(path, Volume(rolled, volume.affine, volume.header), overwrite=True)

    def prepared():
        settings = settings_of(cohort.settings)
        options = {"kind": "phantom", "folds": 3, "seed": 1, "workers": 1}
        prepare(read_table(cases / "scans" / "cases.csv"), settings, cases, **options)

    first, _ = again()
    assert {first["oracle", case] for case in fold[0]} == {1.0}
    same, said = again()
    assert same == first
    assert "2 cells: 2 done, 0 to run" in said
    steps = (out / "none/fold0-seed0/metrics.jsonl").read_text()

    rewritten(masks / f"{fold[0][0]}.nii.gz")  # a mask
    of_mask, said = again()
    assert "1 done, 1 to run" in said
    assert (
        f"oracle fold 0 seed 0: other than then: masks ({fold[0][0]}); it is scored again" in said
    )
    assert of_mask["oracle", fold[0][0]] < 1
    assert {k: v for k, v in of_mask.items() if k[0] != "oracle"} == {
        k: v for k, v in first.items() if k[0] != "oracle"
    }

    rewritten(cases / "scans" / fold[0][1] / "label.nii.gz")  # a label of the test fold
    prepared()
    of_label, said = again()
    assert "2 cells: 0 done, 2 to run" in said
    assert (
        f"none fold 0 seed 0: other than then: test cases or their labels ({fold[0][1]}); " in said
    )
    changed = {k for k, v in of_label.items() if v != of_mask[k]}
    assert {case for _, case in changed} == {fold[0][1]}
    # The network was not chosen on it: nothing was trained again.
    assert (out / "none/fold0-seed0/metrics.jsonl").read_text() == steps

    rewritten(cases / "scans" / fold[1][0] / "label.nii.gz")  # of a case that is learnt from
    prepared()
    of_training, said = again()
    aside = out / "none/fold0-seed0/stale1"
    assert "1 done, 1 to run" in said
    assert f"other than then: training cases ({fold[1][0]}); what there was is in {aside}" in said
    assert (aside / "metrics.jsonl").read_text() == steps
    assert {k: v for k, v in of_training.items() if k[0] != "none"} == {
        k: v for k, v in of_label.items() if k[0] != "none"
    }

    basis = out / "none/fold0-seed0/basis.json"  # the program
    basis.write_text(basis.read_text().replace(isanet_jax.__version__, "0.0.1"))
    of_version, said = again()
    assert "none fold 0 seed 0: other than then: the version (0.0.1); it is scored again" in said
    assert of_version == of_training

    stored = (out / "none/fold0-seed0/masks.npz").read_bytes()
    (out / "none/fold0-seed0/masks.npz").write_bytes(stored[: len(stored) // 2])
    with pytest.raises(DataError, match=r"masks.npz: is damaged .*Delete scores.json beside it"):
        again()
    (out / "none/fold0-seed0/scores.json").write_text('{"network": ')
    with pytest.raises(DataError, match=r"scores.json: is damaged .*the cell is scored anew"):
        again()


def test_arguments_that_cannot_be_meant(run, monkeypatch):
    for jobs in ("0", "two", ""):
        with pytest.raises(ConfigError, match="--jobs is"):
            run("--jobs", jobs)
    with pytest.raises(ConfigError, match="--jobs is 9999 and this machine has"):
        run("--jobs=9999")
    monkeypatch.setattr(sys, "argv", ["compare.py", "--config", str(ROOT / "configs/sts.py")])
    with pytest.raises(ConfigError, match="of one run; isanet compare takes one of"):
        command.main()


def test_a_cell_imports_nothing_from_the_folder_that_the_user_stands_in(run, tmp_path, monkeypatch):
    """A downloaded folder with a numpy.py in it would have run there."""
    (tmp_path / "here").mkdir()
    for name in ("numpy", "jax", "json"):
        (tmp_path / "here" / f"{name}.py").write_text("raise SystemExit('imported from here')")
    monkeypatch.chdir(tmp_path / "here")
    run("--config.order=('none',)", "--config.thresholds=False", "--config.curve=")
    assert (tmp_path / "w/none/fold0-seed0/scores.json").exists()


def test_advice_names_the_settings_as_a_comparison_has_them(run):
    with pytest.raises(ConfigError, match=r"as they are with --config\.base\.data\.size=16"):
        run("--config.base.data.size=32", "--config.order=('none',)")
    with pytest.raises(ConfigError, match=r"method none: .*b1 is 5"):
        run("--config.base.optimizer.b1=5.0", "--config.order=('none',)")
