import copy
import shutil
import subprocess
import warnings

import numpy as np
import pydicom
import pytest
from skimage.measure import grid_points_in_poly

from isanet_jax.cases.grid import resample
from isanet_jax.classes import Code
from isanet_jax.dicom.image import one_series, read_image
from isanet_jax.dicom.series import find_series
from isanet_jax.dicom.structures import read_region
from isanet_jax.dicom.write import outlines, write_segmentation, write_structures
from isanet_jax.errors import DataError
from isanet_jax.nifti import read_volume, write_volume
from tests.dicom.make_dicom import markers_in, plant_markers, study, write_series

SECRETS = (b"DOE", b"JANE", b"MRN-1", b"19610203", b"20200102")


@pytest.fixture
def ct(tmp_path):
    shared = study("DOE^JANE", "NO", "MRN-1")
    values = np.random.default_rng(0).integers(-1000, 1000, (7, 12, 10))
    folder = tmp_path / "ct"
    write_series(
        folder, "CT", shared, values, origin=(-31.5, 12.25, 700), spacing=(0.9765625, 1, 3)
    )
    return folder


def masks(shape):
    generator = np.random.default_rng(1)
    ball = np.zeros(shape, bool)
    ball[2:8, 3:9, 2:5] = True
    ring = ball.copy()
    ring[4:6, 5:7, 2:4] = False
    checkers = np.indices(shape).sum(0) % 2 == 0  # voxels that touch at corners only
    edge = np.zeros(shape, bool)
    edge[0, 0, 0] = edge[-1, -1, -1] = True
    return {
        "ball": ball, "ring": ring, "checkers": checkers, "edge": edge,
        "noise": generator.random(shape) < 0.3, "all": np.ones(shape, bool),
    }  # fmt: skip


def test_masks_come_back_from_seg_and_rtstruct_voxel_for_voxel(ct, tmp_path):
    image, slices = read_image(one_series(ct, "CT"))
    series, _ = find_series(ct)
    for name, mask in masks(image.data.shape).items():
        seg, structures = tmp_path / f"{name}.seg.dcm", tmp_path / f"{name}.rs.dcm"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write_segmentation(seg, {"tumour": mask}, slices)
            write_structures(structures, {"tumour": mask}, image.affine, slices)
        (one,), _ = find_series(seg)
        found, on = read_region(one, "Neoplasm", series)
        assert on.uid == series[0].uid
        np.testing.assert_array_equal(found.data, mask, err_msg=name)
        alone, on = read_region(one, "Neoplasm", [])
        assert on is None
        on_ct = resample(alone, mask.shape, image.affine, order=0, fill=False)
        np.testing.assert_array_equal(on_ct, mask, err_msg=name)
        (one,), _ = find_series(structures)
        found, on = read_region(one, "Neoplasm", series)
        assert on.uid == series[0].uid
        np.testing.assert_array_equal(found.data, mask, err_msg=name)


def test_each_class_is_a_segment_and_a_region_of_its_name(ct, tmp_path):
    """Overlapping ones, and one without a voxel."""
    image, slices = read_image(one_series(ct, "CT"))
    series, _ = find_series(ct)
    ball = masks(image.data.shape)["ball"]
    classes = {"whole": ball, "core": ball & masks(image.data.shape)["noise"], "none": ball & False}
    codes = {"core": Code("SCT", "86049000", "Neoplasm, Primary")}
    write_segmentation(tmp_path / "a.dcm", classes, slices, codes=codes)
    write_structures(tmp_path / "b.dcm", classes, image.affine, slices)
    for name in ("a", "b"):
        (one,), _ = find_series(tmp_path / f"{name}.dcm")
        for of_class in ("whole", "core"):
            found, _ = read_region(one, of_class, series)
            np.testing.assert_array_equal(found.data, classes[of_class], err_msg=of_class)
    segments = pydicom.dcmread(tmp_path / "a.dcm").SegmentSequence
    types = [s.SegmentedPropertyTypeCodeSequence[0].CodeValue for s in segments]
    assert types == ["108369006", "86049000", "108369006"]
    labels = [s.SegmentLabel for s in segments]
    regions = pydicom.dcmread(tmp_path / "b.dcm").StructureSetROISequence
    assert labels == [r.ROIName for r in regions] == list(classes)


