"""Volumes read from NIfTI files and written to them."""

import math
from pathlib import Path

import nibabel
import numpy as np
from nibabel.affines import apply_affine

from isanet_jax.errors import DataError
from isanet_jax.files import check_new, replace_when_done
from isanet_jax.machine import GIB, usable_memory
from isanet_jax.volume import Volume, check_grid

_DEFLATE_LIMIT = 1032  # bytes out of one byte of a gzip file


_UNIT_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


NIFTI_SUFFIXES = (".nii.gz", ".nii")


OTHER_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".img", ".mgz")  # of volumes


_GEOMETRY_FIELDS = (
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


class _Quaternion:
    """A header that accepts a quaternion too long by float32's rounding, as others do."""

    def get_qform_quaternion(self):
        vector = np.array([self["quatern_b"], self["quatern_c"], self["quatern_d"]], float)
        if 1 < vector @ vector < 1 + 1e-4:
            return np.array([0.0, *vector / np.linalg.norm(vector)])
        return super().get_qform_quaternion()


class _Header(_Quaternion, nibabel.Nifti1Header):
    pass


class _Header2(_Quaternion, nibabel.Nifti2Header):
    pass


class _Image(nibabel.Nifti1Image):
    header_class = _Header


class _Image2(nibabel.Nifti2Image):
    header_class = _Header2


def _open(path):
    """The image of a NIfTI-1 or NIfTI-2 file, its voxels not yet read."""
    try:
        return _Image.from_filename(path)
    except Exception as error:
        try:
            return _Image2.from_filename(path)
        except Exception:
            raise error from None


def _affine_mm(image):
    """An image's affine, its lengths from the header's unit to mm."""
    affine = np.asarray(image.affine, np.float64)
    affine[:3] *= _UNIT_MM[image.header.get_xyzt_units()[0]]
    return affine


def read_volume(path, *, case=None, dtype=np.float32, placed=True) -> Volume:
    """Reads a NIfTI file, slope and intercept applied; lengths are read in the header's unit.

    Args:
        path: `.nii` or `.nii.gz`.
        case: ID to name in errors.
        dtype: of the returned data.
        placed: whether it must say where it lies; False where only its own grid counts.

    Raises:
        DataError: missing, truncated, not NIfTI or not named so, not 3D, without geometry, with two
            geometries that contradict each other, with voxels or a field of a size that no scan
            has, or with voxels that are NaN, infinite, complex or colours.
    """
    path = Path(path)
    where = {"case": case, "file": path}
    if not path.is_file():
        raise DataError("no such file", wanted="a NIfTI file", **where)
    _check_name(path, where)
    try:
        image = _open(path)
        shape = image.shape
        _check_size(path, image, dtype, where)
        affine = _affine_mm(image)
        _check_numbers(image, where)
        if len(shape) in (3, 4) and min(shape) > 0 and np.isfinite(affine).all():
            check_grid(shape[:3], affine, where)
            if placed:
                _check_forms(image.header, shape, where)
        if len(shape) == 4 and shape[3] == 1:
            # Some converters write a trailing axis of one; it changes nothing.
            data = np.asarray(image.dataobj, dtype=dtype)[..., 0]
        elif len(shape) == 3:
            data = np.asarray(image.dataobj, dtype=dtype)
        else:
            data = None
    except DataError:
        raise
    except Exception as error:  # nibabel and gzip raise a dozen types on damaged files
        raise DataError(
            f"cannot be read as NIfTI ({' '.join(str(error).split())[:200]})",
            wanted="a complete .nii or .nii.gz file",
            action="Copy or convert it again",
            **where,
        ) from error
    if data is None:
        raise DataError(
            f"a {len(shape)}D image of shape {shape}",
            wanted="one 3D volume",
            action="Extract the volume that you want (one frame, one channel)",
            **where,
        )
    determinant = np.linalg.det(affine[:3, :3]) if np.isfinite(affine).all() else 0.0
    if min(shape) < 1 or not np.isfinite(affine).all() or abs(determinant) < 1e-9:
        raise DataError(
            f"shape {shape} with an affine that is singular or not finite",
            wanted="a qform or sform that places the volume in space",
            **where,
        )
    bad = data.size - np.count_nonzero(np.isfinite(data)) if data.dtype.kind == "f" else 0
    if bad:
        raise DataError(
            f"{bad} of {data.size} voxels are NaN or infinite",
            wanted="finite values",
            action="Replace them (air is -1024 HU, no uptake is 0 SUV) or export the scan again",
            **where,
        )
    return Volume(data, affine, _geometry_header(image.header))


def _check_numbers(image, where):
    """Raises DataError where a voxel is not one number: of them, a part would be read."""
    if image.get_data_dtype().kind not in "biuf":
        raise DataError(
            f"voxels of the type {image.header.get_value_label('datatype')}",
            wanted="one real number a voxel",
            action="Export the scan itself, in place of a picture or a complex transform of it",
            **where,
        )


def read_grid(path, *, case=None) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of a NIfTI file, whose voxels are not read. Raises DataError."""
    try:
        image = _open(path)
        affine = _affine_mm(image)
        shape = tuple(int(n) for n in image.shape[:3])
        if len(shape) != 3 or not np.isfinite(affine).all():
            raise ValueError(f"shape {shape}, or an affine that is not finite")
        return shape, affine
    except Exception as error:  # nibabel raises a dozen types on damaged files
        raise DataError(
            f"its header cannot be read ({' '.join(str(error).split())[:200]})",
            case=case,
            file=path,
            wanted="NIfTI",
        ) from error


def _check_name(path, where):
    """Raises DataError where a file is not named as NIfTI, or not as what it is."""
    if path.suffix.lower() in (".hdr", ".img"):
        raise DataError(
            "is half of a pair of header and image (Analyze 7.5, or NIfTI's older form)",
            wanted="one .nii or .nii.gz file",
            action="Convert it; Analyze does not say which side is left",
            **where,
        )
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        raise DataError(
            f"is not named as NIfTI ({path.suffix or 'no suffix'})",
            wanted="a .nii or .nii.gz file",
            action="Convert it",
            **where,
        )
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if compressed and path.suffix.lower() != ".gz":
        raise DataError(
            "its content is gzip-compressed",
            wanted="a name that says so, in .nii.gz",
            action="Rename it",
            **where,
        )


def _check_forms(header, shape, where):
    """Raises DataError where a header's qform and sform say nothing, or two different things."""
    if not (header["qform_code"] or header["sform_code"]):
        raise DataError(
            "qform_code and sform_code are both 0: it has no place in space",
            wanted="a qform or sform, by which CT, PET and mask are put together",
            action="Convert it from its DICOM again, with a program that keeps the geometry",
            **where,
        )
    if header["qform_code"] and header["sform_code"]:
        ends = np.array([[0, n - 1] for n in shape[:3]])
        corners = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)
        shift = header.get_sform() - header.get_qform()
        apart = np.linalg.norm(apply_affine(shift, corners), axis=1).max()
        if apart > 0.5 * np.linalg.norm(header.get_sform()[:3, :3], axis=0).min():
            raise DataError(
                f"its qform (code {header['qform_code']}) and sform (code "
                f"{header['sform_code']}) place its voxels up to {apart:.3g} apart",
                wanted="one place in space",
                action="Set the code of the wrong one to 0",
                **where,
            )


