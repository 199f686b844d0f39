import json
import shutil
from collections import Counter

import nibabel
import numpy as np
import pydicom
import pytest

from isanet_jax.cases.case import read_case
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.cli.prepare import main
from isanet_jax.dicom.series import DicomFile, find_series
from isanet_jax.dicom.studies import Asked, _has_word, choose_from, find_studies
from isanet_jax.errors import ConfigError, DataError
from tests.conftest import real_data
from tests.dicom.make_dicom import (
    MARKERS,
    PET,
    markers_in,
    plant_markers,
    square,
    study,
    write_patient,
    write_series,
    write_structures,
)


def studies_of(folder, *regions, keep_identity=False, **more):
    asked = Asked(regions=regions, **more)
    return find_studies(find_series(folder)[0], asked, keep_identity=keep_identity)


def test_series_are_chosen_by_what_they_are(tmp_path):
    shared = write_patient(tmp_path)
    # Further series that must not be taken: a scout, a PET without attenuation correction.
    values = np.ones((12, 10, 10))
    write_series(tmp_path / "e", "CT", shared, values, ImageType=["DERIVED", "X", "LOCALIZER"])
    write_series(tmp_path / "f", "PT", shared, values, CorrectedImage=["DECY"], spacing=(4, 4, 3))
    (found,), failures, left = studies_of(tmp_path, "GTV_Mass")
    assert not failures
    assert not left
    assert (found.case, found.regions) == ("P1", {"tumour": ("GTV_Mass",)})
    assert (len(found.images["ct"].files), len(found.images["pet"].files)) == (8, 8)
    told = "; ".join(found.left)
    for text in ("no attenuation correction", "CT localizer", "MR series"):
        assert text in told


def test_the_region_is_named_exactly_or_is_the_only_one(tmp_path):
    write_patient(tmp_path)
    for regions in ((), ("GTV",)):
        _, failures, _ = studies_of(tmp_path, *regions)
        assert "regions GTV_Edema, GTV_Mass" in failures["P1"]
    (found,), _, _ = studies_of(tmp_path, "GTV_Research", "GTV_Edema")
    assert found.regions == {"tumour": ("GTV_Edema",)}


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
    assert left == ["P8: no CT and PET among CT series 2 (3)"]


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
    times = {path: path.stat().st_mtime_ns for path in output.glob("*.zarr.zip")}
    main(arguments)  # again: nothing is made twice
    assert times == {path: path.stat().st_mtime_ns for path in output.glob("*.zarr.zip")}


def test_a_structure_set_is_read_once_for_all_its_regions(tmp_path, monkeypatch):
    write_patient(tmp_path / "in" / "0", study(patient_id="P0"))
    write_patient(tmp_path / "in" / "1", study(patient_id="P1"))
    read, counts = DicomFile.read, Counter()

    def counted(file, *, pixels=False):
        dataset = read(file, pixels=pixels)
        counts[dataset.Modality, str(file)] += 1
        return dataset

    words = ["dicom", "--source", str(tmp_path / "in"), "--size", "16", "--folds", "2"]
    words += ["--workers", "1", "--output"]
    reads = {}
    for name, roi in (("one", ["GTV_Mass"]), ("two", ["GTV_Mass", "GTV_Edema"])):
        counts.clear()
        with monkeypatch.context() as patched:
            patched.setattr(DicomFile, "read", counted)
            regions = [part for one in roi for part in ("--roi", one)] + ["--unite"]
            main([*words, str(tmp_path / name), *regions])
        reads[name] = {file: n for (kind, file), n in counts.items() if kind == "RTSTRUCT"}
    assert reads["one"] == reads["two"]


