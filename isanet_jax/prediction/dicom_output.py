"""Masks written as DICOM SEG and RTSTRUCT that reference the CT they were predicted on."""

import copy
import datetime
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from skimage.measure import find_contours

import isanet_jax
from isanet_jax.scans.dicom import LPS_TO_RAS
from isanet_jax.scans.volume import replace_when_done

REGION = "Neoplasm"
_MAKER, _MODEL = "isanet_jax", "ISA-Net"
_IDENTITY = ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID")
_DATES = ("StudyDate", "StudyTime", "ReferringPhysicianName")
_CATEGORY = CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure")
_TYPE = CodedConcept("108369006", "SCT", "Neoplasm")


def write_segmentation(path, mask: np.ndarray, slices, *, keep_identity=False) -> None:
    """Writes a mask as DICOM SEG: one binary segment, coded as neoplasm, on the CT series.

    Args:
        path: of the file.
        mask: (column, row, slice) bool.
        slices: the CT's datasets without pixels, one per slice, in the mask's order.
        keep_identity: copy the patient's name, birth date and the study's date from the CT; else
            they stay empty, and the Patient ID too unless the CT is marked as de-identified.

    Raises:
        DataError: the file cannot be written.
    """
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=_MODEL,
        version=isanet_jax.__version__,
        family=CodedConcept("123109", "DCM", "Artificial Intelligence"),
    )
    description = SegmentDescription(
        segment_number=1,
        segment_label=REGION,
        segmented_property_category=_CATEGORY,
        segmented_property_type=_TYPE,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    dataset = highdicom.seg.Segmentation(
        source_images=[_shown(s, keep_identity) for s in slices],
        pixel_array=np.ascontiguousarray(mask.transpose(2, 1, 0), np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[description],
        series_instance_uid=generate_uid(None),
        series_number=_series_number(slices),
        sop_instance_uid=generate_uid(None),
        instance_number=1,
        manufacturer=_MAKER,
        manufacturer_model_name=_MODEL,
        software_versions=isanet_jax.__version__,
        device_serial_number="0",
        omit_empty_frames=bool(mask.any()),
        content_label="TUMOUR",
        series_description="ISA-Net tumour segmentation",
    )
    _save(path, dataset)


def write_structures(path, mask: np.ndarray, affine, slices, *, keep_identity=False) -> None:
    """Writes a mask as RTSTRUCT: closed contours on the CT's slices, halfway between voxels.

    Rasterised by voxel centres and combined by XOR (`isanet_jax.scans.structures.rasterise`), the
    contours give the same mask: each passes between the centres inside and those outside, and a
    hole is a contour of its own.

    Args:
        path: of the file.
        mask: (column, row, slice) bool.
        affine: (4, 4) of its grid, RAS+ mm.
        slices: the CT's datasets without pixels, one per slice, in the mask's order.
        keep_identity: see `write_segmentation`.

    Raises:
        DataError: the file cannot be written.
    """
    first = _shown(slices[0], keep_identity)
    dataset = _structure_set(first)
    to_patient = LPS_TO_RAS @ affine
    contours = []
    for index in np.flatnonzero(mask.any((0, 1))):
        image = _reference(slices[index])
        for line in find_contours(np.pad(mask[:, :, index], 1).astype(np.uint8), 0.5):
            points = np.concatenate([line[:-1] - 1, np.full((len(line) - 1, 1), index)], 1)
            contour = Dataset()
            contour.ContourImageSequence = Sequence([image])
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            patient = points @ to_patient[:3, :3].T + to_patient[:3, 3]
            contour.ContourData = [f"{v:.4f}" for v in patient.ravel()]
            contours.append(contour)
    region = Dataset()
    region.ReferencedROINumber = 1
    region.ROIDisplayColor = [255, 0, 0]
    region.ContourSequence = Sequence(contours)
    dataset.ROIContourSequence = Sequence([region])
    dataset.ReferencedFrameOfReferenceSequence = Sequence([_frame(first, slices)])
    _save(path, dataset)


def _shown(dataset, keep_identity):
    """A slice's dataset with what outputs may carry of the patient."""
    dataset = copy.deepcopy(dataset)
    for name in (*_IDENTITY, *_DATES, "PatientID"):
        if name not in dataset:
            setattr(dataset, name, "")  # type 2: present, may be empty
    if keep_identity:
        return dataset
    for name in (*_IDENTITY, *_DATES):
        setattr(dataset, name, "")
    if str(dataset.get("PatientIdentityRemoved") or "").upper() != "YES":
        dataset.PatientID = ""
    return dataset


def _series_number(slices):
    """After the CT's own, as viewers sort by it."""
    return 1000 + int(slices[0].get("SeriesNumber") or 0)


def _structure_set(first):
    """An RTSTRUCT with one region and no contours yet, of the CT's patient and study."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(None)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    for name in (*_IDENTITY, *_DATES, "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, name, first.get(name, ""))
    dataset.SpecificCharacterSet = first.get("SpecificCharacterSet") or "ISO_IR 192"
    if first.get("PatientIdentityRemoved"):
        dataset.PatientIdentityRemoved = first.PatientIdentityRemoved
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = generate_uid(None)
    dataset.SeriesNumber = _series_number([first]) + 1
    dataset.SeriesDescription = "ISA-Net tumour segmentation"
    dataset.Manufacturer, dataset.ManufacturerModelName = _MAKER, _MODEL
    dataset.SoftwareVersions = isanet_jax.__version__
    dataset.OperatorsName = ""
    dataset.InstanceNumber = 1
    dataset.StructureSetLabel = "ISA-Net"
    now = datetime.datetime.now()
    dataset.StructureSetDate, dataset.StructureSetTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    dataset.ApprovalStatus = "UNAPPROVED"
    region = Dataset()
    region.ROINumber = 1
    region.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
    region.ROIName = REGION
    region.ROIGenerationAlgorithm = "AUTOMATIC"
    dataset.StructureSetROISequence = Sequence([region])
    observation = Dataset()
    observation.ObservationNumber = 1
    observation.ReferencedROINumber = 1
    observation.RTROIInterpretedType = "GTV"
    observation.ROIInterpreter = ""
    dataset.RTROIObservationsSequence = Sequence([observation])
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


def _save(path, dataset: pydicom.Dataset):
    with replace_when_done(Path(path)) as partial:
        dataset.save_as(partial, enforce_file_format=True)
