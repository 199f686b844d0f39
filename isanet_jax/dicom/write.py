"""Masks written as DICOM SEG and RTSTRUCT that reference the CT they were predicted on."""

import contextlib
import copy
import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import highdicom
import numpy as np
import pydicom
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from highdicom.sr.coding import CodedConcept
from nibabel.affines import apply_affine
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from pydicom.valuerep import validate_value
from skimage.measure import find_contours, points_in_poly

import isanet_jax
from isanet_jax.classes import NEOPLASM, Code
from isanet_jax.dicom import ISA_NET, Maker
from isanet_jax.dicom.image import LPS_TO_RAS
from isanet_jax.dicom.series import lenient
from isanet_jax.errors import DataError
from isanet_jax.files import replace_when_done

REGION = "Neoplasm"
_COLOURS = ([255, 0, 0], [0, 160, 255], [255, 200, 0], [0, 200, 80], [200, 0, 200])
PROGRAM = "isanet_jax"
_SHOWN = 16  # characters of a digest
_SHORT, _LONG = 16, 64  # characters of SH and LO
_SUPERSEDES = "Of more images of the study; supersedes an earlier one"
_IDENTITY = ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID")
_DATES = ("StudyDate", "StudyTime", "ReferringPhysicianName")
_TIME = r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d+)?)?)?"
# Of a slice, what places it and refers to it.
_GEOMETRY = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"),
    *("FrameOfReferenceUID", "SeriesNumber", "InstanceNumber", "Rows", "Columns", "PixelSpacing"),
    *("ImageOrientationPatient", "ImagePositionPatient", "SliceThickness"),
)
_CONTOUR = Tag(tag_for_keyword("ContourData"))
_CATEGORY = CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure")


def write_segmentation(
    path,
    masks: Mapping[str, np.ndarray],
    slices,
    *,
    codes: Mapping[str, Code] = MappingProxyType({}),
    keep_identity=False,
    maker: Maker = ISA_NET,
) -> None:
    """Writes masks as DICOM SEG: a binary segment each, on the CT's series.

    Args:
        path: of the file.
        masks: class -> (column, row, slice) bool; a single one is labelled `REGION`.
        slices: the CT's datasets without pixels, one per slice, in the masks' order.
        codes: class -> what its segment is; a neoplasm where it has none.
        keep_identity: copy the patient's name, birth date and the study's date from the CT; else
            they stay empty, and the Patient ID too unless the CT is marked as de-identified.
        maker: the network that made them.

    Raises:
        DataError: the file cannot be written, or the CT's header is none that it can refer to.
    """
    with refused(path):
        types = [codes.get(name, NEOPLASM) for name in masks]
        _write_segmentation(path, masks, slices, types, keep_identity=keep_identity, maker=maker)


@contextlib.contextmanager
def refused(path):
    """Context for writing: what is raised on odd headers is a DataError of this file."""
    try:
        with lenient():
            yield
    except DataError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"cannot be written as DICOM ({reason})",
            file=path,
            wanted="a CT whose header names its slices and their places",
            action="Leave it out of --format",
        ) from error


def _write_segmentation(path, masks, slices, types, *, keep_identity, maker):
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=maker.name[:_LONG],
        version=versions(maker)[-1],
        family=CodedConcept("123109", "DCM", "Artificial Intelligence"),
        source=PROGRAM,
    )
    descriptions = [
        SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=_CATEGORY,
            segmented_property_type=CodedConcept(code.value, code.scheme, code.meaning),
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, (label, code) in enumerate(zip(_labels(masks), types, strict=True), start=1)
    ]
    pixels = np.stack([mask.transpose(2, 1, 0) for mask in masks.values()], -1).astype(np.uint8)
    dataset = highdicom.seg.Segmentation(
        source_images=shown(slices, keep_identity),
        pixel_array=pixels if len(masks) > 1 else np.ascontiguousarray(pixels[..., 0]),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=_uids(maker)[0],
        series_number=series_number(slices),
        sop_instance_uid=_uids(maker)[1],
        instance_number=1,
        manufacturer=PROGRAM,
        manufacturer_model_name=maker.name[:_LONG],
        software_versions=versions(maker),
        device_serial_number="0",
        omit_empty_frames=bool(pixels.any()),
        content_label="TUMOUR",
        series_description=_description(maker),
    )
    if maker.supersedes:
        related = Dataset()
        related.StudyInstanceUID = dataset.StudyInstanceUID
        related.SeriesInstanceUID = maker.supersedes[0]
        related.PurposeOfReferenceCodeSequence = Sequence()
        dataset.RelatedSeriesSequence = Sequence([related])
        dataset.ContentDescription = _SUPERSEDES
    save(path, dataset)


def _uids(maker):
    """(Series, SOP Instance UID) of an output."""
    return maker.uids or (generate_uid(None), generate_uid(None))


def versions(maker: Maker) -> tuple[str, ...]:
    """Of the program, and of the network by its digest."""
    digest = [f"weights {maker.digest[:_SHOWN]}"] if maker.digest else []
    return (f"isanet_jax {isanet_jax.__version__}", *digest)


