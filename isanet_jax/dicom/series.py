"""DICOM image series: found in folders and zip archives.

Archives are read in place; nothing is unpacked.
"""

import contextlib
import dataclasses
import io
import threading
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
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from isanet_jax.errors import DataError
from isanet_jax.files import files_below, visible

LabelMapSegmentationStorage = pydicom.uid.UID("1.2.840.10008.5.1.4.1.1.66.7")  # not in pydicom 3
_KINDS = {
    CTImageStorage: "CT",
    MRImageStorage: "MR",
    PositronEmissionTomographyImageStorage: "PET",
    RTStructureSetStorage: "RTSTRUCT",
    SegmentationStorage: "SEG",
    LabelMapSegmentationStorage: "SEG",
}
IMAGE_KINDS = ("CT", "PET", "MR")
# Of several frames in one instance: named, so that the advice can be given.
_MULTI_FRAME = {
    EnhancedCTImageStorage: "enhanced CT",
    EnhancedMRImageStorage: "enhanced MR",
    LegacyConvertedEnhancedMRImageStorage: "enhanced MR",
    EnhancedPETImageStorage: "enhanced PET",
    LegacyConvertedEnhancedCTImageStorage: "enhanced CT",
    LegacyConvertedEnhancedPETImageStorage: "enhanced PET",
}
CONVERT = (
    "Enhanced (multi-frame) images are not read: convert the series to classic DICOM, for example "
    "with emf2sf of dcm4che"
)
# Words of ImageType by which an image is no slice of a volume.
_NOT_SLICES = ("LOCALIZER", "MIP", "PROJECTION", "SCREEN SAVE")
_GAP_TOLERANCE = 0.1  # of the distance of slices that are one stack
_FEW = 0.25  # images unlike the others of their series, as a share of these: left out
# Of one file, unpacked: a slice has a few MB, a large structure set or segmentation some hundred.
_LARGEST_FILE = 2**29
_FIRST_GROUPS = (b"\x08\x00", b"\x02\x00")  # what a dataset without preamble begins with
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_CHOOSING = (
    *("PatientID", "PatientIdentityRemoved", "StudyDate", "FrameOfReferenceUID", "Modality"),
    *("ImageType", "CorrectedImage"),
)


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


def _is_after_meta(tag, vr, length):
    return tag.group != 2


def _read_dataset(file, pixels):
    """A dataset of an open file; one that is deflated is unpacked only as far as the limit."""
    with contextlib.suppress(pydicom.errors.InvalidDicomError):
        pydicom.filereader.read_preamble(file, force=False)
        meta = pydicom.filereader.read_dataset(
            file, is_implicit_VR=False, is_little_endian=True, stop_when=_is_after_meta
        )
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
    dataset.buffer = None  # all is read; an archive's member cannot be sent to another process
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
        kind: CT, PET, MR, RTSTRUCT, SEG, or the modality of what is not read.
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


class _Lenient:
    """pydicom's mode, which is of the whole process, while any thread asks for it."""

    def __init__(self):
        self._lock, self._inside, self._before = threading.Lock(), 0, None

    def enter(self):
        settings = pydicom.config.settings
        with self._lock:
            if not self._inside:
                self._before = settings.reading_validation_mode
                settings.reading_validation_mode = pydicom.config.IGNORE
            self._inside += 1

    def leave(self):
        with self._lock:
            self._inside -= 1
            if not self._inside:
                pydicom.config.settings.reading_validation_mode = self._before


_LENIENT = _Lenient()


@contextlib.contextmanager
def lenient():
    """Context, or decorator: pydicom takes values as they stand, here and not beyond.

    Real scanners break the standard's rules of text lengths and formats by the hundred; what is
    used is checked by this package.
    """
    _LENIENT.enter()
    try:
        yield
    finally:
        _LENIENT.leave()


@lenient()
def find_series(source, *, progress=None) -> tuple[list[Series], Counter]:
    """Every series below a folder, in a zip archive, or of a single file.

    What shares a Series Instance UID may be several things: each structure set and segmentation is
    a series of its own here, and so are images of another SOP class, image type, size or direction.
    Slices of another image type that complete a regular stack belong to it, as those do of which a
    de-identifier blanked some. A few other images among many (a scout in a CT) are left out of it.
    Whatever is left out of a series is counted in a warning.

    Args:
        source: the folder, archive or file; archives within the folder are read too.
        progress: called with an iterable of files, returns it with a progress bar.

    Returns:
        the series, in the order of their UIDs, and what was left out: reason -> number of files.

    Raises:
        DataError: nothing there, or an archive that cannot be read.
    """
    files = _files(Path(source))
    left, seen = Counter(), {}
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
        elif _is_copy(dataset, part, seen):
            left["a second copy of an instance"] += 1
        else:
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
    places: list[float | None]  # of each file: mm along its normal
    shared: int = 0  # files whose SOP Instance UID is another file's


