import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from isanet_jax.cases.case import read_case, read_label_on_reference
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.cases.preparation import settings_of
from isanet_jax.cases.prepare_cohort import prepare, prepare_phantoms
from isanet_jax.classes import Classes
from isanet_jax.cli import evaluate as command
from isanet_jax.cli import predict
from isanet_jax.datasets.table import read_table
from isanet_jax.errors import CheckpointError, ConfigError, DataError
from isanet_jax.evaluation.evaluate import MEAN, score_masks
from isanet_jax.metrics.segmentation import case_metrics
from isanet_jax.nifti import read_volume, write_volume
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.runs.log import read_log
from isanet_jax.volume import Volume


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    output = tmp_path_factory.mktemp("eval")
    command.main(["--workdir", str(trained), "--output", str(output)])
    return output


def test_a_run_is_scored_on_its_test_fold(evaluated, trained, cohort):
    result = json.loads((evaluated / "metrics.json").read_text())
    test_cases = sorted(c for c, fold in cohort.fold_of.items() if fold == 0)
    assert sorted(result["cases"]) == test_cases
    (run,) = result["runs"]
    assert (run["selection"], run["fold"], run["system"]) == ("paper", 0, "plain")
    assert result["summary"]["dsc"]["mean"] == pytest.approx(
        np.mean([c["dsc"] for c in result["cases"].values()])
    )
    # On the case grid the best checkpoint scores what the training said.
    checks = [c for c in read_log(trained / "metrics.jsonl") if "validation_dsc" in c]
    best = max(checks, key=lambda c: c["validation_dsc"])
    on_case = result["grids"]["case"]["network"]["cases"]
    for case, dsc in best["cases"].items():
        assert on_case[case]["dsc"] == pytest.approx(dsc, abs=1e-6)
    assert "SUV >= 2.5" in result["grids"]["ct"]
    for case, found in result["grids"]["case"]["41 % SUVmax"]["cases"].items():
        stored = read_case(cohort.path(case))
        hot = stored.images["pet"] >= 0.41 * stored.images["pet"].max()
        both = (hot & (stored.label > 0)).sum()
        assert found["dsc"] == pytest.approx(2 * both / (hot.sum() + (stored.label > 0).sum()))
    for name in ("report.md", "report.html", "metrics.csv"):
        assert (evaluated / name).stat().st_size > 500
    assert not list(evaluated.rglob("*.png"))  # report.html shows the cases
    report = (evaluated / "report.md").read_text()
    assert "optimistic" in report
    assert "41 % SUVmax" in report


def test_masks_of_two_classes_have_their_mean_too(tmp_path):
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[:4, :4, :4], labels[5:, 5:, 5:] = 1, 2
    found = labels.copy()
    found[:2] = 0
    for name, data in (("found", found), ("true", labels)):
        write_volume(tmp_path / f"{name}.nii.gz", Volume(data, np.eye(4)))
    both = [tmp_path / f"{name}.nii.gz" for name in ("found", "true")]
    scores, burdens = score_masks("P1", *both, Classes({"a": (1,), "b": (2,)}))
    assert burdens is None
    assert list(scores) == ["a", "b", MEAN]
    assert scores["a"]["dsc"] == pytest.approx(2 / 3)
    assert scores["b"]["dsc"] == 1
    assert scores[MEAN]["dsc"] == pytest.approx(5 / 6)
    assert list(score_masks("P1", *both, Classes({"a": (1, 2)}))[0]) == ["a"]
    for folder, name in (("p", "found"), ("r", "true")):
        (tmp_path / folder).mkdir()
        shutil.copy(tmp_path / f"{name}.nii.gz", tmp_path / folder / "P1.nii.gz")
    words = ["--predictions", str(tmp_path / "p"), "--references", str(tmp_path / "r")]
    command.main([*words, "--output", str(tmp_path / "out"), "--classes", "a=1", "b=2"])
    with open(tmp_path / "out" / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["class"]) for row in rows] == [("P1", of) for of in ("a", "b", MEAN)]


def test_predicted_files_score_what_the_evaluation_said(evaluated, trained, cohort, tmp_path):
    """raw scans -> predict.py -> files -> eval.py on files, against eval.py on the run."""
    scans = cohort.folder / "scans"
    predict.main(
        [
            "--workdir",
            str(trained),
            "--table",
            str(scans / "cases.csv"),
            "--output",
            str(tmp_path / "masks"),
        ]
    )
    expected = json.loads((evaluated / "metrics.json").read_text())["cases"]
    for folder in ("p", "r"):
        (tmp_path / folder).mkdir()
    for case in expected:
        (tmp_path / "masks" / f"{case}.nii.gz").rename(tmp_path / "p" / f"{case}.nii.gz")
        label = read_volume(scans / case / "label.nii.gz", dtype=np.uint8)
        write_volume(tmp_path / "r" / f"{case}.nii", label)
    command.main(
        [
            "--predictions",
            str(tmp_path / "p"),
            "--references",
            str(tmp_path / "r"),
            "--output",
            str(tmp_path / "out"),
        ]
    )
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for case, values in expected.items():
        for name in ("dsc", "hd95", "volume_ml"):
            assert result["cases"][case][name] == pytest.approx(values[name]), name
    with open(tmp_path / "out" / "metrics.csv") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert float(rows[case]["dsc"]) == pytest.approx(expected[case]["dsc"])


def other_cohort(folder, *, cases):
    """Phantoms of other patients."""
    prepare_phantoms(folder / "made", cases=cases, size=16, seed=9, folds=2)
    scans = [
        dataclasses.replace(scan, case=f"other_{scan.case}", patient=f"other_{scan.case}")
        for scan in read_table(folder / "made" / "scans" / "cases.csv")
    ]
    settings = settings_of(read_cohort(folder / "made").settings)
    prepare(scans, settings, folder, kind="phantom", folds=2, seed=0, workers=1)
    return folder


