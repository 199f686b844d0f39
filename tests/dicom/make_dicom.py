"""DICOM series and structure sets for tests, written with pydicom."""

import gzip
import warnings
from pathlib import Path

import numpy as np
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    generate_uid,
)

CLASSES = {
    "CT": CTImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
    "MR": MRImageStorage,
    "RTSTRUCT": RTStructureSetStorage,
}
PET = {
    "Units": "BQML",
    "CorrectedImage": ["ATTN", "DECY"],
    "DecayCorrection": "START",
    "PatientWeight": 70.0,
    "SeriesDate": "20200102",
    "SeriesTime": "100000",
    "AcquisitionDate": "20200102",
    "AcquisitionTime": "100000",
    "ActualFrameDuration": 120000,
    "RadionuclideTotalDose": 3.5e8,
    "RadionuclideHalfLife": 6586.2,
    "RadiopharmaceuticalStartTime": "090000",
}
# What plant_markers writes; and what it leaves, as files are read by it.
MARKERS = ("MARKER", "062Y", "19431121", "031415.9")
_READ_BY = {
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"),
    *("FrameOfReferenceUID", "SpecificCharacterSet", "ImageType", "PatientIdentityRemoved"),
    *("InstanceNumber", "SeriesNumber", "PhotometricInterpretation", "Units", "CorrectedImage"),
    *("DecayCorrection", "SUVType", "RescaleType", "GantryDetectorTilt", "SegmentationType"),
}
_LEVELS = (0x8, 0x10, 0x12, 0x18, 0x20, 0x32, 0x38, 0x40)
_VALUES = {
    **dict.fromkeys(("LO", "SH", "PN", "ST", "LT", "UT", "UC", "CS", "AE"), "MARKER"),
    **{"AS": "062Y", "DA": "19431121", "TM": "031415.9"},
}
_OF_THE_DOSE = ("RadionuclideTotalDose", "RadionuclideHalfLife", "RadiopharmaceuticalStartTime")


def study(patient="DOE^JANE", identity_removed="YES", patient_id="P1"):
    """Attributes that the series of one study share."""
    return {
        "PatientName": patient,
        "PatientID": patient_id,
        "PatientBirthDate": "19610203",
        "PatientIdentityRemoved": identity_removed,
        "StudyInstanceUID": generate_uid(None),
        "StudyDate": "20200102",
        "StudyTime": "095500",
        "FrameOfReferenceUID": generate_uid(None),
    }


def dataset(modality, attributes):
    """A dataset with what every instance has."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CLASSES[modality]
    meta.MediaStorageSOPInstanceUID = generate_uid(None)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = Dataset()
    out.file_meta = meta
    out.SOPClassUID, out.SOPInstanceUID = CLASSES[modality], meta.MediaStorageSOPInstanceUID
    out.Modality = modality
    for name, value in attributes.items():
        if value is not None:
            setattr(out, name, value)
    return out


def pet_dataset(**changes):
    """A PET slice's attributes; None leaves one out."""
    attributes = PET | changes
    out = dataset("PT", {k: v for k, v in attributes.items() if k not in _OF_THE_DOSE})
    dose = Dataset()
    for name in (*_OF_THE_DOSE, "RadiopharmaceuticalStartDateTime"):
        if attributes.get(name) is not None:
            setattr(dose, name, attributes[name])
    out.RadiopharmaceuticalInformationSequence = Sequence([dose])
    return out


def write_series(folder, modality, shared, values, *, origin=(0, 0, 0), spacing=(2, 2, 3), **more):
    """Writes a series of `values` (slice, row, column); returns its datasets."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = generate_uid(None)
    slices = []
    for index, pixels in enumerate(values):
        attributes = {
            **shared,
            "SeriesInstanceUID": uid,
            "SeriesNumber": len(modality),
            "ImageType": ["ORIGINAL", "PRIMARY"],
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "PixelSpacing": [spacing[1], spacing[0]],
            "SliceThickness": spacing[2],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [origin[0], origin[1], origin[2] + spacing[2] * index],
            "RescaleSlope": 1,
            "RescaleIntercept": 0,
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            "InstanceNumber": index + 1,
            **more,
        }
        one = pet_dataset(**attributes) if modality == "PT" else dataset(modality, attributes)
        one.PixelData = np.ascontiguousarray(pixels, np.int16).tobytes()
        # File names that say nothing of the order.
        one.save_as(folder / f"{(index * 7) % 101:03d}", enforce_file_format=True)
        slices.append(one)
    return slices


def write_structures(path, shared, slices, regions):
    """Writes an RTSTRUCT of `regions` (name -> [(n, 3) points, LPS mm]) drawn on `slices`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    out = dataset("RTSTRUCT", {**shared, "SeriesInstanceUID": generate_uid(None)})
    series = Dataset()
    series.SeriesInstanceUID = slices[0].SeriesInstanceUID
    of_study = Dataset()
    of_study.RTReferencedSeriesSequence = Sequence([series])
    frame = Dataset()
    frame.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = Sequence([of_study])
    out.ReferencedFrameOfReferenceSequence = Sequence([frame])
    names, contours = [], []
    for number, (name, lines) in enumerate(regions.items(), start=1):
        roi = Dataset()
        roi.ROINumber, roi.ROIName = number, name
        names.append(roi)
        items = []
        for points in lines:
            item = Dataset()
            item.ContourGeometricType = "CLOSED_PLANAR"
            item.NumberOfContourPoints = len(points)
            item.ContourData = [float(v) for v in np.ravel(points)]
            items.append(item)
        region = Dataset()
        region.ReferencedROINumber = number
        region.ContourSequence = Sequence(items)
        contours.append(region)
    out.StructureSetROISequence = Sequence(names)
    out.ROIContourSequence = Sequence(contours)
    out.save_as(path, enforce_file_format=True)
    return out


def square(low, high, z):
    """A closed square contour."""
    return [(low, low, z), (high, low, z), (high, high, z), (low, high, z)]


def write_patient(folder, shared=None, *, region="GTV_Mass", seed=0):
    """CT, PET, MR and RTSTRUCT of one study, in a flat folder each; returns `shared`."""
    shared = shared or study()
    generator = np.random.default_rng(seed)
    ct = generator.integers(-1000, 1000, (8, 20, 20))
    pet = generator.integers(0, 20000, (8, 10, 10))
    slices = write_series(folder / "a", "CT", shared, ct)
    write_series(folder / "b", "PT", shared, pet, spacing=(4, 4, 3))
    write_series(folder / "c", "MR", shared, ct)
    lines = [square(7, 25, 3 * k) for k in range(2, 6)]
    others = [square(1, 35, 6)]
    regions = {region: lines, "GTV_Edema": others}
    write_structures(folder / "d" / "rs", shared, slices, regions)
    return shared


def plant_markers(one):
    """Sets every attribute at patient, study, visit, trial and equipment level that may hold text,
    an age, a date or a time to one of MARKERS, and a private one; returns how many.
    """
    planted = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
            if retired or not keyword or keyword in _READ_BY or (tag >> 16) not in _LEVELS:
                continue
            if vr in _VALUES:
                setattr(one, keyword, _VALUES[vr])
                planted += 1
        one.private_block(0x0011, "MARKER", create=True).add_new(0x01, "LO", "MARKER")
    return planted


def markers_in(folder):
    """(file, marker) of every marker in the bytes or the name of a file below a folder."""
    found = []
    for path in Path(folder).rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if path.name.endswith(".gz"):
            content = gzip.decompress(content)
        content += path.name.encode()
        found += [(path.name, marker) for marker in MARKERS if marker.encode() in content]
    return found
