import csv
import json
import re

import nibabel
import numpy as np
import pytest

from isanet_jax.cases.check import _columns, check, warnings_of_all, write_table
from isanet_jax.cases.preparation import Settings
from isanet_jax.cases.prepare import prepare_case
from isanet_jax.classes import Classes
from isanet_jax.cli.prepare import _write_page, main
from isanet_jax.datasets.layout import PET_CT, Scan
from isanet_jax.datasets.phantom import make_phantom
from isanet_jax.datasets.table import read_table
from isanet_jax.errors import DataError
from isanet_jax.nifti import write_volume
from isanet_jax.volume import Volume
from tests.conftest import real_data

AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])


def write(path, data, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, affine), path)


def write_patients(folder, labels):
    """A table of patients with these labels, and CT and PET of random values on their grids."""
    generator = np.random.default_rng(0)
    rows = ["case,ct,pet,label,patient,fold"]
    for number, label in enumerate(labels):
        case = f"P{number}"
        ct = generator.integers(-1000, 1000, label.shape).astype(np.int16)
        pet = generator.random(label.shape).astype(np.float32) * 9
        for name, data in (("ct", ct), ("pet", pet), ("label", label)):
            write(folder / case / f"{name}.nii.gz", data)
        rows.append(
            f"{case},{case}/ct.nii.gz,{case}/pet.nii.gz,{case}/label.nii.gz,{case},{number}"
        )
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def folder(tmp_path):
    """A table of three sound patients; tests spoil what they want."""
    label = np.zeros((12, 12, 12), np.uint8)
    label[3:6, 3:6, 3:6] = 1
    write_patients(tmp_path, [label] * 3)
    return tmp_path


def rows_of(folder, **settings):
    return check(read_table(folder / "cases.csv"), Settings(**settings))


def test_a_sound_cohort(folder):
    rows = rows_of(folder)
    assert not [text for row in rows for text in row["errors"] + row["warnings"]]
    assert rows[0]["label_ml"] == f"{27 * 64 / 1000:.2f}"
    assert (rows[0]["ct_axes"], rows[0]["components"], rows[0]["label_on"]) == ("RAS", "1", "CT")


def errors_of(rows):
    return "; ".join(text for row in rows for text in row["errors"])


def warnings_of(rows):
    return "; ".join(text for row in rows for text in row["warnings"])


def test_the_columns_say_what_the_values_of_an_image_are(folder):
    rows = check(read_table(folder / "cases.csv"), Settings())
    assert rows[0].keys() >= {"ct_hu", "pet_suv", "pet_covers"}
    assert {"mr_values", "pet_suv"} <= set(_columns({"mr": "mr", "pet": "pet"}))
    assert "mr_covers" not in _columns({"mr": "mr", "pet": "pet"})  # by the first image


def test_one_scan_under_two_ids(folder):
    (folder / "P2" / "pet.nii.gz").write_bytes((folder / "P0" / "pet.nii.gz").read_bytes())
    assert "PET has the same voxels as case P0" in errors_of(rows_of(folder))


def test_a_patient_in_two_folds(folder):
    table = folder / "cases.csv"
    table.write_text(table.read_text().replace("P1,1", "P0,1"))
    assert "patient P0 is in folds 0, 1" in errors_of(rows_of(folder))


@pytest.mark.parametrize(
    ("name", "data", "affine", "message"),
    [
        ("pet", np.full((12, 12, 12), 5000.0), AFFINE, "looks like Bq/ml"),
        ("pet", np.full((12, 12, 12), 2.0), AFFINE, "PET values from 2 to 2"),
        ("ct", np.full((12, 12, 12), 30, np.int16), AFFINE, "CT values from 30 to 30"),
        ("pet", np.ones((12, 12, 12)), AFFINE + [[0, 0, 0, 900]] + 0 * AFFINE, "do not overlap"),
        ("label", np.full((12, 12, 12), 7, np.uint8), AFFINE, "label values 7"),
        ("pet", np.full((12, 12, 12), np.nan, np.float32), AFFINE, "NaN"),
    ],
)
def test_errors_name_the_case_and_the_others_are_checked(folder, name, data, affine, message):
    affine = affine.copy()
    affine[3] = [0, 0, 0, 1]
    write(folder / "P1" / f"{name}.nii.gz", data, affine)
    rows = rows_of(folder)
    assert message in errors_of(rows[1:2])
    assert not errors_of([rows[0], rows[2]])


