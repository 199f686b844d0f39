"""Measurements written as DICOM SR, TID 1500: a group for each lesion, on the SEG and the PET."""

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from highdicom import sr
from pydicom.sr.codedict import codes as known
from pydicom.sr.coding import Code as Coded
from pydicom.uid import SegmentationStorage, generate_uid

from isanet_jax.classes import NEOPLASM, Code
from isanet_jax.dicom import ISA_NET, Maker
from isanet_jax.dicom.write import PROGRAM, refused, save, series_number, shown, versions

_SUV_UNIT = known.UCUM.StandardizedUptakeValueBodyWeight
_SUL, _SUL_UNIT = known.DCM.SuvlbmJanma, known.UCUM.StandardizedUptakeValueLeanBodyMassJanma
_PET_CT = Coded("450436003", "SCT", "Positron emission tomography with computed tomography")
_IMAGING = Coded("363679005", "SCT", "Imaging procedure")
_GRAM = Coded("g", "UCUM", "gram")
_ML = known.UCUM.CubicCentimeter
_SUV = known.DCM.Suvbw
_DERIVED = {
    "max": known.SCT.Maximum, "mean": known.SCT.Mean, "peak": known.DCM.PeakValueWithinROI,
}  # fmt: skip
# Column of a lesion's row -> (concept, derivation, unit). Volumes at a threshold have no concept
# of their own, and stay in the table.
_MEASURES = {
    "mtv_ml": (known.SCT.Volume, None, _ML),
    **{f"suv_{name}": (_SUV, code, _SUV_UNIT) for name, code in _DERIVED.items()},
    **{f"sul_{name}": (_SUL, code, _SUL_UNIT) for name, code in _DERIVED.items()},
    "tlg_g": (known.DCM.TotalLesionGlycolysis, None, _GRAM),
}


def write_measurements(
    path,
    lesions: Mapping[str, Sequence[Mapping]],
    slices,
    *,
    segmentation: tuple[str, str],
    pet_slices=None,
    codes: Mapping[str, Code] = MappingProxyType({}),
    keep_identity=False,
    maker: Maker = ISA_NET,
) -> None:
    """Writes the lesions' measurements as a Comprehensive 3D SR.

    Args:
        path: of the file.
        lesions: class -> its rows (`isanet_jax.quantify.lesions.lesions`), in the segments' order.
        slices: the CT's datasets without pixels, that the segments are on.
        segmentation: (Series, SOP Instance UID) of the SEG that has a segment for each class.
        pet_slices: the PET's datasets; None: there is none in DICOM.
        codes: class -> what its lesions are; a neoplasm where it has none.
        keep_identity, maker: see `isanet_jax.dicom.write.write_segmentation`.

    Raises:
        DataError: the file cannot be written, or the headers are none that it can refer to.
    """
    with refused(path):
        ct = shown(slices, keep_identity)
        pet = shown(pet_slices, keep_identity) if pet_slices else []
        groups, number = [], 0
        for segment, (name, rows) in enumerate(lesions.items(), start=1):
            for row in rows:
                number += 1
                code = codes.get(name, NEOPLASM)
                label = f"lesion {number}" if len(lesions) == 1 else f"{name} {row['lesion']}"
                on = sr.ReferencedSegment(
                    sop_class_uid=SegmentationStorage,
                    sop_instance_uid=segmentation[1],
                    segment_number=segment,
                    source_series=sr.SourceSeriesForSegmentation(ct[0].SeriesInstanceUID),
                )
                groups.append(_group(label, row, on, code, maker))
        device = sr.ObserverContext(
            observer_type=known.DCM.Device,
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=generate_uid(entropy_srcs=[maker.name, maker.digest]),
                name=maker.name,
                manufacturer_name=PROGRAM,
                model_name=maker.name,
                serial_number=versions(maker)[-1],
            ),
        )
        content = sr.MeasurementReport(
            observation_context=sr.ObservationContext(observer_device_context=device),
            procedure_reported=_PET_CT if pet else _IMAGING,
            imaging_measurements=groups,
            title=known.DCM.ImagingMeasurementReport,
            referenced_images=_at(pet, lesions) or None,
        )
        dataset = sr.Comprehensive3DSR(
            evidence=[*pet, *ct, _segmentation(ct[0], *segmentation)],
            content=content,
            series_instance_uid=maker.uids[0] if maker.uids else generate_uid(None),
            series_number=series_number(slices) + 2,
            sop_instance_uid=maker.uids[1] if maker.uids else generate_uid(None),
            instance_number=1,
            is_complete=True,  # preliminary, and verified by nobody
            manufacturer=PROGRAM,
            manufacturer_model_name=maker.name,
            software_versions=list(versions(maker)),
            device_serial_number="0",
            series_description=f"{maker.name} measurements",
        )
        save(path, dataset)


def _at(slices, lesions):
    """The PET's slices nearest the lesions' centroids: the report's image library.

    All of the series is evidence. A library of all of it would take seconds, and say no more.
    """
    if not slices:
        return []
    places = np.array([one.ImagePositionPatient for one in slices], float)
    row, column = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    along = np.cross(row, column)
    centres = [[row[f"{axis}_mm"] for axis in "xyz"] for of in lesions.values() for row in of] or [
        places.mean(0)
    ]
    nearest = {int(np.abs((places - centre) @ along).argmin()) for centre in centres}
    return [slices[index] for index in sorted(nearest)]


def _group(label, row, segment, code, maker):
    """A lesion's measurements."""
    measures = [
        sr.Measurement(name=concept, value=float(row[name]), unit=unit, derivation=derivation)
        for name, (concept, derivation, unit) in _MEASURES.items()
        if name in row
    ]
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(None), identifier=label),
        referenced_segment=segment,
        finding_type=Coded(code.value, code.scheme, code.meaning),
        algorithm_id=sr.AlgorithmIdentification(maker.name, versions(maker)[-1]),
        measurements=measures,
    )


def _segmentation(first, series_uid, instance_uid):
    """What evidence needs of the SEG."""
    dataset = copy.deepcopy(first)  # its elements would be the CT's, and be changed there
    dataset.SOPClassUID, dataset.SOPInstanceUID = SegmentationStorage, instance_uid
    dataset.SeriesInstanceUID, dataset.Modality = series_uid, "SEG"
    return dataset
