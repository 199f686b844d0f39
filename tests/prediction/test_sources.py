"""What is found to predict, by the names that people give to files."""

import zipfile

import pytest

from isanet_jax.errors import DataError
from isanet_jax.files import write_json
from isanet_jax.prediction.sources import find_scans
from tests.dicom import make_dicom

KINDS = {"ct": "ct", "pet": "pet"}


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("STS_001/CT_image.nii.gz", "STS_001/PET_image.nii.gz", "STS_001/PET_mask.nii.gz"),
         {"STS_001": ("STS_001/CT_image.nii.gz", "STS_001/PET_image.nii.gz")}),
        (("P1__CT.nii.gz", "P1__PT.nii.gz", "P2__CT.nii.gz", "P2__PT.nii.gz"),
         {"P1": ("P1__CT.nii.gz", "P1__PT.nii.gz"), "P2": ("P2__CT.nii.gz", "P2__PT.nii.gz")}),
        (("a_0000.nii.gz", "a_0001.nii.gz"), {"a": ("a_0000.nii.gz", "a_0001.nii.gz")}),
        (("x/SUV.nii.gz", "x/PET.nii.gz", "x/CT.nii.gz", "x/CTres.nii.gz", "x/SEG.nii.gz"),
         {"x": ("x/CT.nii.gz", "x/SUV.nii.gz")}),
        (("ct_hu.nii.gz", "pet_suv.nii.gz", "mask.nii.gz"),
         {"scans": ("ct_hu.nii.gz", "pet_suv.nii.gz")}),
        (("FDG-PET-CT_7_CT.nii", "FDG-PET-CT_7_SUV.nii"),
         {"FDG-PET-CT_7": ("FDG-PET-CT_7_CT.nii", "FDG-PET-CT_7_SUV.nii")}),
        (("a/day1_CT.nii", "a/day1_PET.nii", "b/day1_CT.nii", "b/day1_PET.nii"),
         {"a_day1": ("a/day1_CT.nii", "a/day1_PET.nii"),
          "b_day1": ("b/day1_CT.nii", "b/day1_PET.nii")}),
    ],
)  # fmt: skip
def test_names_of_nifti_files(tmp_path, names, found):
    source = touch(tmp_path / "scans", *names)
    scans = find_scans([source], KINDS).scans
    assert {
        scan.case: tuple(str(scan.images[n].relative_to(source)) for n in KINDS) for scan in scans
    } == found


def test_channels_are_those_of_dataset_json(tmp_path):
    source = touch(tmp_path / "imagesTs", "a_0000.nii.gz", "a_0001.nii.gz")
    write_json(tmp_path / "dataset.json", {"channel_names": {"0": "PET", "1": "CT"}})
    (scan,) = find_scans([source], KINDS).scans
    assert scan.images["ct"].name == "a_0001.nii.gz"


def test_what_lacks_an_image_is_named(tmp_path):
    source = touch(tmp_path / "s", "a_CT.nii", "a_PET.nii", "b_CT.nii")
    found = find_scans([source], KINDS)
    assert [scan.case for scan in found.scans] == ["a"]
    assert found.failures == {"b": f"no PET in {source}"}


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (("x.nii", "y.nii"), ("",), "whose names do not say what they are, such as x.nii, y.nii"),
        (("CT.nii",), ("CT.nii",), "is one image; expected CT and PET. .*-i CT PET"),
        (("CT.nii", "a.nii", "b.nii"), ("CT.nii", "a.nii", "b.nii"), "3 images; expected 2"),
        (("notes.txt",), ("notes.txt",), "neither DICOM"),
        (("notes.txt",), ("",), "no DICOM among"),
        (("a",), ("b",), "does not exist"),
    ],
)
def test_what_cannot_be_meant(tmp_path, names, given, message):
    source = touch(tmp_path / "s", *names)
    with pytest.raises(DataError, match=message):
        find_scans([source / name for name in given], KINDS)


def test_dicom_studies_by_name_and_what_they_lack(tmp_path):
    for number in range(3):
        shared = make_dicom.study(patient_id=f"P{number}")
        make_dicom.write_patient(tmp_path / "d" / str(number), shared)
    for path in (tmp_path / "d" / "1" / "b").iterdir():
        path.unlink()
    found = find_scans([tmp_path / "d"], KINDS)
    assert [scan.case for scan in found.scans] == ["P0", "P2"]
    assert "no PET among " in found.failures["P1"]
    (scan,) = find_scans([tmp_path / "d" / "2"], KINDS).scans
    assert set(scan.study.images) == {"ct", "pet"}
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for path in (tmp_path / "d" / "0").rglob("*"):
            archive.write(path, path.relative_to(tmp_path))
    assert [scan.case for scan in find_scans([tmp_path / "d.zip"], KINDS).scans] == ["P0"]
