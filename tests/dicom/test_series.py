import copy
import shutil
import zipfile
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, EnhancedCTImageStorage

from isanet_jax.dicom import is_dicom
from isanet_jax.dicom import series as dicom
from isanet_jax.dicom.image import one_series, read_image
from isanet_jax.dicom.series import find_series
from isanet_jax.dicom.structures import read_region, region_names
from isanet_jax.errors import DataError
from isanet_jax.nifti import read_volume
from tests.conftest import real_data
from tests.dicom.make_dicom import square, study, write_series, write_structures

VALUES = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4))


def test_slices_are_ordered_by_position_and_rescaled_each(tmp_path):
    write_series(
        tmp_path, "CT", study(), VALUES, origin=(10, 20, 30), spacing=(1, 2, 3),
        RescaleIntercept=-24, RescaleSlope=2,
    )  # fmt: skip
    volume, slices = read_image(one_series(tmp_path, "CT"))
    assert volume.data.shape == (4, 5, 6)
    np.testing.assert_array_equal(volume.data, VALUES.transpose(2, 1, 0) * 2 - 24)
    assert [s.InstanceNumber for s in slices] == [1, 2, 3, 4, 5, 6]
    # DICOM's x and y (left, posterior) are minus RAS+.
    np.testing.assert_allclose(volume.affine @ [3, 2, 1, 1], [-13, -24, 33, 1])


def test_an_oblique_series_follows_its_directions(tmp_path):
    across, down = np.array([0.8, 0.6, 0]), np.array([0, 0, -1.0])
    slices = write_series(tmp_path, "CT", study(), VALUES, spacing=(1, 1, 2))
    normal = np.cross(across, down)
    for index, one in enumerate(slices):
        one.ImageOrientationPatient = [*across, *down]
        one.ImagePositionPatient = list(np.array([5, 6, 7]) + 2 * index * normal)
        one.save_as(tmp_path / f"{(index * 7) % 101:03d}", enforce_file_format=True)
    volume, _ = read_image(one_series(tmp_path, "CT"))
    at = np.array([5, 6, 7]) + 2 * across + 1 * down + 6 * normal
    np.testing.assert_allclose((volume.affine @ [2, 1, 3, 1])[:3], at * [-1, -1, 1], atol=1e-9)
    np.testing.assert_array_equal(volume.data[:, :, 3], VALUES[3].T)


def spoil(folder, index, **attributes):
    import pydicom

    path = folder / f"{(index * 7) % 101:03d}"
    dataset = pydicom.dcmread(path)
    for name, value in attributes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"ImagePositionPatient": [0, 0, 7.5]}, "slices are missing between"),
        ({"ImagePositionPatient": [0, 0, 3]}, "1 slices lie where another one does"),
        ({"PixelSpacing": [2, 2.5]}, "slices with different PixelSpacing"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "different ImageOrientationPatient"),
        ({"RescaleSlope": None}, "RescaleSlope is missing"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
        ({"PixelData": b"\0" * 10}, "cannot be read as DICOM"),
        ({"NumberOfFrames": 3}, "several frames"),
    ],
)
def test_a_series_that_is_not_one_image_is_refused(tmp_path, attributes, message):
    write_series(tmp_path, "CT", study(), VALUES)
    spoil(tmp_path, 2, **attributes)
    with pytest.raises(DataError, match=message):
        read_image(one_series(tmp_path, "CT"), case="A")


def test_a_slice_that_no_scanner_makes_is_refused_before_memory_is_taken(tmp_path):
    write_series(tmp_path, "CT", study(), VALUES)
    for path in tmp_path.iterdir():
        one = pydicom.dcmread(path)
        one.Rows = one.Columns = 20000
        one.save_as(path, enforce_file_format=True)
    with pytest.raises(DataError, match="a slice of 20000 x 20000 pixels"):
        read_image(one_series(tmp_path, "CT"))


def test_gaps_of_a_few_percent_are_the_scanners_rounding(tmp_path):
    write_series(tmp_path, "CT", study(), VALUES)
    spoil(tmp_path, 2, ImagePositionPatient=[0, 0, 6.1])
    volume, _ = read_image(one_series(tmp_path, "CT"))
    np.testing.assert_allclose(volume.spacing_mm, (2, 2, 3))
    (tmp_path / f"{14:03d}").unlink()
    with pytest.raises(DataError, match="missing between 3.00 to 9.00 mm"):
        read_image(one_series(tmp_path, "CT"))


