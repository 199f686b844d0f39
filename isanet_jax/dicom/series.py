"""DICOM image series: found in folders and zip archives, read as volumes in HU or SUV.

Archives are read in place; nothing is unpacked.
"""

import contextlib
import dataclasses
import io
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
import pydicom
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedPETImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from isanet_jax.datasets.sources import visible
from isanet_jax.dicom.suv import suv_factors
from isanet_jax.errors import DataError
from isanet_jax.volume import Volume, check_grid

# Real scanners break the standard's rules of text lengths and formats by the hundred; what is used
# is checked here.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

LabelMapSegmentationStorage = pydicom.uid.UID("1.2.840.10008.5.1.4.1.1.66.7")  # not in pydicom 3
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_KINDS = {
    CTImageStorage: "CT",
    PositronEmissionTomographyImageStorage: "PET",
    RTStructureSetStorage: "RTSTRUCT",
    SegmentationStorage: "SEG",
    LabelMapSegmentationStorage: "SEG",
}
# Of several frames in one instance: named, so that the advice can be given.
_MULTI_FRAME = {
    EnhancedCTImageStorage: "enhanced CT",
    EnhancedPETImageStorage: "enhanced PET",
    LegacyConvertedEnhancedCTImageStorage: "enhanced CT",
    LegacyConvertedEnhancedPETImageStorage: "enhanced PET",
}
# Words of ImageType by which an image is no slice of a volume.
_NOT_SLICES = ("LOCALIZER", "MIP", "PROJECTION", "SCREEN SAVE")
_FEW = 0.25  # images unlike the others of their series, as a share of these: left out
_SPARSE = 1.5  # times a slice's thickness between slices: some may have been left out
_SPARSE = 1.5  # times its thickness from slice to slice: some may have been left out
_GAP_TOLERANCE = 0.1  # of the slice distance; scanners round positions
# Of one file, unpacked: a slice has a few MB, a large structure set or segmentation some hundred.
_LARGEST_FILE = 2**29
_FIRST_GROUPS = (b"\x08\x00", b"\x02\x00")  # what a dataset without preamble begins with
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

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.name if self.member is None else PurePosixPath(self.member).name

    @property
    def suffix(self) -> str:
        """Its ending, in small letters; "" where it is a number, as in a UID."""
        suffix = PurePosixPath(self.name).suffix.lower()
        return "" if suffix[1:].isdigit() else suffix

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
    # Some planning systems write no preamble and no meta header.
    is_bare = file.read(2) in _FIRST_GROUPS
    file.seek(0)
    dataset = pydicom.dcmread(file, stop_before_pixels=not pixels, force=is_bare)
    if is_bare and "TransferSyntaxUID" not in dataset.file_meta:
        is_implicit, _ = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
        )
    return dataset


@dataclasses.dataclass(frozen=True)
class Series:
    """The images of one series that belong together, or one structure set or segmentation.

    Attributes:
        kind: CT, PET, RTSTRUCT, SEG, or the modality of what is not read.
        first: its first dataset, without pixels.
        files: one per instance.
        warnings: what was left out of it, and what lies beside it and cannot be read.
    """

    kind: str
    first: pydicom.Dataset
    files: tuple[DicomFile, ...]
    warnings: tuple[str, ...] = ()

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

    What shares a Series Instance UID may be several things: each structure set and segmentation is
    a series of its own here, and so are images of another SOP class, image type, size or direction.
    A few such images among many (a scout in a CT) are left out of it, with a warning.

    Args:
        source: the folder, archive or file; archives within the folder are read too.
        progress: called with an iterable of files, returns it with a progress bar.

    Returns:
        the series, in the order of their UIDs, and what was left out: reason -> number of files.

    Raises:
        DataError: nothing there, or an archive that cannot be read.
    """
    files = _files(Path(source))
    left, seen = Counter(), set()
    groups: dict[tuple, list[_Group]] = {}
    unreadable = []
    for file in progress(files) if progress else files:
        try:
            dataset = file.read()
            missing = [name for name in _REQUIRED if not dataset.get(name)]
            _convert(dataset)
            part = None if missing else _group_of(dataset, file)
        except Exception:  # pydicom raises a dozen types on what is not DICOM, or damaged
            left["not DICOM, or damaged"] += 1
            unreadable.append(file)
            continue
        if missing:
            left["a DICOMDIR or without SOP and series UIDs"] += 1
        elif dataset.SOPInstanceUID in seen:
            left["a second copy of an instance"] += 1
        else:
            seen.add(dataset.SOPInstanceUID)
            _sort_in(groups, part)
    series = []
    for _, parts in sorted(groups.items()):
        kept, warnings = _main_part(parts)
        for part in kept:
            told = (*warnings, *_beside(part.files, unreadable))
            series.append(Series(part.kind, part.first, tuple(part.files), told))
    if not series:
        raise DataError(
            f"no DICOM among {len(files)} files",
            file=source,
            wanted="DICOM files in folders or zip archives",
        )
    return series, left


@dataclasses.dataclass
class _Group:
    """Files that belong together; the first dataset alone: a cohort's thousands take gigabytes."""

    kind: str
    first: pydicom.Dataset
    signature: tuple | None
    files: list[DicomFile]