def _group_of(dataset, file):
    """A group of one file. Raises what pydicom raises on damage."""
    kind = _kind(dataset)
    is_image = kind in IMAGE_KINDS
    signature = _signature(dataset) if is_image else None
    return _Group(kind, dataset, signature, [file], [_place(dataset) if is_image else None])


def _place(dataset):
    """Mm of an image along its normal; None where it does not say."""
    try:
        across, down = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
        return float(np.cross(across, down) @ np.array(dataset.ImagePositionPatient, float))
    except (AttributeError, TypeError, ValueError):
        return None


def _is_copy(dataset, part, seen):
    """Whether an instance was there before. Of another place it is another, whatever its UID says:
    some programs give one to all slices.
    """
    number = str(dataset.get("InstanceNumber") or "")
    key = None if part.places[0] is None else round(part.places[0], 3), number
    before = seen.setdefault(str(dataset.SOPInstanceUID), set())
    if key in before or (before and part.kind not in IMAGE_KINDS):
        return True
    part.shared = int(bool(before))
    before.add(key)
    return False


def _sort_in(groups, one):
    """Joins a group of one file to that of its series that it is like, or keeps it as another."""
    key = (str(one.first.SeriesInstanceUID), one.kind)
    if one.kind in ("RTSTRUCT", "SEG"):
        key += (str(one.first.SOPInstanceUID),)
    parts = groups.setdefault(key, [])
    for part in parts:
        if part.signature == one.signature:
            part.files += one.files
            part.places += one.places
            part.shared += one.shared
            return
    parts.append(one)


def _kind(dataset):
    """CT, PET, MR, RTSTRUCT, SEG, or in words what is not read."""
    name = str(dataset.get("Modality") or "unknown")
    kind = _KINDS.get(dataset.SOPClassUID)
    if kind is None and dataset.SOPClassUID in _MULTI_FRAME:
        return f"{_MULTI_FRAME[dataset.SOPClassUID]} (not read)"
    if kind is None:
        return f"{name} (not read)"
    types = {str(word).upper() for word in dataset.get("ImageType") or ()}
    for word in _NOT_SLICES:
        if kind in IMAGE_KINDS and any(word in one for one in types):
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


def _of_one_stack(parts):
    """The groups of a series, those put together that differ in their image type alone and are one
    regular stack of slices only together.
    """
    by_form = {}
    for part in parts:
        by_form.setdefault(part.signature and part.signature[1:], []).append(part)
    joined = []
    for form, same in by_form.items():
        places = [place for part in same for place in part.places]
        if form is None or len(same) == 1 or not _is_regular(places):
            joined += same
            continue
        largest = max(same, key=lambda part: len(part.files))
        files = [file for part in same for file in part.files]
        shared = sum(part.shared for part in same)
        joined.append(dataclasses.replace(largest, files=files, places=places, shared=shared))
    return joined


def _is_regular(places):
    """Whether places are those of slices of one distance, none of them twice."""
    if len(places) < 3 or None in places:
        return False
    gaps = np.diff(np.sort(places))
    return bool(gaps.min() > 0 and gaps.max() - gaps.min() <= _GAP_TOLERANCE * np.median(gaps))


def _main_part(parts):
    """The groups of a series to keep, and warnings of what is no part of them."""
    parts = _of_one_stack(parts)
    shared = sum(part.shared for part in parts)
    told = (
        (f"{shared} files have the SOP Instance UID of another one, and lie elsewhere: they were "
         "taken as slices of their own",)
        if shared
        else ()
    )  # fmt: skip
    largest = max(parts, key=lambda part: len(part.files))
    odd = [part for part in parts if part is not largest]
    count = sum(len(part.files) for part in odd)
    if not odd:
        return parts, told
    if count > _FEW * len(largest.files):
        # Nothing dominates: one image that is not one, which reading says in its own words.
        if len(parts) > 2:
            files = [file for part in parts for file in part.files]
            return [dataclasses.replace(largest, files=files)], told
        counts = " and ".join(str(len(part.files)) for part in parts)
        return parts, (
            *told,
            f"the {largest.kind} series is two images, of {counts} files, of another image type, "
            "size or direction each: one of them is left out",
        )
    names = ", ".join(file.name for part in odd for file in part.files[:3])
    return [largest], (
        *told,
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
    paths = sorted(files_below(source)) if source.is_dir() else [source]
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


@contextlib.contextmanager
def refuse_damage(*, case=None, file=None):
    """Context: whatever pydicom and NumPy raise on attributes that are damaged is a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # attributes are converted when they are used, and may be anything
        raise _unreadable(file, case, error) from error


def _unreadable(file, case, error):
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(
        f"cannot be read as DICOM ({reason})",
        case=case,
        file=file,
        action="Copy or export it again, uncompressed if its transfer syntax is not supported",
    )