def test_slices_that_are_stated_or_left_out_evenly_are_told(tmp_path):
    values = np.zeros((6, 4, 4))
    slices = write_series(tmp_path / "a", "CT", study(), values, NumberOfSlices=6)
    notes = []
    read_image(one_series(tmp_path / "a", "CT"), notes=notes)
    assert not notes
    for path in (tmp_path / "a").iterdir():  # every second one
        if pydicom.dcmread(path).SOPInstanceUID in {s.SOPInstanceUID for s in slices[1::2]}:
            path.unlink()
    read_image(one_series(tmp_path / "a", "CT"), notes=notes)
    assert notes == [
        "3 of 6 slices (NumberOfSlices) are here",
        "slices are 6.00 mm apart and 3.00 mm thick (SliceThickness): are some missing?",
    ]


def test_archives_are_read_in_place(tmp_path):
    """Whatever an archive calls its members: nothing is written anywhere."""
    write_series(tmp_path / "in", "CT", study(), VALUES)
    outer = tmp_path / "out"
    outer.mkdir()
    with zipfile.ZipFile(outer / "a.zip", "w") as archive:
        for number, path in enumerate(sorted((tmp_path / "in").iterdir())):
            archive.write(path, f"../../evil/{number}.dcm" if number % 2 else f"/abs/{number}")
        archive.writestr("readme.txt", "no DICOM")
    before = sorted(tmp_path.rglob("*"))
    series, left = find_series(outer)
    assert [(s.kind, len(s.files)) for s in series] == [("CT", 6)]
    assert left == {"not DICOM, or damaged": 1}
    ForkingPickler.dumps(series)  # as for the processes that prepare them
    np.testing.assert_array_equal(
        read_image(one_series(outer, "CT"))[0].data, VALUES.transpose(2, 1, 0)
    )
    assert sorted(tmp_path.rglob("*")) == before
    (outer / "b.zip").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(DataError, match="b.zip.*cannot be read as a zip archive"):
        find_series(outer)


def test_regions_are_voxel_centres_within_and_holes_are_cut_out(tmp_path):
    slices = write_series(tmp_path / "ct", "CT", study(), np.zeros((4, 12, 12)), spacing=(1, 1, 2))
    lines = [square(1.5, 8.5, 2), square(3.5, 5.5, 2), square(1.5, 4.5, 4)]
    shared = {"StudyInstanceUID": slices[0].StudyInstanceUID}
    write_structures(tmp_path / "rs", shared, slices, {"GTV": lines, "GTV_big": lines[:1]})
    series, _ = find_series(tmp_path)
    (structures,) = [s for s in series if s.kind == "RTSTRUCT"]
    mask, _ = read_region(structures, "GTV", series)
    expected = np.zeros((12, 12, 4), bool)
    expected[2:9, 2:9, 1] = True
    expected[4:6, 4:6, 1] = False
    expected[2:5, 2:5, 2] = True
    np.testing.assert_array_equal(mask.data, expected)
    with pytest.raises(DataError, match="0 regions are called 'gtv'"):
        read_region(structures, "gtv", series)
    with pytest.raises(DataError, match="none of the image series"):
        read_region(structures, "GTV", [])


@pytest.mark.parametrize(
    ("z", "message"), [(3.0, "0.50 slice distances"), (20.0, "1 of 1 contours lie outside")]
)
def test_contours_that_do_not_fit_the_image(tmp_path, z, message):
    slices = write_series(tmp_path / "ct", "CT", study(), np.zeros((4, 12, 12)), spacing=(1, 1, 2))
    shared = {"StudyInstanceUID": slices[0].StudyInstanceUID}
    write_structures(tmp_path / "rs", shared, slices, {"GTV": [square(1.5, 8.5, z)]})
    series, _ = find_series(tmp_path)
    (structures,) = [s for s in series if s.kind == "RTSTRUCT"]
    with pytest.raises(DataError, match=message):
        read_region(structures, "GTV", series)


def test_real_series_equal_their_nifti():
    folder, expected = real_data("sts_dicom"), real_data("sts")
    for patient in ("STS_001", "STS_008"):
        for kind, tolerance in (("CT", 0), ("PET", 1e-5)):
            volume, _ = read_image(one_series(folder / patient / kind / "image", kind))
            series, _ = find_series(folder / patient)
            name = f"GTV_Mass_{kind}"
            (region,) = [s for s in series if region_names(s.first) == [name]]
            mask, _ = read_region(region, name, series)
            for found, name in ((volume, "image"), (mask, "mask")):
                nifti = read_volume(expected / patient / f"{kind}_{name}.nii.gz")
                np.testing.assert_allclose(found.affine, nifti.affine, atol=1e-4)
                np.testing.assert_allclose(found.data, nifti.data, atol=tolerance)