def test_a_slice_thickness_is_kept_or_follows_from_the_positions(ct, tmp_path):
    image, slices = read_image(one_series(ct, "CT"))
    step = abs(slices[1].ImagePositionPatient[2] - slices[0].ImagePositionPatient[2])
    mask = masks(image.data.shape)["ball"]
    for given, expected in ((step / 2, step / 2), (None, step)):
        for one in slices:
            if given is None:
                one.pop("SliceThickness", None)
            else:
                one.SliceThickness = f"{given:.6g}"
        path = tmp_path / f"{given}.seg.dcm"
        write_segmentation(path, {"tumour": mask}, slices)
        (measures,) = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
        assert float(measures.SliceThickness) == pytest.approx(expected)


def test_what_is_written_names_the_ct_and_not_the_patient(ct, tmp_path):
    image, slices = read_image(one_series(ct, "CT"))
    mask = masks(image.data.shape)["ball"]
    paths = {}
    for keep in (False, True):
        paths[keep] = tmp_path / f"{keep}.seg.dcm", tmp_path / f"{keep}.rs.dcm"
        write_segmentation(paths[keep][0], {"tumour": mask}, slices, keep_identity=keep)
        write_structures(paths[keep][1], {"tumour": mask}, image.affine, slices, keep_identity=keep)
    for path in paths[False]:
        content = path.read_bytes()
        assert not [secret for secret in SECRETS if secret in content]
    uids = set()
    for path in (*paths[False], *paths[True]):
        dataset = pydicom.dcmread(path)
        assert dataset.StudyInstanceUID == slices[0].StudyInstanceUID
        assert dataset.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
        for uid in (dataset.SeriesInstanceUID, dataset.SOPInstanceUID):
            assert uid.is_valid
            assert len(uid) <= 64
            uids.add(uid)
        assert slices[3].SOPInstanceUID in str(dataset)  # references the slices
        if path in paths[True]:
            assert dataset.PatientName == "DOE^JANE"
            assert (dataset.PatientID, dataset.StudyDate) == ("MRN-1", "20200102")
    assert len(uids) == 8  # none is used twice
    segment = pydicom.dcmread(paths[False][0]).SegmentSequence[0]
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "108369006"  # neoplasm
    assert segment.SegmentAlgorithmType == "AUTOMATIC"


def test_an_empty_mask_is_a_valid_file(ct, tmp_path):
    image, slices = read_image(one_series(ct, "CT"))
    empty = np.zeros(image.data.shape, bool)
    write_segmentation(tmp_path / "a.dcm", {"tumour": empty}, slices)
    write_structures(tmp_path / "b.dcm", {"tumour": empty}, image.affine, slices)
    (one,), _ = find_series(tmp_path / "a.dcm")
    found, _ = read_region(one, "Neoplasm", [])
    assert not found.data.any()
    (region,) = pydicom.dcmread(tmp_path / "b.dcm").ROIContourSequence
    assert "ContourSequence" not in region  # a sequence without items is against the standard


def test_a_marker_in_every_attribute_reaches_no_output(ct, tmp_path):
    """Planted wherever text may stand; the bytes of what is written are searched for it."""
    image, slices = read_image(one_series(ct, "CT"))
    assert all(plant_markers(one) > 300 for one in slices)
    mask = masks(image.data.shape)["ring"]
    (tmp_path / "out").mkdir()
    write_segmentation(tmp_path / "out" / "a.dcm", {"tumour": mask}, slices)
    write_structures(tmp_path / "out" / "b.dcm", {"tumour": mask}, image.affine, slices)
    assert not markers_in(tmp_path / "out")
    slices[0].save_as(tmp_path / "out" / "c.dcm")
    assert len(markers_in(tmp_path / "out")) == 4