def test_copies_as_nifti_are_what_the_cases_are_made_of(tmp_path):
    for number in range(2):
        write_patient(tmp_path / "in" / str(number), study(patient_id=f"P{number}"))
    words = ["--roi", "GTV_Mass", "--size", "16", "--folds", "2", "--workers", "1"]
    main(["dicom", "--source", str(tmp_path / "in"), "--output", str(tmp_path / "a"), *words])
    assert not (tmp_path / "a" / "nifti").exists()
    words += ["--nifti", "--output", str(tmp_path / "a")]
    main(["dicom", "--source", str(tmp_path / "in"), *words])
    rows = ["case,ct,pet,label"]
    for case in ("P0", "P1"):
        names = ("ct_hu", "pet_suv", "mask")
        rows.append(",".join([case, *(f"a/nifti/{case}/{name}.nii.gz" for name in names)]))
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    words = ["--source", str(tmp_path / "cases.csv"), "--output", str(tmp_path / "b")]
    main(["table", *words, "--size", "16", "--folds", "2", "--workers", "1"])
    for case in ("P0", "P1"):
        one, other = (read_case(tmp_path / name / f"{case}.zarr.zip") for name in "ab")
        for name in ("ct", "pet"):
            np.testing.assert_array_equal(one.images[name], other.images[name])
        np.testing.assert_array_equal(one.label, other.label)
        differing = {k for k in one.meta if one.meta[k] != other.meta[k]}
        assert differing == {"sources"}


def test_markers_in_every_attribute_reach_neither_cases_nor_reports(tmp_path, capsys):
    """Copies, cases, manifest, tables and what is shown, of both commands that read studies."""
    for number in range(2):
        write_patient(tmp_path / "in" / str(number), study("DOE^JANE", "NO", f"MRN{number}"))
        for path in (tmp_path / "in" / str(number)).rglob("*"):
            if path.is_file():
                one = pydicom.dcmread(path)
                patient = one.PatientID
                plant_markers(one)
                one.PatientID = f"MARKER{patient}"
                if one.Modality == "PT":  # an SUV needs its times
                    for name, value in PET.items():
                        if name in one:
                            setattr(one, name, value)
                one.save_as(path)
    assert markers_in(tmp_path / "in")
    output = tmp_path / "out"
    words = ["--roi", "GTV_Mass", "--workers", "1", "--source"]
    main(["check", *words, str(tmp_path / "in" / "0"), "--output", str(output / "check")])
    words += [str(tmp_path / "in"), "--output", str(output / "cases")]
    main(["dicom", *words, "--size", "16", "--folds", "2", "--nifti"])
    shown = capsys.readouterr()
    assert len(list(output.rglob("*.nii.gz"))) == 6
    assert not markers_in(output)
    assert not [marker for marker in MARKERS if marker in shown.out + shown.err]


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
    assert [(s.case, s.regions["tumour"][0]) for s in found] == [
        ("STS_001", "GTV_Mass_CT"),
        ("STS_008", "GTV_Mass_CT"),
    ]
    assert not failures
    assert not left


def test_one_frame_of_reference_in_two_studies_does_not_mix_them(tmp_path):
    """As an anonymiser writes it: the baseline's CT was paired with the follow-up's PET."""
    for number in (1, 2):
        shared = study(patient_id="P7") | {"FrameOfReferenceUID": "1.2.3.4"}
        write_patient(tmp_path / str(number), shared)
    found, failures, left = studies_of(tmp_path, "GTV_Mass")
    assert not failures
    assert not left
    assert [s.case for s in found] == ["P7_1", "P7_2"]
    for one in found:
        assert one.images["ct"].first.StudyInstanceUID == one.images["pet"].first.StudyInstanceUID


def test_a_ct_and_a_pet_of_two_studies_in_one_frame_are_a_case(tmp_path):
    shared = write_patient(tmp_path)
    for path in (tmp_path / "b").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.StudyInstanceUID = "1.2.3.4"
        dataset.save_as(path)
    (found,), failures, _ = studies_of(tmp_path, "GTV_Mass")
    assert not failures
    assert found.images["pet"].first.StudyInstanceUID == "1.2.3.4"
    assert found.images["ct"].first.StudyInstanceUID == shared["StudyInstanceUID"]


