"""DICOM image series: found in folders and zip archives, read as volumes in HU or SUV.

Archives are read in place; nothing is unpacked.
"""

import contextlib
import dataclasses
import io
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from isanet_jax.errors import DataError
from isanet_jax.scans.suv import suv_factors
from isanet_jax.scans.volume import Volume, check_grid

# Real scanners break the standard's rules of text lengths and formats by the hundred; what is used
# is checked here.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_KINDS = {
    CTImageStorage: "CT",
    PositronEmissionTomographyImageStorage: "PET",
    RTStructureSetStorage: "RTSTRUCT",
    SegmentationStorage: "SEG",
}
_GAP_TOLERANCE = 0.1  # of the slice distance; scanners round positions
# Of one file, unpacked: a slice has a few MB, a large structure set or segmentation some hundred.
_LARGEST_FILE = 2**29
_LARGEST_SLICE = 2**27  # pixels
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_CHOOSING = (
    *("PatientID", "PatientIdentityRemoved", "StudyDate", "FrameOfReferenceUID", "Modality"),
    *("ImageType", "CorrectedImage"),
)
_GEOMETRY = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")


@dataclasses.dataclass(frozen=True)
class DicomFile:
    """A file, or a member of a zip archive."""

    path: Path
    member: str | None = None

    def __str__(self):
        return str(self.path) if self.member is None else f"{self.path}, {self.member!r}"

    def read(self, *, pixels=False) -> pydicom.Dataset:
        """The dataset, without its pixels unless asked for. Raises what pydicom raises."""
        if self.member is None:
            with open(self.path, "rb") as file:
                return _read_dataset(file, pixels)
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
            if archive.getinfo(self.member).file_size > _LARGEST_FILE:
                raise ValueError(f"unpacks to more than {_LARGEST_FILE // 2**20} MiB")
            if not pixels:
                return _read_dataset(file, pixels)  # of a slice, the header alone is unpacked
            return _read_dataset(io.BytesIO(file.read()), pixels)


def _read_dataset(file, pixels):
    """A dataset of an open file; one that is deflated is unpacked only as far as the limit."""
    with contextlib.suppress(pydicom.errors.InvalidDicomError):
        pydicom.filereader.read_preamble(file, force=False)
        meta = pydicom.filereader._read_file_meta_info(file)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
            size, packed = 0, b""
            while size <= _LARGEST_FILE and (packed or (packed := file.read(2**20))):
                size += len(unpacker.decompress(packed, 2**24))
                packed = unpacker.unconsumed_tail
            if size > _LARGEST_FILE:
                raise ValueError(f"inflates to more than {_LARGEST_FILE // 2**20} MiB")
    file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=not pixels)


@dataclasses.dataclass(frozen=True)
class Series:
    """The instances of one series.

    Attributes:
        kind: CT, PET, RTSTRUCT, SEG, or the modality of what is not read.
        first: its first dataset, without pixels.
        files: one per instance.
    """

    kind: str
    first: pydicom.Dataset
    files: tuple[DicomFile, ...]

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return str(self.first.SeriesInstanceUID)

    @property
    def frame(self) -> str:
        """Frame of Reference UID, "" where there is none."""
        return str(self.first.get("FrameOfReferenceUID") or "")

    def describe(self) -> str:
        """For messages: nothing of the patient's identity."""
        number = self.first.get("SeriesNumber")
        return f"{self.kind} series{'' if number is None else f' {number}'} ({len(self.files)})"


def find_series(source, *, progress=None) -> tuple[list[Series], Counter]:
    """Every series below a folder, in a zip archive, or of a single file.

    Args:
        source: the folder, archive or file; archives within the folder are read too.
        progress: called with an iterable of files, returns it with a progress bar.

    Returns:
        the series, in the order of their UIDs, and what was left out: reason -> number of files.

    Raises:
        DataError: nothing there, or an archive that cannot be read.
    """
    files = _files(Path(source))
    left, groups, seen = Counter(), {}, set()
    for file in progress(files) if progress else files:
        try:
            dataset = file.read()
            missing = [name for name in _REQUIRED if not dataset.get(name)]
            _convert(dataset)
        except Exception:  # pydicom raises a dozen types on what is not DICOM, or damaged
            left["not DICOM, or damaged"] += 1
            continue
        if missing:
            left["a DICOMDIR or without SOP and series UIDs"] += 1
        elif dataset.SOPInstanceUID in seen:
            left["a second copy of an instance"] += 1
        else:
            seen.add(dataset.SOPInstanceUID)
            # The first dataset alone: a cohort's thousands would take gigabytes.
            _, members = groups.setdefault(str(dataset.SeriesInstanceUID), (dataset, []))
            members.append(file)
    series = []
    for _, (first, members) in sorted(groups.items()):
        kind = _KINDS.get(first.SOPClassUID, f"{first.get('Modality') or 'unknown'} (not read)")
        if kind == "CT" and "LOCALIZER" in (first.get("ImageType") or ()):
            kind = "CT localizer (not read)"
        series.append(Series(kind, first, tuple(members)))
    if not series:
        raise DataError(
            f"no DICOM among {len(files)} files",
            file=source,
            wanted="DICOM files in folders or zip archives",
        )
    return series, left