def _group_of(dataset, file):
    """A group of one file. Raises what pydicom raises on damage."""
    kind = _kind(dataset)
    return _Group(kind, dataset, _signature(dataset) if kind in ("CT", "PET") else None, [file])


def _sort_in(groups, one):
    """Joins a group of one file to that of its series that it is like, or keeps it as another."""
    key = (str(one.first.SeriesInstanceUID), one.kind)
    if one.kind in ("RTSTRUCT", "SEG"):
        key += (str(one.first.SOPInstanceUID),)
    parts = groups.setdefault(key, [])
    for part in parts:
        if part.signature == one.signature:
            part.files += one.files
            return
    parts.append(one)


def _kind(dataset):
    """CT, PET, RTSTRUCT, SEG, or in words what is not read."""
    name = str(dataset.get("Modality") or "unknown")
    kind = _KINDS.get(dataset.SOPClassUID)
    if kind is None and dataset.SOPClassUID in _MULTI_FRAME:
        return f"{_MULTI_FRAME[dataset.SOPClassUID]} (not read)"
    if kind is None:
        return f"{name} (not read)"
    types = {str(word).upper() for word in dataset.get("ImageType") or ()}
    for word in _NOT_SLICES:
        if kind in ("CT", "PET") and any(word in one for one in types):
            return f"{kind} {word.lower()} (not read)"
    return kind


def _signature(dataset):
    """By what images of one series that belong together are alike: type, size, and plane.

    A direction that differs a little is for reading to refuse; another plane is another image.
    """
    try:
        types = tuple(str(word).upper() for word in dataset.get("ImageType") or ())[:2]
        size = int(dataset.Rows), int(dataset.Columns)
        across, down = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
    except (AttributeError, TypeError, ValueError):
        return None
    plane = int(np.abs(np.cross(across, down)).argmax())
    return types, size, plane


def _main_part(parts):
    """The groups of a series to keep, and warnings of those that are a few among many."""
    largest = max(parts, key=lambda part: len(part.files))
    odd = [part for part in parts if part is not largest]
    count = sum(len(part.files) for part in odd)
    if not odd:
        return parts, ()
    if count > _FEW * len(largest.files):
        # Nothing dominates: one image that is not one, which reading says in its own words.
        if len(parts) > 2:
            files = [file for part in parts for file in part.files]
            return [dataclasses.replace(largest, files=files)], ()
        return parts, ()
    names = ", ".join(file.name for part in odd for file in part.files[:3])
    return [largest], (
        f"{count} of {count + len(largest.files)} files of the {largest.kind} series are of "
        f"another image type, size or direction and were left out: {names}",
    )


def _beside(files, unreadable):
    """A warning of the files that lie in a series' folders, are named alike, and cannot be read."""
    places = {(file.path.parent, file.suffix) for file in files}
    bad = [file for file in unreadable if (file.path.parent, file.suffix) in places]
    if not bad:
        return ()
    names = ", ".join(file.name for file in bad[:3]) + (", ..." if len(bad) > 3 else "")
    return (
        f"{len(bad)} files beside its {len(files)} cannot be read as DICOM (empty, damaged or "
        f"cut short): {names}",
    )


