import gzip
import os
import resource
import struct

import nibabel
import numpy as np
import pytest

from isanet_jax.errors import DataError
from isanet_jax.nifti import read_volume, write_volume
from isanet_jax.volume import Volume, bounds_mm

OBLIQUE = np.array(
    [[-0.9, 0.1, 0.2, 10.0], [0.1, -1.1, 0.3, 20.0], [0.1, 0.2, 3.0, -30.0], [0, 0, 0, 1]]
)


def save(path, data, affine=OBLIQUE, *, sform=0, qform=1, **header):
    image = nibabel.Nifti1Image(data, None)
    image.set_qform(affine, qform, strip_shears=True)
    image.set_sform(affine, sform)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def test_writing_keeps_the_geometry_bit_for_bit(tmp_path, generator):
    source = save(
        tmp_path / "ct.nii.gz",
        generator.normal(size=(5, 6, 7)).astype(np.float32),
        descrip=b"DOE^JANE",
        db_name=b"JANE",
    )
    volume = read_volume(source)
    mask = Volume((volume.data > 0).astype(np.uint8), volume.affine, volume.header)
    write_volume(tmp_path / "mask.nii.gz", mask)

    before, after = (nibabel.load(tmp_path / n).header for n in ("ct.nii.gz", "mask.nii.gz"))
    for name in (
        "dim",
        "pixdim",
        "qform_code",
        "sform_code",
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "qoffset_x",
        "qoffset_y",
        "qoffset_z",
        "srow_x",
        "srow_y",
        "srow_z",
        "xyzt_units",
    ):
        assert before[name].tobytes() == after[name].tobytes(), name
    written = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), mask.data)
    assert b"JANE" not in after.binaryblock


def test_geometry_is_read_from_qform_where_sform_is_unset(tmp_path):
    path = save(tmp_path / "q.nii.gz", np.zeros((3, 4, 5), np.int16), sform=0, qform=1)
    expected = nibabel.load(path).get_qform()
    np.testing.assert_allclose(read_volume(path).affine, expected)


def test_slope_and_intercept_are_applied(tmp_path):
    image = nibabel.Nifti1Image(np.full((2, 2, 2), 100, np.int16), np.eye(4))
    image.header.set_slope_inter(2.0, -1024.0)
    nibabel.save(image, tmp_path / "ct.nii.gz")
    stored = np.asarray(nibabel.load(tmp_path / "ct.nii.gz").dataobj)
    np.testing.assert_allclose(read_volume(tmp_path / "ct.nii.gz").data, stored)


def test_bounds_enclose_the_outer_edges():
    affine = np.diag([-2.0, 1.0, 3.0, 1.0])
    np.testing.assert_allclose(bounds_mm((4, 5, 6), affine), [[-7, -0.5, -1.5], [1, 4.5, 16.5]])