def _description(maker):
    """Of an output's series."""
    return f"{maker.name} tumour segmentation"[:_LONG]


def _labels(masks):
    """What the segments or regions are called: by their classes, where there are several."""
    return [REGION] if len(masks) == 1 else list(masks)


def write_structures(
    path, masks: Mapping[str, np.ndarray], affine, slices, *, keep_identity=False,
    maker: Maker = ISA_NET,
) -> None:  # fmt: skip
    """Writes masks as RTSTRUCT: closed contours on the CT's slices, halfway between voxels.

    A region for each class.

    Rasterised by voxel centres (`isanet_jax.dicom.structures.rasterise`), the contours give the
    same mask: each passes between the centres inside and those outside. A hole is joined to the
    contour around it by a channel of no width (DICOM PS3.3 C.8.8.6.3, "keyhole"), so that readers
    that unite contours keep it.

    Args:
        path: of the file.
        masks: class -> (column, row, slice) bool; a single one is called `REGION`.
        affine: (4, 4) of its grid, RAS+ mm.
        slices: the CT's datasets without pixels, one per slice, in the masks' order.
        keep_identity, maker: see `write_segmentation`.

    Raises:
        DataError: the file cannot be written, or the CT's header is none that it can refer to.
    """
    with refused(path):
        _write_structures(path, masks, affine, slices, keep_identity=keep_identity, maker=maker)


def _write_structures(path, masks, affine, slices, *, keep_identity, maker):
    first = shown(slices, keep_identity)[0]
    dataset = _structure_set(first, _labels(masks), maker)
    dataset.ROIContourSequence = Sequence(
        _contours(number, mask, affine, slices)
        for number, mask in enumerate(masks.values(), start=1)
    )
    dataset.ReferencedFrameOfReferenceSequence = Sequence([_frame(first, slices)])
    save(path, dataset)


def _contours(number, mask, affine, slices):
    """The contours of a region, of its number."""
    to_patient = LPS_TO_RAS @ affine
    contours = []
    for index in np.flatnonzero(mask.any((0, 1))):
        image = _reference(slices[index])
        for line in outlines(mask[:, :, index]):
            points = np.concatenate([line, np.full((len(line), 1), index)], 1)
            contour = Dataset()
            contour.ContourImageSequence = Sequence([image])
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            patient = apply_affine(to_patient, points)
            text = "\\".join(f"{v:.4f}" for v in patient.ravel()).encode()
            text += b" " * (len(text) % 2)
            # As it is written: pydicom would make a number of each, and text of that again.
            contour[_CONTOUR] = RawDataElement(_CONTOUR, "DS", len(text), text, 0, False, True)
            contours.append(contour)
    region = Dataset()
    region.ReferencedROINumber = number
    region.ROIDisplayColor = _COLOURS[(number - 1) % len(_COLOURS)]
    if contours:  # a sequence without items is none
        region.ContourSequence = Sequence(contours)
    return region


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """The contours of a slice's mask, halfway between voxel centres, holes joined by keyholes.

    Args:
        mask: (column, row) bool.

    Returns:
        (n, 2) voxels each, not closed.
    """
    lines = [line[:-1] - 1 for line in find_contours(np.pad(mask, 1).astype(np.uint8), 0.5)]
    outer = [line for line in lines if _area(line) < 0]
    holes = [line for line in lines if _area(line) > 0]
    # From the right: what lies in the way of a hole's channel is joined before it.
    for hole in sorted(holes, key=lambda line: -line[:, 0].max()):
        around = [i for i, line in enumerate(outer) if _is_within(hole, line)]
        index = min(around, key=lambda i: abs(_area(outer[i])))
        outer[index] = _keyhole(outer[index], hole)
    return outer


def _area(line):
    """Signed area of a polygon (n, 2): `find_contours` turns one way around holes."""
    x, y = line.T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def _is_within(hole, line):
    return bool(points_in_poly(hole[:1], line)[0])