def write_sets(tmp_path, *attributes):
    """Structure sets with GTV on one CT, of growing size."""
    shared = study()
    slices = write_series(tmp_path / "ct", "CT", shared, np.zeros((8, 20, 20)))
    write_series(tmp_path / "pt", "PT", shared, np.ones((8, 10, 10)), spacing=(4, 4, 3))
    for number, changes in enumerate(attributes, start=1):
        lines = {"GTV": [square(3, 3 + 4 * number, 6)]}
        made = write_structures(tmp_path / f"rs{number}", shared, slices, lines)
        made.SeriesInstanceUID = f"1.2.3.{number}"
        for name, value in changes.items():
            setattr(made, name, value)
        made.save_as(tmp_path / f"rs{number}", enforce_file_format=True)


@pytest.mark.parametrize(
    ("sets", "taken"),
    [
        (({"ApprovalStatus": "UNAPPROVED"}, {"ApprovalStatus": "APPROVED"}), 2),
        (({"ApprovalStatus": "APPROVED"}, {"ApprovalStatus": "REJECTED"}), 1),
        (({"ApprovalStatus": "REJECTED"}, {"ApprovalStatus": "UNAPPROVED"}), 2),
        (({"StructureSetDate": "20240101"}, {"StructureSetDate": "20240301"}), 2),
        (
            (
                {"StructureSetDate": "20240101", "StructureSetTime": "150000"},
                {"StructureSetDate": "20240101", "StructureSetTime": "090000.5"},
            ),
            1,
        ),
    ],
)
def test_of_two_structure_sets_the_approved_then_the_newer_one_counts(tmp_path, sets, taken):
    write_sets(tmp_path, *sets)
    (found,), failures, _ = studies_of(tmp_path, "GTV")
    assert not failures
    assert found.structures.uid == f"1.2.3.{taken}"
    assert found.notes == ("1 other structure set(s) with 'GTV' are older or not approved",)


def test_a_structure_set_on_the_pet_goes_before_one_on_another_series(tmp_path):
    shared = study()
    slices = write_series(tmp_path / "ct", "CT", shared, np.zeros((8, 20, 20)))
    on_pet = write_series(tmp_path / "pt", "PT", shared, np.ones((8, 10, 10)), spacing=(4, 4, 3))
    for number, where in ((1, slices), (2, on_pet)):
        made = write_structures(tmp_path / f"rs{number}", shared, where, {"GTV": [square(3, 9, 6)]})
        made.SeriesInstanceUID = f"1.2.3.{number}"
        if number == 1:  # newer, and on a series that is not there
            made.StructureSetDate = "20240301"
            frame = made.ReferencedFrameOfReferenceSequence[0]
            series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
            series.SeriesInstanceUID = "9.9"
        made.save_as(tmp_path / f"rs{number}", enforce_file_format=True)
    (found,), failures, _ = studies_of(tmp_path, "GTV")
    assert not failures
    assert found.structures.uid == "1.2.3.2"


def test_where_nothing_decides_both_are_named_and_one_can_be_chosen(tmp_path):
    write_sets(tmp_path, {}, {})
    _, failures, _ = studies_of(tmp_path, "GTV")
    assert "2 structure sets with 'GTV' would do" in failures["P1"]
    assert "UID 1.2.3.1" in failures["P1"]
    assert "--series UID" in failures["P1"]
    (found,), _, _ = studies_of(tmp_path, "GTV", chosen=frozenset(["1.2.3.2"]))
    assert found.structures.uid == "1.2.3.2"


