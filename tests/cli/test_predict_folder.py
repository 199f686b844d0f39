"""`isanet predict -i IN -o OUT`: scans into a folder, once each, with tables and a page."""

import csv
import json
import re

import nibabel
import numpy as np
import pydicom
import pytest

from isanet_jax.cli import lesions as cli_lesions
from isanet_jax.cli.predict import main
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.parallel import part_of
from isanet_jax.prediction import many
from tests.dicom import make_dicom


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def model(trained, tmp_path):
    """Flags of a model that finds something in noise."""
    rules = {"classes": {"tumour": {"threshold": 1e-6}}}
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    return ["--model", str(trained), "--rules", str(tmp_path / "rules.json")]


@pytest.fixture
def studies(tmp_path):
    """Two studies, one of them without PET, and one whose PET cannot be read."""
    for number in range(3):
        shared = make_dicom.study(patient_id=f"P{number}")
        make_dicom.write_patient(tmp_path / "in" / str(number), shared, seed=number)
    for path in (tmp_path / "in" / "1" / "b").iterdir():
        path.unlink()
    for path in (tmp_path / "in" / "2" / "b").iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.RescaleSlope
        dataset.save_as(path)
    return tmp_path / "in"


def test_studies_become_masks_tables_and_a_page(model, studies, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(DataError, match="2 of 3 scans failed"):
        main([*model, "-i", str(studies), "-o", str(out)])
    assert sorted(path.name for path in out.glob("P*")) == [
        "P0.nii.gz", "P0.rtstruct.dcm", "P0.seg.dcm", "P0.sr.dcm",
    ]  # fmt: skip
    patients = {row["case"]: row for row in read(out / "patients.csv")}
    assert set(patients) == {"P0", "P1", "P2"}
    assert "no PET among" in patients["P1"]["remark"]
    assert "RescaleSlope is missing" in patients["P2"]["remark"]
    lines = (out / "errors.log").read_text().splitlines()
    assert [re.search(r"P\d", line)[0] for line in lines] == ["P1", "P2"]
    # One volume: MTV is the mask's, TLG is SUVmean times it, and the patient's is their sum.
    rows = read(out / "lesions.csv")
    image = nibabel.load(out / "P0.nii.gz")
    ml = np.asarray(image.dataobj).sum() * np.prod(image.header.get_zooms()) / 1000
    assert sum(float(row["mtv_ml"]) for row in rows) == pytest.approx(ml)
    assert float(patients["P0"]["tmtv_ml"]) == pytest.approx(ml)
    for row in rows:
        if row["tlg_g"]:
            product = float(row["suv_mean"]) * float(row["mtv_ml"])
            assert float(row["tlg_g"]) == pytest.approx(product, rel=1e-12)
    page = (out / "report.html").read_text()
    assert "P0" in page
    assert "no PET among" in page
    # The SR refers to the SEG that is beside it, and says what the table says.
    seg, report = (pydicom.dcmread(out / f"P0.{name}.dcm") for name in ("seg", "sr"))
    evidence = str(report.CurrentRequestedProcedureEvidenceSequence)
    assert seg.SOPInstanceUID in evidence
    text = str(report.ContentSequence)
    assert text.count("'Volumetric") == 0
    values = [float(v) for v in re.findall(r"Numeric Value +DS: '?([\d.]+)", text)]
    assert any(value == pytest.approx(float(rows[0]["mtv_ml"]), rel=1e-6) for value in values)
    assert seg.ManufacturerModelName == report.ManufacturerModelName == "plain"
    # The mask measured from each of its forms is the same.
    pet = ["--pet", str(studies / "0" / "b")]
    for name in ("nii.gz", "seg.dcm", "rtstruct.dcm"):
        measured = tmp_path / name
        cli_lesions.main(["--mask", str(out / f"P0.{name}"), *pet, "-o", str(measured)])
        again = read(measured / "lesions.csv")
        assert len(again) == len(rows), (name, rows, again)
        for row, other in zip(rows, again, strict=True):
            for column in ("mtv_ml", "suv_max", "tlg_g", "x_mm"):
                assert row[column] == other[column] or float(row[column]) == pytest.approx(
                    float(other[column]), rel=1e-9
                ), (name, column)


def test_what_is_there_is_not_done_again(model, trained_again, studies, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["-i", str(studies / "0"), "-o", str(out)]
    main([*model, *arguments])
    before = (out / "P0.nii.gz").stat().st_mtime_ns
    main([*model, *arguments])
    assert (out / "P0.nii.gz").stat().st_mtime_ns == before
    assert "1 were done before" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="results of another model"):
        main(["--model", str(trained_again), *arguments])
    (out / "P0.seg.dcm").unlink()  # a scan is done when all of it is there
    main([*model, *arguments])
    assert (out / "P0.seg.dcm").exists()
    main(["--model", str(trained_again), *arguments, "--overwrite"])
    assert read(out / "patients.csv")[0]["case"] == "P0"


def test_reference_regions(model, cohort_folder, tmp_path, capsys):
    scans, out = cohort_folder / "scans", tmp_path / "out"
    main([*model, "-i", str(scans), "-o", str(out)])
    capsys.readouterr()
    cases = [row["case"] for row in read(out / "patients.csv")]
    pet = nibabel.load(scans / cases[0] / "pet.nii.gz")
    suv = np.asarray(pet.dataobj)
    hot = suv >= np.median(suv)
    for name, mask in {"all of it": suv > -1, "hot": hot}.items():
        nibabel.save(
            nibabel.Nifti1Image(mask.astype(np.uint8), pet.affine), tmp_path / f"{name}.nii"
        )
    table = tmp_path / "regions.csv"
    table.write_text(f"case,liver,blood\n{cases[0]},all of it.nii,hot.nii\n")
    main([*model, "-i", str(scans), "-o", str(out), "--references", str(table)])
    assert f"{len(cases) - 1} were done before" in capsys.readouterr().out
    row = next(row for row in read(out / "patients.csv") if row["case"] == cases[0])
    assert float(row["liver_mean"]) == pytest.approx(suv.mean(), rel=1e-6)
    assert float(row["blood_sd"]) == pytest.approx(suv[hot].std(ddof=1), rel=1e-6)
    threshold = 1.5 * suv.mean() + 2 * suv.std(ddof=1)
    assert float(row["percist_threshold"]) == pytest.approx(threshold, rel=1e-6)
    assert row["deauville"] in "12345"
    for line, message in (
        ("X,1 2 3,", "no scan of --input is called so"),
        (f"{cases[0]},absent.nii,", "no such mask of the liver"),
        (f"{cases[0]},,", "no region"),
    ):
        table.write_text(f"case,liver,blood\n{line}\n")
        with pytest.raises(DataError, match=message):
            main([*model, "-i", str(scans), "-o", str(out), "--references", str(table)])
    table.write_text(f"case,liver\n{cases[0]},9000 0 0\n")
    with pytest.raises(DataError, match="1 of"):
        main([*model, "-i", str(scans), "-o", str(out), "--references", str(table)])
    assert "not all in the PET" in (out / "errors.log").read_text()


def test_a_dry_run_says_what_would_be_done(model, studies, tmp_path, capsys):
    main([*model, "-i", str(studies), "-o", str(tmp_path / "out"), "--dry-run"])
    said = capsys.readouterr().out
    assert "P0: CT series" in said
    assert "P1: cannot be predicted: " in said
    assert "2 scan(s) into" in said
    assert not (tmp_path / "out").exists()


def test_parts_are_put_together(model, cohort_folder, tmp_path, monkeypatch):
    scans, out = cohort_folder / "scans", tmp_path / "out"
    main([*model, "-i", str(scans), "-o", str(tmp_path / "one")])
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    for index in (3, 5, 7):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(index))
        monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "3")
        monkeypatch.setenv("SLURM_ARRAY_TASK_STEP", "2")
        main([*model, "-i", str(scans), "-o", str(out), "--part", "auto"])
    for name in ("lesions.csv", "patients.csv"):
        alone, together = (read(folder / name) for folder in (tmp_path / "one", out))
        for row in (*alone, *together):
            row.pop("seconds", None)
        assert alone == together
        assert alone
    assert not list((out / many.RECORDS).glob("*.claim"))


def test_parts():
    items = list(range(11))
    parts = [part_of(items, f"{i}/4") for i in range(1, 5)]
    assert sorted(item for part in parts for item in part) == items
    assert part_of(items, None) == items
    for wrong in ("0/4", "5/4", "1", "a/b"):
        with pytest.raises(ConfigError, match="give I/N"):
            part_of(items, wrong)
    with pytest.raises(ConfigError, match="SLURM_ARRAY_TASK_ID"):
        part_of(items, "auto")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-o", "x.nii.gz"], "with --input it is a folder"),
        (["-o", "o", "--ct", "a"], "--ct and --input"),
        (["-o", "o", "--format", "dicom-sr"], "give dicom-seg,dicom-sr"),
        (["-o", "o", "--format", "dcm"], "choose from"),
    ],
)
def test_what_cannot_be_together(trained, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match=message):
        main(["--model", str(trained), "-i", str(tmp_path / "in"), *flags])