def _keyhole(line, hole):
    """One polygon of an outer one and a hole in it, by a channel along the first axis.

    It begins in the middle of an edge of the hole, so that it passes no voxel centre.
    """
    last = int(hole[:, 0].argmax())
    start = (hole[last] + hole[(last + 1) % len(hole)]) / 2
    a, b = line, np.roll(line, -1, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (start[1] - a[:, 1]) / (b[:, 1] - a[:, 1])
        x = a[:, 0] + along * (b[:, 0] - a[:, 0])
    crossed = ((a[:, 1] <= start[1]) != (b[:, 1] <= start[1])) & (x > start[0])
    edge = int(np.where(crossed, x, np.inf).argmin())
    end = np.array([x[edge], start[1]])
    turned = np.roll(hole, -(last + 1), axis=0)
    return np.concatenate([line[: edge + 1], [end, start], turned, [start, end], line[edge + 1 :]])


class Shown(list):
    """Slices that `shown` has made: several outputs of a scan share them."""


def shown(slices, keep_identity: bool) -> Shown:
    """The slices' datasets with what outputs may carry, and nothing else.

    An allow list: whatever a scanner or an archive wrote besides stays out. What is kept of the
    patient and is no valid value of its attribute (a birth date of a year alone) stays empty.
    """
    if isinstance(slices, Shown):
        return slices
    positions = np.array([s.ImagePositionPatient for s in slices], float)
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    out_of = Shown()
    for dataset in slices:
        out = Dataset()
        out.SpecificCharacterSet = "ISO_IR 192"
        for name in _GEOMETRY:
            if dataset.get(name) not in (None, ""):
                out.add(copy.copy(dataset[name]))  # an element of its own, of the same value
        if "SliceThickness" not in out and len(steps):
            out.SliceThickness = f"{np.median(steps):.6g}"
        if "FrameOfReferenceUID" not in out:
            # Of the series: the same for all its outputs.
            series = str(dataset.SeriesInstanceUID)
            out.FrameOfReferenceUID = generate_uid(entropy_srcs=[series, "frame of reference"])
        for name in (*_IDENTITY, *_DATES, "PatientID"):  # type 2: present, may be empty
            setattr(out, name, _valid(name, dataset.get(name)) if keep_identity else "")
        if str(dataset.get("PatientIdentityRemoved") or "").upper() == "YES":
            out.PatientIdentityRemoved = "YES"
            out.DeidentificationMethod = "Of the images; see there"
            out.PatientID = _valid("PatientID", dataset.get("PatientID"))
        out_of.append(out)
    return out_of


def _valid(name, value):
    """The value as text, or "" where it is none that its attribute may have."""
    text = str(value or "")
    if name.endswith("Date"):
        try:
            datetime.datetime.strptime(text, "%Y%m%d")
        except ValueError:
            return ""
    if name.endswith("Time") and not re.fullmatch(_TIME, text):
        return ""
    if name == "PatientSex" and text not in ("M", "F", "O"):
        return ""
    try:
        validate_value(dictionary_VR(name), text, pydicom.config.RAISE)
    except ValueError:  # a Study ID of 17 characters, say; cut, it would be another one
        return ""
    return text


def series_number(slices) -> int:
    """After the CT's own, as viewers sort by it."""
    return 1000 + int(slices[0].get("SeriesNumber") or 0)


def _structure_set(first, labels, maker):
    """An RTSTRUCT of regions without contours yet, of the CT's patient and study."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    series_uid, meta.MediaStorageSOPInstanceUID = _uids(maker)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    for name in (*_IDENTITY, *_DATES, "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, name, first.get(name, ""))
    dataset.PositionReferenceIndicator = ""
    dataset.SpecificCharacterSet = first.SpecificCharacterSet
    for name in ("PatientIdentityRemoved", "DeidentificationMethod"):
        if name in first:
            setattr(dataset, name, first.get(name))
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = series_uid
    dataset.SeriesNumber = series_number([first]) + 1
    dataset.SeriesDescription = _description(maker)
    dataset.Manufacturer, dataset.ManufacturerModelName = PROGRAM, maker.name[:_LONG]
    dataset.SoftwareVersions = list(versions(maker))
    dataset.OperatorsName = ""
    dataset.InstanceNumber = 1
    dataset.StructureSetLabel = maker.name[:_SHORT]
    if maker.supersedes:
        before = Dataset()
        before.ReferencedSOPClassUID = RTStructureSetStorage
        before.ReferencedSOPInstanceUID = maker.supersedes[1]
        dataset.PredecessorStructureSetSequence = Sequence([before])
        dataset.StructureSetDescription = _SUPERSEDES
    now = datetime.datetime.now()
    dataset.StructureSetDate, dataset.StructureSetTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    dataset.ApprovalStatus = "UNAPPROVED"
    regions, observations = [], []
    for number, label in enumerate(labels, start=1):
        region = Dataset()
        region.ROINumber = number
        region.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
        region.ROIName = label
        region.ROIGenerationAlgorithm = "AUTOMATIC"
        regions.append(region)
        observation = Dataset()
        observation.ObservationNumber = number
        observation.ReferencedROINumber = number
        observation.RTROIInterpretedType = "GTV"
        observation.ROIInterpreter = ""
        observations.append(observation)
    dataset.StructureSetROISequence = Sequence(regions)
    dataset.RTROIObservationsSequence = Sequence(observations)
    return dataset


def _reference(image):
    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return item


def _frame(first, slices):
    """The frame of reference with the study and series that the contours were drawn on."""
    series = Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = Sequence([_reference(s) for s in slices])
    study = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # detached study management, retired
    study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    study.RTReferencedSeriesSequence = Sequence([series])
    frame = Dataset()
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = Sequence([study])
    return frame


def save(path, dataset: pydicom.Dataset) -> None:
    """Writes a dataset, whole or not at all."""
    with replace_when_done(Path(path)) as partial:
        dataset.save_as(partial, enforce_file_format=True)