def test_the_pet_of_the_cts_time_and_no_projection_is_taken(tmp_path):
    """The delayed one has the smaller number, the turning MIP the most images."""
    shared = write_patient(tmp_path)
    values = np.ones((8, 10, 10))
    late = {"SeriesTime": "120000", "AcquisitionTime": "120000", "SeriesNumber": 1}
    write_series(tmp_path / "late", "PT", shared, values, spacing=(4, 4, 3), **late)
    clock = {"AcquisitionDate": "20200102", "AcquisitionTime": "095500"}
    for path in (tmp_path / "a").iterdir():
        dataset = pydicom.dcmread(path)
        for name, value in clock.items():
            setattr(dataset, name, value)
        dataset.save_as(path)
    for index, one in enumerate(
        write_series(tmp_path / "mip", "PT", shared, np.ones((30, 9, 9)), spacing=(4, 4, 3))
    ):
        angle = np.deg2rad(12 * index)
        one.ImageType = ["DERIVED", "SECONDARY", "MIP"]
        one.ImageOrientationPatient = [np.cos(angle), np.sin(angle), 0, 0, 0, -1]
        one.save_as(tmp_path / "mip" / f"{(index * 7) % 101:03d}", enforce_file_format=True)
    (found,), failures, _ = studies_of(tmp_path, "GTV_Mass")
    assert not failures
    assert str(found.images["pet"].first.SeriesTime) == "100000"
    assert "PET mip (not read)" in "; ".join(found.left)


def test_a_derived_pet_is_left_for_the_one_that_was_scanned(tmp_path):
    shared = write_patient(tmp_path)
    values = np.ones((20, 10, 10))  # more slices, which would decide
    kind = ["DERIVED", "PRIMARY", "AXIAL"]
    write_series(tmp_path / "x", "PT", shared, values, spacing=(4, 4, 3), ImageType=kind)
    (found,), failures, _ = studies_of(tmp_path, "GTV_Mass")
    assert not failures
    assert len(found.images["pet"].files) == 8


def test_two_names_and_none_asked_for_are_refused_wherever_they_stand(tmp_path):
    """A body and a tumour in two structure sets: the first file's only region was taken."""
    write_sets(tmp_path, {}, {})
    made = pydicom.dcmread(tmp_path / "rs1")
    made.StructureSetROISequence[0].ROIName = "BODY"
    made.save_as(tmp_path / "rs1", enforce_file_format=True)
    _, failures, _ = studies_of(tmp_path)
    assert "regions BODY, GTV" in failures["P1"]


def test_what_was_left_out_and_assumed_is_told_with_the_case(tmp_path, capsys):
    write_patient(tmp_path / "in")
    (tmp_path / "in" / "a" / "200").write_bytes(b"")
    for path in (tmp_path / "in" / "b").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose = 350
        dataset.save_as(path)
    arguments = ["--source", str(tmp_path / "in"), "--roi", "GTV_Mass", "--workers", "1"]
    main(["check", *arguments, "--output", str(tmp_path / "check")])
    told = (tmp_path / "check" / "check.csv").read_text()
    for text in ("1 files beside its 8 cannot be read", "was taken as MBq"):
        assert text in told
    capsys.readouterr()


def test_regions_are_united_on_request(tmp_path, capsys):
    write_patient(tmp_path / "in")
    asked = ["--roi", "GTV_Mass", "--roi", "GTV_Edema"]
    structures = ["--rtstruct", str(tmp_path / "in" / "d" / "rs"), "--output", str(tmp_path / "o")]
    main(["convert", *structures, *asked])
    assert "'GTV_Mass', 324 voxels" in capsys.readouterr().out
    main(["convert", *structures, *asked, "--unite"])
    # The edema's one slice has 17 x 17 voxels, and the mass's there lies in it.
    assert f"'GTV_Mass' and 'GTV_Edema', {324 - 81 + 289} voxels" in capsys.readouterr().out
    (found,), failures, _ = studies_of(tmp_path / "in", "GTV_Mass", "GTV_Edema", unite=True)
    assert not failures
    assert found.regions == {"tumour": ("GTV_Mass", "GTV_Edema")}
    _, failures, _ = studies_of(tmp_path / "in", "GTV_Mass", "Other", unite=True)
    assert "a region called GTV_Mass and Other" in failures["P1"]
    with pytest.raises(ConfigError, match="--unite needs --roi"):
        main(["convert", *structures, "--unite"])