def test_doubts_are_warnings(folder):
    label = np.zeros((12, 12, 12), np.uint8)
    write(folder / "P0" / "label.nii.gz", label)
    label[:6, :6, :6] = 1
    label[11, 11, 11] = 1
    write(folder / "P1" / "label.nii.gz", label)
    faint = np.linspace(0, 0.5, 12**3, dtype=np.float32).reshape(12, 12, 12)
    write(folder / "P2" / "pet.nii.gz", faint)
    write(folder / "P2" / "label.nii.gz", 1 - label)
    rows = rows_of(folder)
    assert "the label is empty" in warnings_of(rows[:1])
    assert "1 of 2 components are smaller than 0.1 ml" in warnings_of(rows[1:2])
    assert "is it SUV?" in warnings_of(rows[2:])
    assert "covers 87% of its field: is it the body, or inverted?" in warnings_of(rows[2:])
    assert not errors_of(rows)


def test_a_label_beyond_the_pet_is_a_warning_and_beyond_the_ct_an_error(folder):
    pet = np.random.default_rng(1).random((12, 12, 12), np.float32) * 9
    write(folder / "P0" / "pet.nii.gz", pet[:, :, 4:], AFFINE @ translation(0, 0, 4))
    label = np.zeros((12, 12, 12), np.uint8)
    label[3:6, 3:6, 3:6] = 1
    write(folder / "P1" / "label.nii.gz", label, AFFINE @ translation(9, 0, 0))
    rows = rows_of(folder)
    assert "33% of the label lies outside the PET" in warnings_of(rows[:1])
    assert "the label lies outside the CT" in errors_of(rows[1:2])
    assert not errors_of([rows[0], rows[2]])


def translation(*voxels):
    moved = np.eye(4)
    moved[:3, 3] = voxels
    return moved