ODD = {
    "SpecificCharacterSet": ["", "ISO_IR 6", ["", "ISO 2022 IR 87"], ["", "ISO 2022 IR 149"], "x"],
    "PatientName": ["", "A^B^C^D^E^F", "山田^太郎", "x" * 200, None],
    "PatientID": ["", "x" * 100, None],
    "PatientBirthDate": ["1961", "19660000", "1966-01-02", "", None],
    "PatientSex": ["MALE", "m", "", None],
    "StudyDate": ["2024-01-02", "0", "20249999", None],
    "StudyTime": ["09:00:00", "250000", "9", None],
    "StudyID": ["x" * 100, None],
    "AccessionNumber": ["x" * 100, None],
    "ReferringPhysicianName": ["x" * 200, None],
    "SliceThickness": [None, "", 0, -1],
    "FrameOfReferenceUID": [None, "", "not a UID"],
    "StudyInstanceUID": ["not a UID"],
    "SeriesNumber": [None, "", -5, 2**31 - 1],
    "InstanceNumber": [None, "", 0],
    "ImageOrientationPatient": [[1, 0, 0, 0, 1, 0.001], [0.6, 0.8, 0, -0.8, 0.6, 0]],
    "PixelSpacing": [[0.5, 0.5000001], [1e-3, 1]],
    "PatientIdentityRemoved": ["YES", "NO", "", "x", None],
    "Modality": ["", "CT", None],
    "Manufacturer": [None, "", "x" * 200],
}


def test_a_thousand_headers_are_written_or_refused_by_name(ct, tmp_path):
    """Whatever a scanner or an archive left: a file that can be read, or one line."""
    image, slices = read_image(one_series(ct, "CT"))
    generator, written = np.random.default_rng(3), 0
    mask = masks(image.data.shape)["ring"]
    for number in range(1000):
        changed = copy.deepcopy(slices)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for keyword in generator.choice(list(ODD), generator.integers(1, 5), replace=False):
                value = ODD[keyword][generator.integers(len(ODD[keyword]))]
                for one in changed:
                    if value is None:
                        one.pop(keyword, None)
                    else:
                        setattr(one, keyword, value)
            keep = bool(generator.integers(2))
            path = tmp_path / f"{number}.dcm"
            try:
                if number % 2:
                    write_segmentation(path, {"tumour": mask}, changed, keep_identity=keep)
                else:
                    write_structures(
                        path, {"tumour": mask}, image.affine, changed, keep_identity=keep
                    )
            except DataError as error:
                assert str(path) in str(error)  # noqa: PT017 - either is right
                assert not path.exists()
                continue
            written += 1
            assert pydicom.dcmread(path).Modality in ("SEG", "RTSTRUCT")
            path.unlink()
    assert written > 500


def test_what_is_written_is_valid_by_the_standards_checker(ct, tmp_path):
    """dciodvfy of Debian's dicom3tools, where it is installed."""
    checker = shutil.which("dciodvfy")
    if not checker:
        pytest.skip("no dciodvfy: install dicom3tools")
    image, slices = read_image(one_series(ct, "CT"))
    for name, mask in masks(image.data.shape).items():
        for content in (mask, np.zeros_like(mask)):
            path = tmp_path / f"{name}.dcm"
            write_structures(path, {"tumour": content}, image.affine, slices)
            ran = subprocess.run(
                [checker, path], capture_output=True, text=True, errors="replace", check=False
            )
            errors = [line for line in ran.stderr.splitlines() if line.startswith("Error")]
            assert not errors, name


@pytest.mark.parametrize("flags", [(), ("--xor-contours",)])
def test_plastimatch_reads_the_same_masks(ct, tmp_path, flags):
    """Which unites contours unless it is told otherwise."""
    program = shutil.which("plastimatch")
    if program is None:
        pytest.skip("plastimatch is not installed")
    image, slices = read_image(one_series(ct, "CT"))
    write_volume(tmp_path / "ct.nii.gz", image)
    for name, mask in masks(image.data.shape).items():
        write_structures(tmp_path / f"{name}.dcm", {"tumour": mask}, image.affine, slices)
        command = [program, "convert", "--input", tmp_path / f"{name}.dcm"]
        command += ["--fixed", tmp_path / "ct.nii.gz", "--output-prefix", tmp_path / name]
        command += ["--prefix-format", "nii.gz", *flags]
        subprocess.run(command, capture_output=True, check=True)
        (path,) = (tmp_path / name).glob("*.nii.gz")
        np.testing.assert_array_equal(read_volume(path).data > 0, mask, err_msg=name)


def test_a_ring_stays_a_ring_for_readers_that_unite_contours():
    """Each contour filled on its own, and all united."""
    for name, mask in masks((10, 12, 1)).items():
        plane = mask[..., 0]
        united = np.zeros(plane.shape, bool)
        for line in outlines(plane):
            united |= grid_points_in_poly(plane.shape, line)
        np.testing.assert_array_equal(united, plane, err_msg=name)