def test_an_ensemble_is_scored_on_cases_that_none_of_its_networks_has_seen(
    trained, trained_again, cohort, tmp_path
):
    both = ["--workdir", str(trained), str(trained_again)]
    with pytest.raises(ConfigError, match="give --output"):
        command.main(both)
    both += ["--output", str(tmp_path / "e")]
    with pytest.raises(ConfigError, match="each of the 6 cases.*name them with --cases"):
        command.main(both)
    command.main([*both, "--cases", str(other_cohort(tmp_path / "c", cases=2))])
    result = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert [(run["fold"], run["seed"]) for run in result["runs"]] == [(0, 0), (1, 1)]
    assert {run["selection"] for run in result["runs"]} == {"nested"}  # none chosen on these
    predictor = Predictor([trained, trained_again])
    assert len(result["grids"]["case"]["network"]["cases"]) == 2
    for name, metrics in result["grids"]["case"]["network"]["cases"].items():
        case = read_cohort(tmp_path / "c").stored(name).read()
        mask = predictor.probabilities([case])[0][..., 0] >= 0.5
        expected = case_metrics(mask, case.label > 0, case.meta["spacing_mm"])
        assert metrics["dsc"] == expected["dsc"]
    report = (tmp_path / "e" / "report.md").read_text()
    assert "ensemble of 2 networks" in report
    assert "network 2" in (tmp_path / "e" / "report.html").read_text()  # its learning curves


def test_ids_of_the_training_in_another_folder_are_told(trained, cohort, tmp_path, capsys):
    shutil.copytree(cohort.folder, tmp_path / "moved")
    words = ["--workdir", str(trained), "--output", str(tmp_path / "e")]
    command.main([*words, "--cases", str(tmp_path / "moved")])
    told = capsys.readouterr().out
    assert "4 of the 6 cases in" in told
    assert "4 trained on (phantom_" in told


def masks(folder, **volumes):
    for name, volume in volumes.items():
        write_volume(folder / f"{name}.nii.gz", volume)
    return str(folder)


def test_bad_mask_folders_are_refused_by_name(tmp_path):
    data = np.zeros((5, 5, 5), np.uint8)
    data[2, 2, 2] = 1
    good, moved = Volume(data, np.eye(4)), Volume(data, np.diag([1.0, 1.0, 1.001, 1.0]))
    references = masks(tmp_path / "r", A=good, B=good)

    def run(predictions, output="out"):
        command.main(
            [
                "--predictions",
                predictions,
                "--references",
                references,
                "--output",
                str(tmp_path / output),
            ]
        )

    with pytest.raises(DataError, match="B only in .*r"):
        run(masks(tmp_path / "missing", A=good))
    with pytest.raises(DataError, match=r"(?s)1 of 2 pairs.*case B.*expected equal grids"):
        run(masks(tmp_path / "moved", A=good, B=moved))
    with pytest.raises(DataError, match="case A.*label values 0, 7.*--label-values"):
        run(masks(tmp_path / "values", A=Volume(data * 7, np.eye(4)), B=good))
    with pytest.raises(DataError, match="no such folder"):
        run(str(tmp_path / "absent"))
    of_others = masks(tmp_path / "others", A=good, B=good)
    (tmp_path / "others" / "C.mha").touch()
    with pytest.raises(DataError, match=r"C\.mha: is not NIfTI"):
        run(of_others)
    run(masks(tmp_path / "p", A=good, B=Volume(data * 0, np.eye(4))))
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["cases"]["B"]["hd"] == "inf"
    assert content["summary"]["hd"]["n_infinite"] == 1
    with pytest.raises(DataError, match="exists already.*--overwrite"):
        run(str(tmp_path / "p"))


def test_arguments_that_do_not_fit_together(tmp_path):
    with pytest.raises(ConfigError, match="either --workdir"):
        command.main([])
    with pytest.raises(ConfigError, match="together"):
        command.main(["--predictions", "a", "--references", "b"])
    with pytest.raises(CheckpointError, match="no trained network.*isanet train --config hecktor"):
        command.main(["--workdir", str(tmp_path)])


def test_label_on_the_ct_grid_scores_perfectly_against_the_raw_label(cohort_folder):
    cohort = read_cohort(cohort_folder)
    case = sorted(cohort.cases)[0]
    stored = read_label_on_reference(cohort.path(case))
    raw = read_volume(cohort_folder / "scans" / case / "label.nii.gz")
    assert case_metrics(stored.data, raw.data > 0, stored.spacing_mm)["dsc"] == 1


def test_grids_that_differ_by_rounding_are_one_and_others_show_by_how_much(tmp_path):
    data = np.zeros((40, 5, 5), np.uint8)
    data[2, 2, 2] = 1

    def run(spacing, output):
        references = masks(tmp_path / f"r{output}", A=Volume(data, np.diag([spacing, 4, 4, 1.0])))
        predictions = masks(tmp_path / f"p{output}", A=Volume(data, np.diag([4.0, 4, 4, 1.0])))
        command.main(["--predictions", predictions, "--references", references, "--output",
                      str(tmp_path / output)])  # fmt: skip

    run(4.00005, "rounded")
    assert json.loads((tmp_path / "rounded" / "metrics.json").read_text())["cases"]["A"]["dsc"] == 1
    with pytest.raises(DataError, match=r"4\.01, .*up to 0.4 mm apart"):
        run(4.01, "other")
