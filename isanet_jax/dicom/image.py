"""The image of a DICOM series: its slices put together as a volume, in HU, SUV or no unit."""

import math

import numpy as np
import pydicom

from isanet_jax.arguments import command
from isanet_jax.dicom.series import CONVERT, Series, find_series, lenient, refuse_damage
from isanet_jax.dicom.suv import suv_factors
from isanet_jax.errors import DataError
from isanet_jax.volume import MOST_VOXELS, Volume, check_grid

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SPARSE = 1.5  # times its thickness from slice to slice: some may have been left out
_GAP_TOLERANCE = 0.1  # of the slice distance; scanners round positions
_PIXEL_GROUP = 0x7FE00000
_LARGEST_SLICE = 2**27  # pixels
_GEOMETRY = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")


def read_image(
    series: Series, *, case=None, notes: list | None = None
) -> tuple[Volume, list[pydicom.Dataset]]:
    """A CT series in HU, a PET series in SUVbw, or an MR series, rescaled where it says how.

    Args:
        series: to be read.
        case: to name in errors.
        notes: gets what was assumed, and what was left out of the series.

    Returns:
        the volume, float32, axes (column, row, slice); and the slices' datasets without pixels,
        in its order.

    Raises:
        DataError: slices that are missing, doubled, of several sizes or orientations; no rescale
            values; pixels that cannot be decoded; no SUV (see `isanet_jax.dicom.suv`).
    """
    where = _where(series, case)
    with lenient(), refuse_damage(**where):
        headers, planes = _read_slices(series, case, where, pixels=True)
        affine, order = _geometry(headers, where)
        headers = [headers[i] for i in order]
        _reorder(planes, order)
        check_grid(planes.shape[::-1], affine, where)
        data = planes.transpose(2, 1, 0)
        if series.kind == "PET":
            data *= suv_factors(headers, **where, notes=notes).astype(np.float32)
        if not np.isfinite(data).all():
            raise DataError("voxels that are not finite after rescaling", **where)
        if notes is not None:
            notes += [*series.warnings, *_lost_slices(headers, affine)]
        return Volume(data, affine), headers


# By what the images of one series that lie in one place differ, and what they then are.
_DIFFERENCES = {
    "EchoTime": "echoes",
    "EchoNumbers": "echoes",
    "ImageType": "image types, as of a Dixon scan",
    "InversionTime": "inversion times",
    "FlipAngle": "flip angles",
    "DiffusionBValue": "b-values",
    "ContrastBolusAgent": "contrast agents",
    "FrameReferenceTime": "time frames",
    "TemporalPositionIdentifier": "time frames",
    "TriggerTime": "gates",
    "AcquisitionTime": "time frames",
    "AcquisitionNumber": "acquisitions",
}


def _doubled(headers, count, where):
    """The error of slices in one place, with what they differ in."""
    for name, what in _DIFFERENCES.items():
        values = sorted({_shown(h.get(name)) for h in headers if h.get(name) not in (None, "")})
        if len(values) > 1:
            listed = ", ".join(values[:4]) + (", ..." if len(values) > 4 else "")
            shown = "" if "Time" in name and "Echo" not in name else f": {listed}"
            return DataError(
                f"{count} slices lie where another one does, and differ in their {name}{shown}",
                wanted=f"one image per series, and not several {what}",
                action=f"Leave one of the {what} in the folder, or export each as a series",
                **where,
            )
    return DataError(
        f"{count} slices lie where another one does",
        wanted="one image per series, not a dynamic or gated one",
        action="Leave one image in the folder",
        **where,
    )


def _shown(value):
    several = isinstance(value, (list, tuple, pydicom.multival.MultiValue))
    return "\\".join(map(str, value)) if several else str(value)


def _lost_slices(headers, affine):
    """Warnings where a series says that it has, or had, more slices than are here."""
    doubts = []
    stated = int(headers[0].get("NumberOfSlices") or 0)
    if stated > len(headers):
        doubts.append(f"{len(headers)} of {stated} slices (NumberOfSlices) are here")
    thick_mm = float(headers[0].get("SliceThickness") or 0)
    apart_mm = float(np.linalg.norm(affine[:3, 2]))
    if 0 < thick_mm * _SPARSE < apart_mm:
        doubts.append(
            f"slices are {apart_mm:.2f} mm apart and {thick_mm:.2f} mm thick (SliceThickness): "
            "are some missing?"
        )
    return doubts