def _convert(dataset):
    """Has pydicom convert, now, the attributes by which series are chosen: it raises on damage."""
    for name in _CHOOSING:
        dataset.get(name)
    int(dataset.get("SeriesNumber") or 0)
    if _KINDS.get(dataset.SOPClassUID) in ("RTSTRUCT", "SEG"):
        for _ in dataset.iterall():
            pass
        for name, number in (("StructureSetROISequence", "ROINumber"), ("SegmentSequence",
                             "SegmentNumber")):  # fmt: skip
            for item in dataset.get(name) or ():
                int(item.get(number) or 0)


def _files(source):
    if not source.exists():
        raise DataError("no such folder or file", file=source, wanted="DICOM")
    paths = visible(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
    files = []
    for path in paths:
        if path.suffix.lower() != ".zip":
            files.append(DicomFile(path))
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                infos = [info for info in archive.infolist() if not info.is_dir()]
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(f"cannot be read as a zip archive ({error})", file=path) from error
        if any(info.flag_bits & 1 for info in infos):
            raise DataError(
                "is protected by a password",
                file=path,
                wanted="an archive that can be read",
                action="Unpack it, and name the folder",
            )
        kept = visible(PurePosixPath(info.filename) for info in infos)
        files += [DicomFile(path, str(name)) for name in kept]
    return files


def read_image(
    series: Series, *, case=None, notes: list | None = None
) -> tuple[Volume, list[pydicom.Dataset]]:
    """A CT series in HU or a PET series in SUVbw.

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
    with refuse_damage(**where):
        shape, affine, slices = _read_grid(series, case, where)
        headers = [dataset for dataset, _ in slices]
        data = np.empty(shape, np.float32)
        for index, (dataset, file) in enumerate(slices):
            data[:, :, index] = _pixels(dataset, file, case, shape[1::-1]).T
        if series.kind == "PET":
            data *= suv_factors(headers, **where, notes=notes).astype(np.float32)
        if not np.isfinite(data).all():
            raise DataError("voxels that are not finite after rescaling", **where)
        if notes is not None:
            notes += [*series.warnings, *_lost_slices(headers, affine)]
        return Volume(data, affine), headers


def _lost_slices(headers, affine):
    """Warnings where a series says that it has, or had, more slices than are here."""
    found = []
    stated = int(headers[0].get("NumberOfSlices") or 0)
    if stated > len(headers):
        found.append(f"{len(headers)} of {stated} slices (NumberOfSlices) are here")
    thick_mm = float(headers[0].get("SliceThickness") or 0)
    apart_mm = float(np.linalg.norm(affine[:3, 2]))
    if 0 < thick_mm * _SPARSE < apart_mm:
        found.append(
            f"slices are {apart_mm:.2f} mm apart and {thick_mm:.2f} mm thick (SliceThickness): "
            "are some missing?"
        )
    return found


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


def read_folder(
    path, kind: str, *, case=None, notes: list | None = None
) -> tuple[Volume, list[pydicom.Dataset]]:
    """The one series of a kind (CT or PET) in a folder or archive; see `read_image`.

    Raises:
        DataError: none, or several.
    """
    return read_image(one_series(path, kind, case=case), case=case, notes=notes)


def one_series(path, kind: str, *, case=None) -> Series:
    """The one series of a kind in a folder, archive or file. Raises DataError: none, or several."""
    series, left = find_series(path)
    found = [one for one in series if one.kind == kind]
    if len(found) != 1:
        listed = "; ".join(s.describe() for s in (found or series))
        several = any(one.kind.startswith("enhanced") for one in series)
        unread = sum(left.values())
        raise DataError(
            f"{len(found)} {kind} series ({listed}{f'; {unread} other files' if unread else ''})",
            case=case,
            file=path,
            wanted="one",
            action="Convert the series from enhanced (multi-frame) to classic DICOM"
            if several and not found
            else "Give the folder of the series that you want, or use prepare.py dicom",
        )
    return found[0]