def test_a_folder_without_a_study_says_what_was_left(tmp_path):
    write_series(tmp_path / "in", "CT", study(patient_id="P8"), np.ones((3, 4, 4)))
    words = ["--source", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--workers", "1"]
    with pytest.raises(DataError, match="no study with a CT and a PET series; left P8: no CT and"):
        main(["dicom", *words])


MR_IMAGES = {"ct": "ct", "pet": "pet", "mr_t1": "mr"}


def test_an_mr_is_chosen_by_its_description(tmp_path):
    shared = study()
    write_patient(tmp_path, shared)  # with an MR that says nothing of itself
    for index, text in enumerate(("AX T2 STIR", "AX T1 FSE")):
        values = np.full((4, 12, 12), index)
        write_series(tmp_path / text[3:5], "MR", shared, values, SeriesDescription=text)
    (found,), failures, _ = studies_of(tmp_path, "GTV_Mass", images=MR_IMAGES)
    assert not failures
    assert tuple(found.images) == ("ct", "pet", "mr_t1")
    assert found.images["mr_t1"].first.SeriesDescription == "AX T1 FSE"
    both = MR_IMAGES | {"mr_t2": "mr"}
    (found,), _, _ = studies_of(tmp_path, "GTV_Mass", images=both)
    assert found.images["mr_t2"].first.SeriesDescription == "AX T2 STIR"
    # Of a weighting that no series has, none is taken in its place.
    _, failures, _ = studies_of(tmp_path, "GTV_Mass", images=MR_IMAGES | {"mr_flair": "mr"})
    assert "no MR series is described as flair" in failures["P1"]


def test_the_only_mr_is_taken_unless_it_is_described_as_something_else(tmp_path):
    shared = study()
    write_patient(tmp_path / "silent", shared)
    (found,), _, _ = studies_of(tmp_path / "silent", "GTV_Mass", images=MR_IMAGES)
    assert any("the only MR series is taken as mr_t1" in text for text in found.notes)
    for path in (tmp_path / "silent" / "c").iterdir():
        one = pydicom.dcmread(path)
        one.SeriesDescription = "T2 FSE"
        one.save_as(path)
    _, failures, _ = studies_of(tmp_path / "silent", "GTV_Mass", images=MR_IMAGES)
    assert "no MR series is described as t1 (found MR series" in failures["P1"]


def test_an_mr_of_another_study_is_taken_in_the_same_frame_only(tmp_path):
    shared = study()
    write_patient(tmp_path, shared)
    for path in (tmp_path / "c").iterdir():
        path.unlink()
    other = study() | {"SeriesDescription": "T1"}
    write_series(tmp_path / "mr", "MR", other, np.ones((4, 12, 12)))
    _, failures, _ = studies_of(tmp_path, "GTV_Mass", images=MR_IMAGES)
    assert "no MR series is described as t1" in failures["P1"]
    near = other | {"FrameOfReferenceUID": shared["FrameOfReferenceUID"]}
    write_series(tmp_path / "mr2", "MR", near, np.ones((4, 12, 12)))
    (found,), failures, _ = studies_of(tmp_path, "GTV_Mass", images=MR_IMAGES)
    assert not failures
    assert found.images["mr_t1"].frame == found.images["ct"].frame


@pytest.mark.parametrize("images", [{"ct": "ct", "flow": "other"}, {"pet": "pet", "late": "pet"}])
def test_images_that_a_study_does_not_tell_apart_are_refused(tmp_path, images):
    write_patient(tmp_path)
    with pytest.raises(ConfigError, match="a study gives one CT, one PET, and any MR"):
        studies_of(tmp_path, "GTV_Mass", images=images)


def test_a_region_without_a_contour_is_as_none(tmp_path):
    """A planning system's template names regions that a patient does not have."""
    write_patient(tmp_path)
    slices = [pydicom.dcmread(p) for p in sorted((tmp_path / "a").iterdir())]
    structures = tmp_path / "d" / "rs"
    shared = {k: slices[0].get(k) for k in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID")}
    write_structures(structures, shared, slices, {"GTVp": [square(7, 25, 6)], "GTVn": []})
    (one,), _, _ = studies_of(tmp_path)  # the only one that is drawn
    assert one.regions == {"tumour": ("GTVp",)}
    (one,), _, _ = studies_of(tmp_path, "GTVn", "GTVp")
    assert one.regions == {"tumour": ("GTVp",)}
    (one,), _, _ = studies_of(tmp_path, classes={"gtvp": ("GTVp",), "gtvn": ("GTVn",)})
    assert one.regions == {"gtvp": ("GTVp",), "gtvn": ()}
    assert "no region GTVn: it has no gtvn" in one.notes
    _, failures, _ = studies_of(tmp_path, "GTVn")
    (reason,) = failures.values()
    assert "regions GTVn (empty), GTVp; expected a region called GTVn" in str(reason)


def test_mr_and_classes_of_dicom_become_cases(tmp_path, capsys):
    """Regions by name: one class has two, which are united; one patient lacks the other class."""
    for number in range(2):
        folder, shared = tmp_path / "in" / str(number), study(patient_id=f"P{number}")
        write_patient(folder, shared)
        for path in (folder / "c").iterdir():
            one = pydicom.dcmread(path)
            one.SeriesDescription = "T1"
            del one.RescaleSlope, one.RescaleIntercept  # as in many MR
            one.save_as(path)
        slices = [pydicom.dcmread(p) for p in sorted((folder / "a").iterdir())]
        regions = {"GTVp": [square(7, 25, 6)], "LN1": [square(27, 33, 9)], "LN2": [square(1, 5, 9)]}
        kept = regions if number == 0 else {"GTVp": regions["GTVp"]}
        (folder / "d" / "rs").unlink()
        write_structures(folder / "d" / "rs", shared, slices, kept)
    output = tmp_path / "cases"
    words = ["--source", str(tmp_path / "in"), "--images", "ct,pet,mr_t1", "--classes",
             "gtvp=GTVp", "gtvn=LN1,LN2", "--workers", "1"]  # fmt: skip
    prepared = ["--output", str(output), "--nifti", "--fit", "whole", "--spacing-mm", "2", "2", "3"]
    main(["dicom", *words, *prepared, "--folds", "2"])
    shown = capsys.readouterr()
    assert "case P1: no region LN1 or LN2: it has no gtvn" in shown.err
    cohort = read_cohort(output)
    assert cohort.settings["classes"] == {"gtvp": [1], "gtvn": [2]}
    first, second = (cohort.cases[case]["volumes_ml"] for case in ("P0", "P1"))
    assert first["gtvp"] == pytest.approx(9 * 9 * 12 / 1000)
    assert first["gtvn"] == pytest.approx((3 * 3 + 2 * 2) * 12 / 1000)
    assert second == {"gtvp": first["gtvp"], "gtvn": 0}
    case = read_case(cohort.path("P0"))
    assert case.images["mr_t1"].std() > 0
    copies = {path.name for path in (output / "nifti" / "P0").iterdir()}
    masks = {"mask_gtvp.nii.gz", "mask_gtvn.nii.gz"}
    assert copies == {"ct_hu.nii.gz", "pet_suv.nii.gz", "mr_t1.nii.gz", *masks}
    with pytest.raises(SystemExit):  # the two have the same voxels, and are told so
        main(["check", *words, "--output", str(tmp_path / "check")])
    lines = capsys.readouterr().out.splitlines()
    assert any("P0 " in line and line.split()[-2:] == ["1.13", "3"] for line in lines)
    assert any("MR t1 has the same voxels as case P0" in line for line in lines)
    with pytest.raises(ConfigError, match="regions of DICOM are named by --roi"):
        main(["dicom", *words[:2], *prepared, "--label-values", "1"])


@pytest.mark.parametrize(
    ("description", "word", "has"),
    [
        *(("AX T1 TSE", "t1", True), ("t1_tse_fs", "t1", True), ("T1w", "t1", True)),
        *(("AxT1 FSE", "t1", True), ("SAGT1", "t1", True), ("T1+C", "t1", True)),
        *(("T2 SAG T10-T12", "t1", False), ("POST1", "t1", False), ("2T1", "t1", False)),
        *(("T2 SPAIR UPDATED", "pd", False), ("PD TSE", "pd", True), ("FLAIRED", "flair", False)),
    ],
)
def test_words_of_a_description_are_whole(description, word, has):
    assert _has_word(description.lower(), word) is has


SPIN_ECHO = {"ScanningSequence": "SE"}


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([{"SeriesDescription": "T2 TSE SAG T10-T12"}], "which says T2"),
        ([{"SeriesDescription": "T1 T2 DUAL"}], "which says T1 and T2"),
        ([{"SeriesDescription": "T1 MAP"}], "which says map"),
        (
            [{"SeriesDescription": "T1 SE", "EchoTime": 90.0, **SPIN_ECHO}],
            "echo time of 90 ms",
        ),
        ([{"SeriesDescription": "T1"}, {"SeriesDescription": "AX T1"}], "2 MR for mr_t1 would do"),
        ([{"SeriesDescription": "x", "ProtocolName": "neck_T2"}], "which says T2"),
    ],
)
def test_an_mr_that_is_not_what_is_asked_for_is_not_taken(tmp_path, others, message):
    shared = study()
    write_patient(tmp_path, shared)
    shutil.rmtree(tmp_path / "c")
    uids = []
    for number, more in enumerate(others):
        made = write_series(tmp_path / f"m{number}", "MR", shared, np.ones((8, 20, 20)), **more)
        uids.append(made[0].SeriesInstanceUID)
    _, failures, _ = studies_of(tmp_path, "GTV_Mass", images=MR_IMAGES)
    assert message in failures["P1"]
    # Whoever knows better says so.
    asked = {"images": MR_IMAGES, "chosen": frozenset(uids[:1])}
    (found,), _, _ = studies_of(tmp_path, "GTV_Mass", **asked)
    assert found.images["mr_t1"].uid == uids[0]


