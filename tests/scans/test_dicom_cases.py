import json

import nibabel
import numpy as np
import pytest

from isanet_jax.cases.command import main
from isanet_jax.cases.store import read_cohort
from isanet_jax.errors import DataError
from isanet_jax.scans.dicom import find_series
from isanet_jax.scans.dicom_cases import find_studies
from tests.conftest import real_data
from tests.scans.make_dicom import square, study, write_patient, write_series, write_structures


def studies_of(folder, *regions, **more):
    return find_studies(find_series(folder)[0], regions, **more)


def test_series_are_chosen_by_what_they_are(tmp_path):
    shared = write_patient(tmp_path)
    # Further series that must not be taken: a scout, a PET without attenuation correction.
    values = np.ones((12, 10, 10))
    write_series(tmp_path / "e", "CT", shared, values, ImageType=["DERIVED", "X", "LOCALIZER"])
    write_series(tmp_path / "f", "PT", shared, values, CorrectedImage=["DECY"], spacing=(4, 4, 3))
    (found,), failures, left = studies_of(tmp_path, "GTV_Mass")
    assert not failures
    assert not left
    assert (found.case, found.region) == ("P1", "GTV_Mass")
    assert (len(found.ct.files), len(found.pet.files)) == (8, 8)
    told = "; ".join(found.left)
    for text in ("no attenuation correction", "CT localizer", "MR (not read)"):
        assert text in told


def test_the_region_is_named_exactly_or_is_the_only_one(tmp_path):
    write_patient(tmp_path)
    for regions in ((), ("GTV",)):
        _, failures, _ = studies_of(tmp_path, *regions)
        assert "regions GTV_Edema, GTV_Mass" in failures["P1"]
    (found,), _, _ = studies_of(tmp_path, "GTV_Research", "GTV_Edema")
    assert found.region == "GTV_Edema"


def test_a_patients_identity_is_not_used_unless_asked_for(tmp_path):
    shared = study("DOE^JANE", "NO", "MRN-0815")
    write_patient(tmp_path, shared)
    (found,), _, _ = studies_of(tmp_path, "GTV_Mass")
    assert found.case.startswith("anon_")
    assert found.case == found.patient
    (again,), _, _ = studies_of(tmp_path, "GTV_Mass")
    assert again.case == found.case
    (named,), _, _ = studies_of(tmp_path, "GTV_Mass", keep_identity=True)
    assert named.case == "MRN-0815"


def test_studies_of_one_patient_are_cases_of_one_patient(tmp_path):
    for number in (1, 2):
        write_patient(tmp_path / str(number), study(patient_id="P7"))
    write_series(tmp_path / "3", "CT", study(patient_id="P8"), np.ones((3, 4, 4)))
    found, failures, left = studies_of(tmp_path, "GTV_Mass")
    assert [(s.case, s.patient) for s in found] == [("P7_1", "P7"), ("P7_2", "P7")]
    assert not failures
    assert left == ["P8: no pair of CT and PET among CT series 2 (3)"]


def test_dicom_to_cases_in_one_command(tmp_path, capsys):
    for number in range(2):
        write_patient(tmp_path / "in" / str(number), study("DOE^JANE", "NO", f"MRN{number}"))
    output = tmp_path / "cases"
    arguments = ["dicom", "--source", str(tmp_path / "in"), "--output", str(output)]
    arguments += ["--roi", "GTV_Mass", "--size", "16", "--folds", "2", "--workers", "1"]
    main(arguments)
    cohort = read_cohort(output)
    assert len(cohort.cases) == 2
    for entry in cohort.cases.values():
        assert entry["volume_ml"] == pytest.approx(9 * 9 * 4 * 12 / 1000)
    shown = capsys.readouterr()
    written = "".join(p.read_text() for p in output.rglob("*.json"))
    for text in (shown.out + shown.err, written):
        for secret in ("DOE", "JANE", "MRN", "19610203", "20200102"):
            assert secret not in text
    assert "'GTV_Mass' drawn on CT" in shown.out
    main(arguments)  # again: nothing is converted twice
    assert capsys.readouterr().out.count(": kept") == 2


def test_a_study_that_fails_is_named_and_the_others_are_converted(tmp_path, capsys):
    for patient, region in (("P1", "GTV_Mass"), ("P2", "Other"), ("P3", "GTV_Mass")):
        write_patient(tmp_path / "in" / patient, study(patient_id=patient), region=region)
    arguments = ["dicom", "--source", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    arguments += ["--roi", "GTV_Mass", "--size", "16", "--folds", "2", "--workers", "1"]
    with pytest.raises(DataError, match=r"1 of 3 cases failed:\n.*case P2: regions GTV_Edema, Oth"):
        main(arguments)
    main([*arguments, "--skip-bad"])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert list(manifest["failed"]) == ["P2"]
    capsys.readouterr()


def test_convert_takes_each_argument_alone(tmp_path, capsys):
    write_patient(tmp_path / "in")
    out = tmp_path / "out"
    main(["convert", "--ct", str(tmp_path / "in" / "a"), "--output", str(out)])
    assert sorted(p.name for p in out.iterdir()) == ["ct_hu.nii.gz"]
    main(["convert", "--pet", str(tmp_path / "in" / "b"), "--output", str(out)])
    structures = ["--rtstruct", str(tmp_path / "in" / "d" / "rs"), "--roi", "GTV_Mass"]
    main(["convert", *structures, "--output", str(out)])
    ct, mask = (nibabel.load(out / n) for n in ("ct_hu.nii.gz", "mask.nii.gz"))
    assert ct.get_data_dtype() == np.int16
    assert ct.shape == mask.shape
    assert np.asarray(mask.dataobj).sum() == 9 * 9 * 4
    assert "324 voxels" in capsys.readouterr().out
    with pytest.raises(DataError, match="0 PET series"):
        main(["convert", "--pet", str(tmp_path / "in" / "a"), "--output", str(out)])


def test_a_region_on_pet_keeps_its_grid(tmp_path):
    shared = study()
    values = np.ones((4, 10, 10))
    slices = write_series(tmp_path / "b", "PT", shared, values, spacing=(4, 4, 3))
    lines = {"GTV": [square(5, 22, 3)]}
    write_structures(tmp_path / "rs", shared, slices, lines)
    main(["convert", "--rtstruct", str(tmp_path / "rs"), "--output", str(tmp_path / "out")])
    mask = nibabel.load(tmp_path / "out" / "mask.nii.gz")
    assert mask.shape == (10, 10, 4)
    assert np.asarray(mask.dataobj).sum() == 16


def test_real_patients(tmp_path):
    source = real_data("sts_dicom")
    found, failures, left = studies_of(source)
    assert [(s.case, s.region) for s in found] == [
        ("STS_001", "GTV_Mass_CT"),
        ("STS_008", "GTV_Mass_CT"),
    ]
    assert not failures
    assert not left