def read_grid(series: Series, *, case=None) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape (columns, rows, slices) and affine of a series, its pixels left alone.

    Raises:
        DataError: see `read_image`.
    """
    where = _where(series, case)
    with lenient(), refuse_damage(**where):
        headers, _ = _read_slices(series, case, where, pixels=False)
        affine, _ = _geometry(headers, where)
        shape = int(headers[0].Columns), int(headers[0].Rows), len(headers)
        check_grid(shape, affine, where)
        return shape, affine


def _where(series, case):
    return {"case": case, "file": series.files[0].path.parent}


def _read_slices(series, case, where, *, pixels):
    """(datasets without pixels, planes (slice, row, column) float32 or None), as the files come.

    Each file is opened once, and its pixels are let go of as soon as they are rescaled.
    """
    headers, planes = [], None
    for index, file in enumerate(series.files):
        with refuse_damage(case=case, file=file):
            dataset = file.read(pixels=pixels)
        _check_slice(dataset, case, file)
        headers.append(dataset)
        if not pixels:
            continue
        shape = int(dataset.Rows), int(dataset.Columns)
        if planes is None:
            if not 0 < math.prod(shape) * len(series.files) <= MOST_VOXELS:
                raise DataError(f"{len(series.files)} slices of {shape[1]} x {shape[0]}", **where)
            planes = np.empty((len(series.files), *shape), np.float32)
        if shape == planes.shape[1:]:  # else the geometry is refused
            planes[index] = _pixels(dataset, file, case, shape, has_unit=series.kind != "MR")
        for tag in [tag for tag in map(int, dataset.keys()) if tag >= _PIXEL_GROUP]:
            del dataset[tag]
    return headers, planes


def _check_slice(dataset, case, file):
    """Raises DataError on what is no slice of a volume."""
    for name in _GEOMETRY:
        if dataset.get(name) in (None, ""):
            raise DataError(f"{name} is missing", case=case, file=file)
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise DataError(
            "several frames in one instance",
            wanted="one instance per slice",
            action=CONVERT,
            case=case,
            file=file,
        )
    if not 0 < int(dataset.Rows) * int(dataset.Columns) <= _LARGEST_SLICE:
        raise DataError(
            f"a slice of {dataset.Columns} x {dataset.Rows} pixels", case=case, file=file
        )


def _pixels(dataset, file, case, shape, *, has_unit):
    """(rows, columns) float64: stored values rescaled as this slice says."""
    scale = []
    for name, without in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        value = dataset.get(name)
        if value is None and not has_unit:
            value = without
        if value is None:
            raise DataError(
                f"{name} is missing",
                wanted="the slope and intercept that make HU or activity of stored values",
                case=case,
                file=file,
            )
        scale.append(float(value))
    with refuse_damage(case=case, file=file):
        stored = dataset.pixel_array
    if stored.shape != shape:
        raise DataError(f"pixels {stored.shape}", wanted=str(shape), case=case, file=file)
    return stored * scale[0] + scale[1]


def _reorder(planes, order):
    """Puts the planes into this order, in place: a copy would need the memory twice."""
    done = np.zeros(len(order), bool)
    for start in range(len(order)):
        if done[start] or order[start] == start:
            continue
        first, place = planes[start].copy(), start
        while order[place] != start:
            planes[place] = planes[order[place]]
            done[place] = True
            place = order[place]
        planes[place] = first
        done[place] = True


def _geometry(headers, where):
    """(affine to RAS+ mm of (column, row, slice), order of the slices)."""
    first = headers[0]
    across, down = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    for name in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        values = np.array([np.ravel(h.get(name)).astype(float) for h in headers])
        if np.ptp(values, axis=0).max() > 1e-4:
            raise DataError(
                f"slices with different {name}",
                wanted="one image per series",
                action="Leave one of the images in the folder",
                **where,
            )
    normal = np.cross(across, down)
    if not 0.99 < np.linalg.norm(normal) < 1.01:
        raise DataError("ImageOrientationPatient is not two perpendicular directions", **where)
    positions = np.array([h.ImagePositionPatient for h in headers], float)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    positions, along = positions[order], along[order]
    count = len(headers)
    if count == 1:
        step = normal * float(first.get("SliceThickness") or 0)
    else:
        distances = np.diff(along)
        usual = float(np.median(distances))
        doubled = int((distances < 0.01).sum())
        if doubled:
            raise _doubled(headers, doubled, where)
        odd = np.flatnonzero(np.abs(distances - usual) > _GAP_TOLERANCE * usual)
        if odd.size:
            gaps = ", ".join(f"{along[i]:.2f} to {along[i + 1]:.2f} mm" for i in odd[:5])
            raise DataError(
                f"slices are missing between {gaps} along the normal (the others are "
                f"{usual:.2f} mm apart)",
                wanted="every slice of the series",
                action="Export it again",
                **where,
            )
        step = (positions[-1] - positions[0]) / (count - 1)
    row_mm, column_mm = (float(v) for v in first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([across * column_mm, down * row_mm, step], axis=1)
    affine[:3, 3] = positions[0]
    if abs(np.linalg.det(affine[:3, :3])) < 1e-9 or not np.isfinite(affine).all():
        raise DataError("voxels without a volume (PixelSpacing, SliceThickness)", **where)
    return LPS_TO_RAS @ affine, order


def one_series(path, kind: str, *, case=None) -> Series:
    """The one series of a kind in a folder, archive or file. Raises DataError: none, or several."""
    series, left = find_series(path)
    matching = [one for one in series if one.kind == kind]
    if len(matching) != 1:
        listed = "; ".join(s.describe() for s in (matching or series))
        several = any(one.kind.startswith("enhanced") for one in series)
        unread = sum(left.values())
        raise DataError(
            f"{len(matching)} {kind} series "
            f"({listed}{f'; {unread} other files' if unread else ''})",
            case=case,
            file=path,
            wanted="one",
            action=CONVERT
            if several and not matching
            else f"Give the folder of the series that you want, or use {command('prepare')} dicom",
        )
    return matching[0]
