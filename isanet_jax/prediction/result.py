"""A case read and predicted: its mask, probability, lesions, and the files that hold them."""

import dataclasses
from pathlib import Path
from types import MappingProxyType

import numpy as np

from isanet_jax.cases.ranges import differences
from isanet_jax.datasets.layout import Scan
from isanet_jax.dicom import is_dicom
from isanet_jax.errors import DataError
from isanet_jax.prediction.lesions import lesions
from isanet_jax.prediction.predictor import THRESHOLD, Predictor, entropy
from isanet_jax.prediction.write import write_outputs
from isanet_jax.volume import Volume, read_volume


@dataclasses.dataclass(frozen=True)
class Images:
    """A case as read.

    Attributes:
        scan: its names, and its box if it has one.
        ct, pet: HU and SUV.
        slices: the CT's DICOM datasets without pixels, in its order; None where it is no DICOM.
        warnings: of the images.
    """

    scan: Scan
    ct: Volume
    pet: Volume
    slices: list | None = None
    warnings: tuple[str, ...] = ()


def read_images(scan: Scan, *, formats=(), given=MappingProxyType({})) -> Images:
    """Reads a scan's CT and PET, each NIfTI or DICOM.

    Args:
        scan: names its files.
        formats: that are to be written: DICOM ones need a DICOM CT.
        given: `ct` or `pet` -> a volume that is there already and is not read.

    Raises:
        DataError: images that cannot be read, or a CT that a DICOM output cannot refer to.
    """
    warnings = []
    ct = slices = pet = None
    if "ct" not in given:
        ct, slices = _read(scan.ct, "CT", scan.case, warnings)
    if "pet" not in given:
        pet, _ = _read(scan.pet, "PET", scan.case, warnings)
    if slices is None and not {"dicom-seg", "rtstruct"}.isdisjoint(formats):
        raise DataError(
            "--format asks for DICOM and the CT is NIfTI",
            case=scan.case,
            file=scan.ct,
            wanted="a DICOM CT, which the output references",
            action="Give the CT's DICOM folder, or --format nifti",
        )
    return Images(scan, given.get("ct", ct), given.get("pet", pet), slices, tuple(warnings))


def _read(path, kind, case, notes):
    """A volume, and its DICOM slices where it comes from DICOM; adds what to be warned of."""
    if is_dicom(path):
        from isanet_jax.dicom.image import read_folder  # pydicom, only where it is needed

        return read_folder(path, kind, case=case, notes=notes)
    return read_volume(path, case=case), None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The tumour of a case, on the CT's own grid.

    Attributes:
        images: the case as read.
        volume: the probability, with the CT's geometry.
        warnings: of the images and the prediction, and hints where they are unlike the training's.
    """

    images: Images
    volume: Volume
    warnings: tuple[str, ...] = ()

    @property
    def probability(self) -> np.ndarray:
        """(I, J, K) float32, on the CT's own grid; of an ensemble, the mean."""
        return self.volume.data

    @property
    def mask(self) -> np.ndarray:
        """(I, J, K) bool: where the probability is at least one half."""
        return self.volume.data >= THRESHOLD

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) of the CT's grid: voxel index to world, RAS+ mm."""
        return self.volume.affine

    @property
    def uncertainty(self) -> np.ndarray:
        """(I, J, K) float32: the entropy of the probability, 0 to 1 bit."""
        return entropy(self.volume.data)

    def lesions(self) -> list[dict[str, float]]:
        """A row per lesion, see `isanet_jax.prediction.lesions.lesions`."""
        return lesions(Volume(self.mask, self.affine), self.images.pet)

    def save(self, path, *, format="nifti", keep_identity=False, overwrite=False) -> None:  # noqa: A002
        """Writes the mask.

        Args:
            path: of the file.
            format: `nifti`, `dicom-seg` or `rtstruct`; the DICOM ones need a DICOM CT.
            keep_identity: copy the patient's name, IDs and dates from the CT into DICOM.
            overwrite: replace an existing file.

        Raises:
            DataError: the file exists or cannot be written, or the CT is no DICOM.
        """
        outputs = {format: Path(path)}
        write_outputs(self, outputs, keep_identity=keep_identity, overwrite=overwrite)


def predict(
    predictor: Predictor, images: list[Images], *, batch=1, progress=None
) -> list[Prediction | Exception]:
    """Predicts cases together, spread over the devices.

    Args:
        predictor: the networks.
        images: the cases.
        batch, progress: see `Predictor.probabilities_of_scans`.

    Returns:
        for each case its prediction, or the error that it has met.
    """
    outcomes = predictor.probabilities_of_scans(
        [(one.scan, one.ct, one.pet) for one in images], batch=batch, progress=progress
    )
    predictions = []
    for one, outcome in zip(images, outcomes, strict=True):
        if isinstance(outcome, Exception):
            predictions.append(outcome)
            continue
        volume, told = outcome
        hints = [f"hint: {text}" for text in differences(one.ct, one.pet, predictor.seen)]
        read = [f"warning: {text}" for text in one.warnings]
        predictions.append(Prediction(one, volume, (*read, *told, *hints)))
    return predictions
