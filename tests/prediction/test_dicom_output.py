import warnings

import numpy as np
import pydicom
import pytest

from isanet_jax.cases.grid import resample
from isanet_jax.prediction.dicom_output import write_segmentation, write_structures
from isanet_jax.scans.dicom import find_series, read_folder
from isanet_jax.scans.structures import read_region
from tests.scans.make_dicom import study, write_series

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
    image, slices = read_folder(ct, "CT")
    series, _ = find_series(ct)
    for name, mask in masks(image.data.shape).items():
        seg, structures = tmp_path / f"{name}.seg.dcm", tmp_path / f"{name}.rs.dcm"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write_segmentation(seg, mask, slices)
            write_structures(structures, mask, image.affine, slices)
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


def test_what_is_written_names_the_ct_and_not_the_patient(ct, tmp_path):
    image, slices = read_folder(ct, "CT")
    mask = masks(image.data.shape)["ball"]
    paths = {}
    for keep in (False, True):
        paths[keep] = tmp_path / f"{keep}.seg.dcm", tmp_path / f"{keep}.rs.dcm"
        write_segmentation(paths[keep][0], mask, slices, keep_identity=keep)
        write_structures(paths[keep][1], mask, image.affine, slices, keep_identity=keep)
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
    image, slices = read_folder(ct, "CT")
    empty = np.zeros(image.data.shape, bool)
    write_segmentation(tmp_path / "a.dcm", empty, slices)
    write_structures(tmp_path / "b.dcm", empty, image.affine, slices)
    (one,), _ = find_series(tmp_path / "a.dcm")
    found, _ = read_region(one, "Neoplasm", [])
    assert not found.data.any()
    (region,) = pydicom.dcmread(tmp_path / "b.dcm").ROIContourSequence
    assert "ContourSequence" not in region  # a sequence without items is against the standard