def _zeros(slice_, path, mib, **changes):
    """A slice with as many MiB of zeros for pixels."""
    one = copy.deepcopy(slice_)
    one.PixelData, one.SOPInstanceUID = bytes(mib * 2**20), f"1.2.3.{mib}"
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    for key, value in changes.items():
        setattr(one.file_meta, key, value)
    one.save_as(path, enforce_file_format=True)
    return path


def test_what_unpacks_to_more_than_any_scan_has_is_not_unpacked(tmp_path, monkeypatch):
    """A zip of 6 MB became 5 GB, deflated DICOM of 6 MB became 6."""
    monkeypatch.setattr(dicom, "_LARGEST_FILE", 2**20)
    folder = tmp_path / "ct"
    first, *_ = write_series(folder, "CT", study(), VALUES[:2])
    deflated = {"TransferSyntaxUID": DeflatedExplicitVRLittleEndian}
    _zeros(first, folder / "small.dcm", 0, **deflated)
    _zeros(first, folder / "large.dcm", 3, **deflated)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(_zeros(first, tmp_path / "z.dcm", 2), "z.dcm")
    (series,), left = find_series(folder)
    assert len(series.files) == 3
    with pytest.raises(ValueError, match=r"unpacks to more than 1 MiB"):
        dicom.DicomFile(folder / "a.zip", "z.dcm").read()
    with pytest.raises(ValueError, match=r"inflates to more than 1 MiB"):
        dicom.DicomFile(folder / "large.dcm").read()
    assert "small.dcm" in {file.path.name for file in series.files}
    assert left == {"not DICOM, or damaged": 2}


def test_structure_sets_of_one_series_are_each_their_own(tmp_path):
    shared = study()
    slices = write_series(tmp_path / "ct", "CT", shared, VALUES)
    uid = "1.2.3.4"
    for name in ("BODY", "GTV"):
        made = write_structures(tmp_path / name, shared, slices, {name: [square(1, 4, 3)]})
        made.SeriesInstanceUID = uid
        made.save_as(tmp_path / name)
    made.SeriesInstanceUID = slices[0].SeriesInstanceUID  # the CT's own: against the standard
    made.SOPInstanceUID = "1.2.3.5"
    made.save_as(tmp_path / "third")
    series, _ = find_series(tmp_path)
    found = [(s.kind, region_names(s.first)) for s in series if s.kind == "RTSTRUCT"]
    assert sorted(found) == [("RTSTRUCT", ["BODY"]), ("RTSTRUCT", ["GTV"]), ("RTSTRUCT", ["GTV"])]
    (image,) = [s for s in series if s.kind == "CT"]
    assert len(image.files) == 6


@pytest.mark.parametrize("name", ["0000", "zzz"])
@pytest.mark.parametrize("types", [["ORIGINAL", "PRIMARY", "LOCALIZER"], ["DERIVED", "SECONDARY"]])
def test_an_odd_image_in_a_series_is_left_out_first_or_last(tmp_path, name, types):
    slices = write_series(tmp_path, "CT", study(), VALUES)
    scout = copy.deepcopy(slices[0])
    scout.SOPInstanceUID = scout.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    scout.ImageType, scout.ImageOrientationPatient = types, [1, 0, 0, 0, 0, -1]
    scout.save_as(tmp_path / name, enforce_file_format=True)
    notes = []
    volume, _ = read_image(one_series(tmp_path, "CT"), notes=notes)
    assert volume.data.shape == (4, 5, 6)
    if "LOCALIZER" not in types:  # which is a series of its own, and no slice
        assert notes == [
            "1 of 7 files of the CT series are of another image type, size or direction and were "
            f"left out: {name}"
        ]


def test_files_that_cannot_be_read_beside_a_series_are_told(tmp_path):
    write_series(tmp_path / "ct", "CT", study(), VALUES)
    for name in ("200", "201"):
        (tmp_path / "ct" / name).write_bytes(b"")
    (tmp_path / "ct" / "README.txt").write_text("no image")
    (tmp_path / "ct" / "._000").write_bytes(b"of macOS")
    notes = []
    read_image(one_series(tmp_path / "ct", "CT"), notes=notes)
    assert notes == [
        "2 files beside its 6 cannot be read as DICOM (empty, damaged or cut short): 200, 201"
    ]


def test_datasets_without_a_preamble_are_read(tmp_path):
    slices = write_series(tmp_path / "a", "CT", study(), VALUES)
    (tmp_path / "b").mkdir()
    for index, one in enumerate(slices):
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, True
        write_dataset(buffer, Dataset(one))
        (tmp_path / "b" / str(index)).write_bytes(buffer.getvalue())
    assert is_dicom(tmp_path / "b" / "0")
    volume, _ = read_image(one_series(tmp_path / "b", "CT"))
    np.testing.assert_array_equal(volume.data, read_image(one_series(tmp_path / "a", "CT"))[0].data)