def _convert(dataset):
    """Has pydicom convert, now, the attributes by which series are chosen: it raises on damage."""
    for name in _CHOOSING:
        dataset.get(name)
    int(dataset.get("SeriesNumber") or 0)
    if dataset.SOPClassUID in (RTStructureSetStorage, SegmentationStorage):
        for _ in dataset.iterall():
            pass


def _files(source):
    if not source.exists():
        raise DataError("no such folder or file", file=source, wanted="DICOM")
    paths = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
    files = []
    for path in paths:
        if path.suffix.lower() != ".zip":
            files.append(DicomFile(path))
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(f"cannot be read as a zip archive ({error})", file=path) from error
        files += [DicomFile(path, name) for name in sorted(names)]
    return files


def read_image(series: Series, *, case=None) -> tuple[Volume, list[pydicom.Dataset]]:
    """A CT series in HU or a PET series in SUVbw.

    Returns:
        the volume, float32, axes (column, row, slice); and the slices' datasets without pixels,
        in its order.

    Raises:
        DataError: slices that are missing, doubled, of several sizes or orientations; no rescale
            values; pixels that cannot be decoded; no SUV (see `isanet_jax.scans.suv`).
    """
    where = _where(series, case)
    with refuse_damage(**where):
        shape, affine, slices = _read_grid(series, case, where)
        headers = [dataset for dataset, _ in slices]
        data = np.empty(shape, np.float32)
        for index, (dataset, file) in enumerate(slices):
            data[:, :, index] = _pixels(dataset, file, case, shape[1::-1]).T
        if series.kind == "PET":
            data *= suv_factors(headers, **where).astype(np.float32)
        if not np.isfinite(data).all():
            raise DataError("voxels that are not finite after rescaling", **where)
        return Volume(data, affine), headers


def read_grid(series: Series, *, case=None) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape (columns, rows, slices) and affine of a series, its pixels left alone.

    Raises:
        DataError: see `read_image`.
    """
    where = _where(series, case)
    with refuse_damage(**where):
        return _read_grid(series, case, where)[:2]


def _where(series, case):
    return {"case": case, "file": series.files[0].path.parent}


@contextlib.contextmanager
def refuse_damage(*, case=None, file=None):
    """Context: whatever pydicom and NumPy raise on attributes that are damaged is a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # attributes are converted when they are used, and may be anything
        raise _unreadable(file, case, error) from error


def _read_grid(series, case, where):
    """(shape, affine, [(dataset without pixels, file)] in the order of the slices)."""
    slices = []
    for file in series.files:
        with refuse_damage(case=case, file=file):
            slices.append((file.read(), file))
    for dataset, file in slices:
        for name in _GEOMETRY:
            if dataset.get(name) in (None, ""):
                raise DataError(f"{name} is missing", case=case, file=file)
        if int(dataset.get("NumberOfFrames") or 1) != 1:
            raise DataError(
                "several frames in one instance",
                wanted="one instance per slice",
                action="Convert the series from enhanced to classic DICOM",
                case=case,
                file=file,
            )
    affine, order = _geometry([dataset for dataset, _ in slices], where)
    slices = [slices[i] for i in order]
    rows, columns = int(slices[0][0].Rows), int(slices[0][0].Columns)
    if not 0 < rows * columns <= _LARGEST_SLICE:
        raise DataError(f"slices of {columns} x {rows} pixels", **where)
    check_grid((columns, rows, len(slices)), affine, where)
    return (columns, rows, len(slices)), affine, slices


def _unreadable(file, case, error):
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(
        f"cannot be read as DICOM ({reason})",
        case=case,
        file=file,
        action="Copy or export it again, uncompressed if its transfer syntax is not supported",
    )


def _pixels(header, file, case, shape):
    """(rows, columns) float64: stored values rescaled as this slice says."""
    scale = []
    for name in ("RescaleSlope", "RescaleIntercept"):
        value = header.get(name)
        if value is None:
            raise DataError(
                f"{name} is missing",
                wanted="the slope and intercept that make HU or activity of stored values",
                case=case,
                file=file,
            )
        scale.append(float(value))
    with refuse_damage(case=case, file=file):
        stored = file.read(pixels=True).pixel_array
    if stored.shape != shape:
        raise DataError(f"pixels {stored.shape}", wanted=str(shape), case=case, file=file)
    return stored * scale[0] + scale[1]


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
            raise DataError(
                f"{doubled} slices lie where another one does",
                wanted="one image per series, not a dynamic or gated one",
                action="Leave one time frame in the folder",
                **where,
            )
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


def read_folder(path, kind: str, *, case=None) -> tuple[Volume, list[pydicom.Dataset]]:
    """The one series of a kind (CT or PET) in a folder or archive; see `read_image`.

    Raises:
        DataError: none, or several.
    """
    return read_image(one_series(path, kind, case=case), case=case)


def one_series(path, kind: str, *, case=None) -> Series:
    """The one series of a kind in a folder, archive or file. Raises DataError: none, or several."""
    found = [series for series in find_series(path)[0] if series.kind == kind]
    if len(found) != 1:
        listed = "; ".join(s.describe() for s in found)
        raise DataError(
            f"{len(found)} {kind} series" + (f" ({listed})" if found else ""),
            case=case,
            file=path,
            wanted="one",
            action="Give the folder of the series that you want, or use prepare.py dicom",
        )
    return found[0]