def test_the_report_is_a_table_on_screen_csv_and_html(folder, capsys):
    main(["check", "--source", str(folder / "cases.csv"), "--output", str(folder / "out")])
    assert "3 cases (table), 0 with errors" in capsys.readouterr().out
    write(folder / "P1" / "label.nii.gz", np.full((12, 12, 12), 7, np.uint8))
    with pytest.raises(SystemExit) as stopped:
        main(["check", "--source", str(folder / "cases.csv"), "--output", str(folder / "out")])
    assert stopped.value.code == 1
    with open(folder / "out" / "check.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["errors"]) for row in rows] == [False, True, False]
    page = (folder / "out" / "check.html").read_text()
    assert "3 cases (table), 1 with errors" in page
    assert "label values 7" in page
    # The worst first, all to be looked through; of P1, whose label cannot be read, the images.
    names = [one["name"] for one in json.loads(re.search(r'id="cases">(.*?)</script>', page)[1])]
    assert names[0] == "P1"
    assert sorted(names) == ["P0", "P1", "P2"]
    contents = re.findall(r'id="case-\d+">(.*?)</script>', page)
    for name, text in zip(names, contents, strict=True):
        content = json.loads(text)
        assert [image["name"] for image in content["images"]] == ["ct", "pet"]
        masks = [(mask["class"], mask["role"]) for mask in content["masks"]]
        assert masks == ([] if name == "P1" else [("label", "reference")])
        assert [lesion["what"] for lesion in content["lesions"]] == ["lesion"] * len(masks)


def test_what_a_file_says_is_text_in_the_page(tmp_path):
    row = {"case": "<script>", "errors": ["<b>"], "warnings": []}
    table = write_table([row], tmp_path, PET_CT)
    _write_page(tmp_path / "check.html", [], [row], Settings(), title="a", lines=[], table=table)
    page = (tmp_path / "check.html").read_text()
    page = re.sub(r"<script>.*?</script>", "", page, flags=re.S)  # its own
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def boxes(margins):
    """Labels of various sizes, each so many voxels (3, 2) from the field's sides."""
    generator = np.random.default_rng(1)
    return [np.pad(np.ones(generator.integers(2, 9, 3), np.uint8), beside) for beside in margins]


def test_fields_cropped_around_their_labels_are_told_of(tmp_path, capsys):
    margins = np.full((6, 3, 2), 5)
    margins[:, 2, 0] = range(6)  # one side of six is free
    write_patients(tmp_path, boxes(margins))
    rows = rows_of(tmp_path)
    np.testing.assert_array_equal([row["margins_mm"] for row in rows], 4.0 * margins)
    (text,) = warnings_of_all(rows)
    assert "31 of the fields' 36 sides lie 20 mm from the label" in text
    assert not warnings_of_all(rows[:4])  # too few to tell
    main(["check", "--source", str(tmp_path / "cases.csv"), "--output", str(tmp_path / "out")])
    assert f"warning: {text}" in capsys.readouterr().out
    assert "were cropped around it" in (tmp_path / "out" / "check.html").read_text()


def test_labels_anywhere_in_their_fields_are_not(tmp_path):
    margins = np.random.default_rng(0).integers(0, 12, (6, 3, 2))
    write_patients(tmp_path, boxes(margins))
    assert not warnings_of_all(rows_of(tmp_path))


def test_real_patients():
    from isanet_jax.datasets.sts import read_sts

    scans = read_sts(real_data("sts"))[:6]
    rows = check(scans, Settings())
    assert not errors_of(rows)
    assert [row["label_on"] for row in rows] == ["CT"] * 6
    assert "sides lie 51 mm from the label" in warnings_of_all(rows)[0]


def test_what_is_unknown_is_not_counted_as_tumour(folder):
    label = np.zeros((12, 12, 12), np.uint8)
    label[3:6, 3:6, 3:6], label[9:] = 1, 5
    write(folder / "P0" / "label.nii.gz", label)
    rows = rows_of(folder, classes=Classes(ignore=(5,)))
    assert not errors_of(rows)
    assert (rows[0]["label_ml"], rows[0]["components"]) == (f"{27 * 64 / 1000:.2f}", "1")


def write_scan(folder, volumes, case):
    paths = {name: folder / case / f"{name}.nii.gz" for name in ("ct", "pet", "label")}
    for path, volume in zip(paths.values(), volumes, strict=True):
        write_volume(path, volume)
    label = paths.pop("label")
    return Scan(case, paths, label, case)


def test_check_and_prepare_say_the_same(tmp_path):
    """Of a good scan, and of one with a doubt or an error of each kind."""
    ct, pet, label = patient = make_phantom(np.random.default_rng(5))
    oblique = np.eye(4)
    angle = np.deg2rad(5)
    oblique[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    lopsided = ct.data.copy()
    half = ct.data.shape[0] // 3
    lopsided[:half] = -1000
    dark = pet.data.copy()
    dark[:half] = 0
    scans = {
        "good": patient,
        "oblique": [Volume(v.data, oblique @ v.affine) for v in patient],
        "no label": (ct, pet, Volume(label.data * 0, label.affine)),
        "inverted": (ct, pet, Volume(1 - label.data, label.affine)),
        "faint": (ct, Volume(pet.data * 1e-2, pet.affine), label),
        "short pet": (ct, Volume(pet.data[:, :, :20], pet.affine), label),
        "sides": (Volume(lopsided, ct.affine), Volume(dark[::-1], pet.affine), label),
        "as it is": (Volume(lopsided, ct.affine), Volume(dark, pet.affine), label),
        "elsewhere": (ct, pet, Volume(label.data, np.diag([1, 1, 1, 1e-3]) @ label.affine * 1e3)),
        "bq": (ct, Volume(pet.data * 5000, pet.affine), label),
    }
    settings = Settings(size=16, fit="resize")
    doubted = {}
    for number, (name, volumes) in enumerate(scans.items()):
        scan = write_scan(tmp_path, volumes, f"case{number}")
        (row,) = check([scan], settings)
        doubted[name] = bool(row["warnings"] or row["errors"])
        if row["errors"]:
            with pytest.raises(DataError) as refused:
                prepare_case(scan, settings, tmp_path / "out")
            assert row["errors"] == [str(refused.value)], name
            continue
        meta, _ = prepare_case(scan, settings, tmp_path / "out")
        # But for what the case's grid adds.
        assert row["warnings"] == [t for t in meta["warnings"] if "the case's" not in t], name
    assert [name for name, is_so in doubted.items() if not is_so] == ["good", "as it is"]
    assert any("right and left swapped" in text for text in check(
        [write_scan(tmp_path, scans["sides"], "sides")], settings)[0]["warnings"])  # fmt: skip