def test_an_enhanced_ct_is_refused_by_what_it_is(tmp_path):
    (one, *_) = write_series(tmp_path, "CT", study(), VALUES[:1])
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    one.save_as(tmp_path / "000", enforce_file_format=True)
    with pytest.raises(
        DataError, match=r"0 CT series \(enhanced CT.*convert the series to classic DICOM"
    ):
        read_image(one_series(tmp_path, "CT"))
    write_series(tmp_path / "pet", "PT", study(), VALUES)  # beside a series of another kind, too
    with pytest.raises(DataError, match="convert the series to classic DICOM"):
        read_image(one_series(tmp_path, "CT"))


def test_a_protected_archive_is_refused_for_what_it_is(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.dcm", b"x")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of encryption
    path.write_bytes(content)
    with pytest.raises(DataError, match="protected by a password"):
        find_series(tmp_path)


def test_a_file_is_named_with_its_archive(tmp_path):
    assert str(dicom.DicomFile(tmp_path / "a.zip", "b/c.dcm")) == f"{tmp_path / 'a.zip'}, 'b/c.dcm'"
    assert str(dicom.DicomFile(tmp_path / "c.dcm")) == str(tmp_path / "c.dcm")


def retyped(folder, indices, **attributes):
    for index in indices:
        spoil(folder, index, **attributes)


@pytest.mark.parametrize("derived", [(4, 5), (0, 2, 4), (1, 3), (0, 1, 2, 3)])
def test_slices_of_another_type_that_complete_the_stack_belong_to_it(tmp_path, derived):
    """As of a de-identifier that blanked burned-in text in some."""
    write_series(tmp_path, "CT", study(), VALUES)
    retyped(tmp_path, derived, ImageType=["DERIVED", "PRIMARY", "AXIAL"])
    notes = []
    volume, _ = read_image(one_series(tmp_path, "CT"), notes=notes)
    np.testing.assert_array_equal(volume.data, VALUES.transpose(2, 1, 0))
    assert not notes


def test_what_does_not_complete_the_stack_is_left_out_and_told(tmp_path):
    shared = study()
    slices = write_series(tmp_path / "a", "CT", shared, VALUES)
    uid = {"SeriesInstanceUID": slices[0].SeriesInstanceUID}
    derived = {"ImageType": ["DERIVED", "PRIMARY"], "origin": (0, 0, 1.0), **uid}
    write_series(tmp_path / "b", "CT", shared, VALUES[:3], **derived)
    series, _ = find_series(tmp_path)
    assert sorted(len(one.files) for one in series) == [3, 6]
    for one in series:
        assert "is two images, of 6 and 3 files" in one.warnings[0]


def test_slices_that_share_one_instance_uid_are_slices_all_the_same(tmp_path):
    slices = write_series(tmp_path / "a", "CT", study(), VALUES)
    for index in range(1, len(VALUES)):
        spoil(tmp_path / "a", index, SOPInstanceUID=slices[0].SOPInstanceUID)
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # true copies
    notes = []
    volume, _ = read_image(one_series(tmp_path, "CT"), notes=notes)
    np.testing.assert_array_equal(volume.data, VALUES.transpose(2, 1, 0))
    assert notes == [
        "5 files have the SOP Instance UID of another one, and lie elsewhere: they were taken as "
        "slices of their own"
    ]
    _, left = find_series(tmp_path)
    assert left == {"a second copy of an instance": 6}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("MR", {"EchoTime": 5.0}, r"differ in their EchoTime: 2.5, 5.0; .*not several echoes"),
        ("MR", {"ImageType": ["DERIVED", "PRIMARY", "DIXON", "FAT"]}, "several image types, as of"),
        ("PT", {"FrameReferenceTime": 60000}, "differ in their FrameReferenceTime; .*time frames"),
        ("CT", {"InstanceNumber": 99}, "lie where another one does; .*dynamic or gated"),
    ],
)
def test_images_in_one_place_are_told_by_what_they_differ_in(tmp_path, kind, changes, message):
    first = {
        "EchoTime": 2.5,
        "FrameReferenceTime": 1000,
        "ImageType": ["DERIVED", "PRIMARY", "DIXON", "WATER"],
    }
    first = {name: value for name, value in first.items() if name in changes}
    slices = write_series(tmp_path / "a", kind, study(), VALUES, **first)
    uid = {"SeriesInstanceUID": slices[0].SeriesInstanceUID}
    write_series(tmp_path / "b", kind, study(), VALUES, **uid, **changes)
    with pytest.raises(DataError, match=f"6 slices .*{message}"):
        read_image(one_series(tmp_path, "PET" if kind == "PT" else kind))