def bad_files(folder):
    good = save(folder / "good.nii.gz", np.zeros((20, 20, 20), np.float32))
    content = good.read_bytes()
    (folder / "gzip.nii").write_bytes(content)
    (folder / "truncated.nii.gz").write_bytes(content[: len(content) // 2])
    (folder / "text.nii.gz").write_text("not an image")
    (folder / "empty.nii").write_bytes(b"")
    (folder / "pair.hdr").write_bytes(bytes(348))
    (folder / "ct.nrrd").write_bytes(b"NRRD0004\n")
    save(folder / "complex.nii.gz", np.ones((4, 4, 4), np.complex64))
    colours = np.zeros((4, 4, 4), [(name, "u1") for name in "RGB"])
    save(folder / "colours.nii.gz", colours)
    save(folder / "four.nii.gz", np.zeros((4, 4, 4, 3), np.float32))
    save(folder / "nan.nii.gz", np.full((4, 4, 4), np.nan, np.float32))
    save(folder / "inf.nii.gz", np.full((4, 4, 4), np.inf, np.float32))
    flat = bytearray(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)).to_bytes())
    flat[280:328] = bytes(48)  # sform rows of zero
    (folder / "singular.nii").write_bytes(flat)
    # A few kilobytes that a header would have become 5 GB of voxels.
    header = nibabel.Nifti1Header()
    header.set_data_shape((1100, 1100, 1100))
    header.set_data_dtype(np.uint8)
    header.set_sform(np.eye(4), 1)
    with gzip.open(folder / "bomb.nii.gz", "wb") as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(1400):
            file.write(bytes(2**20))
    for name, size in (("fine", 0.04), ("coarse", 1000.0)):
        image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.diag([size] * 3 + [1]))
        nibabel.save(image, folder / f"{name}.nii.gz")


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    bad_files(folder)
    return folder


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1000.0), ("meter", 0.001), ("mm", 1.0)])
def test_lengths_are_read_in_the_headers_unit(tmp_path, unit, factor):
    """As ITK does. What is written keeps the header, and is read back alike."""
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32), factor * np.diag([2, 3, 4, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(volume.spacing_mm, [2, 3, 4], rtol=1e-6)
    write_volume(tmp_path / "b.nii.gz", volume)
    again = read_volume(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(again.affine, volume.affine)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truncated.nii.gz", "cannot be read as NIfTI"),
        ("text.nii.gz", "cannot be read as NIfTI"),
        ("gzip.nii", "content is gzip-compressed; expected a name that says so, in .nii.gz"),
        ("empty.nii", "cannot be read as NIfTI"),
        ("absent.nii.gz", "no such file"),
        ("four.nii.gz", "4D image of shape (4, 4, 4, 3)"),
        ("nan.nii.gz", "64 of 64 voxels are NaN or infinite"),
        ("inf.nii.gz", "64 of 64 voxels are NaN or infinite"),
        ("complex.nii.gz", "voxels of the type complex64; expected one real number a voxel"),
        ("colours.nii.gz", "voxels of the type RGB; expected one real number a voxel"),
        ("singular.nii", "singular"),
        ("pair.hdr", "half of a pair of header and image"),
        ("ct.nrrd", "is not named as NIfTI (.nrrd); expected a .nii or .nii.gz file. Convert it"),
        ("bomb.nii.gz", "1100 x 1100 x 1100 voxels of 1 x 1 x 1 mm; expected at most 1073741824"),
        ("fine.nii.gz", "voxels of 0.04 x 0.04 x 0.04 mm; expected sizes from 0.1 to 20 mm"),
        ("coarse.nii.gz", "voxels of 1000 x 1000 x 1000 mm; expected sizes from 0.1 to 20 mm"),
    ],
)
def test_bad_files_are_refused_by_case_and_file(bad, name, message):
    with pytest.raises(DataError) as error:
        read_volume(bad / name, case="P7")
    assert message in str(error.value)
    assert "case P7" in str(error.value)
    assert name in str(error.value)


def test_existing_file_is_refused_without_overwrite(tmp_path):
    volume = Volume(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    write_volume(tmp_path / "m.nii.gz", volume)
    with pytest.raises(DataError, match="exists already.*--overwrite"):
        write_volume(tmp_path / "m.nii.gz", volume)
    write_volume(tmp_path / "m.nii.gz", volume, overwrite=True)
    with pytest.raises(DataError, match="cannot tell the format"):
        write_volume(tmp_path / "m.png", volume)


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, generator):
    volume = Volume(generator.normal(size=(30, 30, 30)), np.eye(4))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(DataError, match="cannot be written"):
            write_volume(tmp_path / "big.nii.gz", volume)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_two_forms_are_one_place_or_refused(tmp_path):
    """CT and PET without any were put together by their middles."""
    data = np.zeros((10, 10, 10), np.float32)
    plain, moved = np.diag([2.0, 2.0, 2.0, 1.0]), np.diag([2.0, 2.0, 2.0, 1.0])
    moved[0, 3] = 5
    image = nibabel.Nifti1Image(data, None)
    image.header["qform_code"] = image.header["sform_code"] = 0
    nibabel.save(image, tmp_path / "none.nii")
    with pytest.raises(DataError, match="qform_code and sform_code are both 0"):
        read_volume(tmp_path / "none.nii")
    assert read_volume(tmp_path / "none.nii", placed=False).data.shape == (10, 10, 10)
    image = nibabel.Nifti1Image(data, plain)
    image.set_sform(plain, 1)
    image.set_qform(moved, 1)
    nibabel.save(image, tmp_path / "two.nii")
    with pytest.raises(DataError, match="place its voxels up to 5 apart"):
        read_volume(tmp_path / "two.nii")
    image.set_qform(moved, 0)
    nibabel.save(image, tmp_path / "one.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "one.nii").affine, plain)


def test_a_sheared_grid_is_written_without_a_qform_that_cannot_hold_it(tmp_path):
    """Of a tilted gantry: programs that prefer the qform were 25 mm off."""
    tilted = np.diag([1.0, 1.0, 5.0, 1.0])
    tilted[1, 2] = 1.3
    write_volume(tmp_path / "a.nii", Volume(np.zeros((4, 4, 4), np.uint8), tilted))
    header = nibabel.load(tmp_path / "a.nii").header
    assert (header["qform_code"], header["sform_code"]) == (0, 1)
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine, tilted)
    write_volume(tmp_path / "b.nii", Volume(np.zeros((4, 4, 4), np.uint8), np.diag([2, 2, 3, 1])))
    assert nibabel.load(tmp_path / "b.nii").header["qform_code"] == 1


def test_a_quaternion_too_long_by_rounding_is_read(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32), None)
    image.set_qform(np.diag([-2.0, -2.0, 3.0, 1.0]), 1)
    content = bytearray(image.to_bytes())
    for length in (1.0000003, 1.00004):
        content[256:268] = struct.pack("<3f", 0, 0, length)  # half a turn about z
        (tmp_path / "a.nii").write_bytes(content)
        np.testing.assert_allclose(
            read_volume(tmp_path / "a.nii").affine[:3, :3], np.diag([-2, -2, 3]), atol=1e-6
        )


def test_nifti_2_and_capital_endings_are_read(tmp_path):
    image = nibabel.Nifti2Image(np.ones((4, 4, 4), np.float32), np.diag([2.0, 2.0, 3.0, 1.0]))
    image.set_sform(image.affine, 1)
    nibabel.save(image, tmp_path / "two.nii.gz")
    assert read_volume(tmp_path / "two.nii.gz").data.sum() == 64
    os.rename(tmp_path / "two.nii.gz", tmp_path / "TWO.NII.GZ")
    assert read_volume(tmp_path / "TWO.NII.GZ").data.sum() == 64