def _check_size(path, image, dtype, where):
    """Before it is read: ValueError where a file cannot hold what its header announces, DataError
    where it cannot be held in memory.
    """
    announced = math.prod(image.shape) * image.header["bitpix"].item() // 8
    held = path.stat().st_size * (_DEFLATE_LIMIT if path.suffix.lower() == ".gz" else 1)
    if announced > held:
        raise ValueError(f"its header announces {announced} bytes, and the file cannot hold them")
    needed, usable = math.prod(image.shape) * np.dtype(dtype).itemsize, usable_memory()
    if usable is not None and needed > usable:
        raise DataError(
            f"unpacked it takes {needed / GIB:.1f} GiB, and this process may use "
            f"{usable / GIB:.1f} GiB",
            wanted="a volume that fits into memory",
            action="Crop it to the patient, give the job more memory, or use fewer --workers",
            **where,
        )


def _geometry_header(header):
    """The header's place in space alone, as bytes: its text fields may hold a patient's name."""
    geometry = nibabel.Nifti1Header(endianness="<")
    for field in _GEOMETRY_FIELDS:
        geometry[field] = header[field]
    return geometry.binaryblock


def write_volume(path, volume: Volume, *, overwrite=False) -> None:
    """Writes a volume as NIfTI, whole or not at all.

    The geometry (qform, sform, their codes, voxel sizes and units) is the header's bit for bit
    where the volume carries one, else the affine as sform and qform with code 1.

    Args:
        path: ends in `.nii` or `.nii.gz`; its folder is made.
        volume: data of any integer or float type that NIfTI knows.
        overwrite: replace an existing file.

    Raises:
        DataError: wrong suffix, an existing file, or one that cannot be written (disk full, ...).
    """
    path = Path(path)
    suffix = check_output(path, overwrite=overwrite)
    image = _image_of(volume)
    with replace_when_done(path, suffix) as partial:
        nibabel.save(image, partial)


def as_small(volume: Volume) -> Volume:
    """The volume in the type that it is written in: a mask uint8, whole values (CT) int16, others
    float32.
    """
    data = volume.data
    if data.dtype == bool:
        data = data.astype(np.uint8)
    elif np.array_equal(data, np.rint(data)) and np.abs(data).max() < 2**15:
        data = data.astype(np.int16)
    return Volume(data, volume.affine, volume.header)


def as_stored(volume: Volume) -> Volume:
    """The volume as NIfTI gives it back: float32, the affine as its header holds it."""
    image = _image_of(as_small(volume))
    image.update_header()
    affine = np.asarray(image.header.get_best_affine(), np.float64)
    return Volume(np.asarray(image.dataobj, np.float32), affine, _geometry_header(image.header))


def _image_of(volume):
    """The NIfTI image that a volume is written as."""
    if volume.header is None:
        image = nibabel.Nifti1Image(volume.data, volume.affine)
        image.set_sform(volume.affine, 1)
        image.set_qform(volume.affine, 1)
        # A qform cannot hold the shear of a tilted gantry; programs that prefer it would be off.
        if np.abs(image.get_qform() - volume.affine).max() > 1e-3:
            image.set_qform(None, 0)
        image.header.set_xyzt_units("mm")
    else:
        header = nibabel.Nifti1Header(volume.header, endianness="<", check=False)
        header.set_data_shape(volume.data.shape)
        header.set_data_dtype(volume.data.dtype)
        # affine=None leaves the header's qform and sform untouched.
        image = nibabel.Nifti1Image(volume.data, None, header)
    return image


def check_output(path, *, overwrite=False) -> str:
    """Checks that a NIfTI file may be written at `path` and returns its suffix.

    Raises:
        DataError: not a NIfTI name, or the file exists and `overwrite` is False.
    """
    path = Path(path)
    suffix = next((s for s in NIFTI_SUFFIXES if path.name.endswith(s)), None)
    if suffix is None:
        raise DataError("cannot tell the format", file=path, wanted="a name in .nii.gz or .nii")
    check_new(path, overwrite=overwrite)
    return suffix