def test_a_protocols_name_counts_where_the_series_says_nothing(tmp_path):
    shared = study()
    write_patient(tmp_path, shared)
    shutil.rmtree(tmp_path / "c")
    values = np.ones((8, 20, 20))
    for text in ("AX T1 TSE", "AX T2 TSE"):
        more = {"SeriesDescription": text, "ProtocolName": "neck_T1_T2"}
        write_series(tmp_path / text[3:5], "MR", shared, values, **more)
    images = MR_IMAGES | {"mr_t2": "mr"}
    (found,), _, _ = studies_of(tmp_path, "GTV_Mass", images=images)
    for name in ("mr_t1", "mr_t2"):
        assert name[3:].upper() in found.images[name].first.SeriesDescription


def test_images_of_one_folder_are_chosen_as_a_studys_are(tmp_path):
    """What predict is given: a whole study for each, with a PET that is not corrected."""
    shared = write_patient(tmp_path)
    values = np.ones((8, 10, 10))
    raw = write_series(
        tmp_path / "f", "PT", shared, values, CorrectedImage=["DECY"], spacing=(4, 4, 3)
    )
    both = {"ct": tmp_path, "pet": tmp_path}
    kinds = {"ct": "ct", "pet": "pet"}
    found, notes = choose_from(both, kinds)
    (study_,), _, _ = studies_of(tmp_path, "GTV_Mass")
    assert {name: one.uid for name, one in found.items()} == {
        name: one.uid for name, one in study_.images.items()
    }
    assert any(
        "no attenuation correction" in text and text.startswith("took PET") for text in notes
    )
    write_series(tmp_path / "g", "PT", shared, values, spacing=(4, 4, 3))
    with pytest.raises(DataError, match=r"case X: 2 PET would do: .*Choose with --series UID"):
        choose_from(both, kinds, case="X")
    third = find_series(tmp_path / "g")[0][0].uid
    assert choose_from(both, kinds, chosen={third})[0]["pet"].uid == third
    alone, notes = choose_from({"pet": tmp_path / "f"}, {"pet": "pet"})
    assert (alone["pet"].uid, notes) == (raw[0].SeriesInstanceUID, [])
    with pytest.raises(DataError, match="0 PET series"):
        choose_from({"pet": tmp_path / "a"}, {"pet": "pet"})
