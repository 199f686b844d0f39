"""A case read and predicted: its mask, probability, lesions, and the files that hold them."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from isanet_jax.cases.grid import resample
from isanet_jax.cases.ranges import differences
from isanet_jax.classes import Classes, Code
from isanet_jax.datasets.layout import Scan
from isanet_jax.dicom import ISA_NET, Maker, is_dicom
from isanet_jax.errors import DataError
from isanet_jax.kinds import pet_name
from isanet_jax.nifti import read_volume
from isanet_jax.prediction.formats import FORMATS
from isanet_jax.prediction.predictor import Predictor, entropy
from isanet_jax.prediction.rules import Rules
from isanet_jax.prediction.write import write_outputs
from isanet_jax.quantify.lesions import lesions
from isanet_jax.quantify.patients import ALL, patient
from isanet_jax.quantify.person import Person, person_of
from isanet_jax.volume import Volume


@dataclasses.dataclass(frozen=True)
class Images:
    """A case as read.

    Attributes:
        scan: its names, and its box if it has one.
        volumes: its images, by name; predictions are on the grid of the first.
        kinds: of the images, by name.
        slices: the first image's DICOM datasets without pixels, in its order; None where it is no
            DICOM.
        warnings: of the images.
        person: the patient's body, as far as the PET's DICOM says.
        pet_slices: as `slices`, of the PET.
    """

    scan: Scan
    volumes: Mapping[str, Volume]
    kinds: Mapping[str, str]
    slices: list | None = None
    warnings: tuple[str, ...] = ()
    person: Person = Person()  # noqa: RUF009 - it cannot be changed
    pet_slices: list | None = None

    @property
    def pet(self) -> Volume | None:
        """The PET, where there is one."""
        return self.volumes.get(pet_name(self.kinds))


def read_images(
    scan: Scan,
    kinds: Mapping[str, str],
    *,
    formats=(),
    given=MappingProxyType({}),
    series=(),
) -> Images:
    """Reads a scan's images, each NIfTI or DICOM.

    Args:
        scan: names its files.
        kinds: of the images that are needed, by name, in their order.
        formats: that are to be written: DICOM ones need the first image as DICOM.
        given: name -> a volume that is there already and is not read.
        series: Series Instance UIDs to take where several of a folder would do.

    Raises:
        DataError: images that are lacking or cannot be read, or a first image that a DICOM output
            cannot refer to.
    """
    volumes, slices, pet_slices = {}, None, None
    chosen, warnings = _chosen_series(scan, [n for n in kinds if n not in given], kinds, series)
    for index, name in enumerate(kinds):
        if name in given:
            volumes[name] = given[name]
        elif name in chosen:
            from isanet_jax.dicom.image import read_image

            volumes[name], of_image = read_image(chosen[name], case=scan.case, notes=warnings)
            slices = of_image if index == 0 else slices
            pet_slices = of_image if kinds[name] == "pet" else pet_slices
        else:
            volumes[name] = read_volume(scan.image(name), case=scan.case)
    person = person_of(pet_slices[0]) if pet_slices else Person()
    images = Images(scan, volumes, kinds, slices, tuple(warnings), person, pet_slices)
    for name in set(formats) & set(FORMATS):
        if FORMATS[name].check:
            FORMATS[name].check(images)
    return images


def _chosen_series(scan, names, kinds, series):
    """(name -> series of the images that are DICOM, what is to be said of them)."""
    if scan.study is not None:
        left = [f"left {text}" for text in scan.study.left if "not needed" not in text]
        return scan.study.images, [*scan.study.notes, *left]
    places = {name: Path(scan.image(name)) for name in names if is_dicom(scan.image(name))}
    for name, place in places.items():
        if kinds[name] not in ("ct", "pet", "mr"):
            raise DataError(
                f"DICOM of the kind {kinds[name]!r} is not read",
                case=scan.case,
                file=place,
                wanted="NIfTI",
                action="Convert it first",
            )
    if not places:
        return {}, []
    from isanet_jax.dicom.studies import choose_from  # pydicom, only where it is needed

    return choose_from(places, kinds, case=scan.case, chosen=frozenset(series))


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The tumour of a case, on the first image's own grid (the CT's).

    Attributes:
        images: the case as read.
        volumes: class -> its probability, with the image's geometry.
        classes: what the values of a mask of all stand for.
        rules: class -> how its probability becomes a mask.
        warnings: of the images and the prediction, and hints where they are unlike the training's.
        codes: class -> what its DICOM segments say that it is.
        maker: the model.
        superseded: format -> (Series, SOP Instance UID) of an earlier output of the study.
    """

    images: Images
    volumes: Mapping[str, Volume]
    classes: Classes
    rules: Mapping[str, Rules]
    warnings: tuple[str, ...] = ()
    codes: Mapping[str, Code] = dataclasses.field(default_factory=dict)
    maker: Maker = ISA_NET
    superseded: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)

    def maker_of(self, format: str) -> Maker:  # noqa: A002
        """What an output of a format says made it."""
        before = self.superseded.get(format)
        return self.maker._replace(supersedes=before, uids=self.uids[format])

    @functools.cached_property
    def _shown(self):
        return {}

    def shown(self, image: str, keep_identity: bool) -> list | None:
        """The slices of the `first` image or the `pet` as outputs refer to them, made once.

        See `isanet_jax.dicom.write.shown`; None: it is no DICOM.
        """
        from isanet_jax.dicom.write import refused, shown  # pydicom, where it is needed

        slices = self.images.slices if image == "first" else self.images.pet_slices
        key = image, keep_identity
        if slices is not None and key not in self._shown:
            with refused(self.images.scan.case):
                self._shown[key] = shown(slices, keep_identity)
        return self._shown.get(key)

    @functools.cached_property
    def uids(self) -> dict[str, tuple[str, str]]:
        """Format -> (Series, SOP Instance UID) of its output, by which others refer to it."""
        from pydicom.uid import generate_uid  # pydicom, where it is needed

        return {name: (generate_uid(None), generate_uid(None)) for name in FORMATS}

    @property
    def volume(self) -> Volume:
        """Probability of whichever class is the likeliest, with the image's geometry."""
        of_class = list(self.volumes.values())
        if len(of_class) == 1:
            return of_class[0]
        data = functools.reduce(np.maximum, (volume.data for volume in of_class))
        return Volume(data, of_class[0].affine, of_class[0].header)

    @property
    def probability(self) -> np.ndarray:
        """(I, J, K) float32, of whichever class is the likeliest; of an ensemble, the mean."""
        return self.volume.data

    @functools.cached_property
    def masks(self) -> dict[str, np.ndarray]:
        """Class -> (I, J, K) bool: where its probability is high enough, by `rules`.

        The same in every format and score: see `isanet_jax.classes.Classes.as_drawn`.
        """
        ml = abs(np.linalg.det(self.affine[:3, :3])) / 1000
        suv = functools.cache(self._suv) if self.images.pet is not None else None
        found = {
            name: self.rules[name].mask(volume.data, ml, suv)
            for name, volume in self.volumes.items()
        }
        return self.classes.as_drawn(found)

    def only(self, name: str) -> "Prediction":
        """The prediction of one class alone: with the mask that it has among the others."""
        classes = Classes({name: self.classes.values[name]})
        one = dataclasses.replace(self, volumes={name: self.volumes[name]}, classes=classes)
        one.__dict__["masks"] = {name: self.masks[name]}  # as the cached property keeps it
        return one

    @property
    def values(self) -> dict[str, int]:
        """Class -> its value in a mask of all."""
        return self.classes.written

    def _suv(self):
        """The PET on the masks' grid."""
        shape = next(iter(self.volumes.values())).data.shape
        return resample(self.images.pet, shape, self.affine, order=1, fill=0.0)

    @property
    def mask(self) -> np.ndarray:
        """(I, J, K) bool: where there is any class."""
        return functools.reduce(np.logical_or, self.masks.values())

    @property
    def labels(self) -> np.ndarray:
        """(I, J, K) uint8 or uint16: the value of each voxel's class, of the last that it has."""
        return self.classes.drawn(self.masks)

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) of the image's grid: voxel index to world, RAS+ mm."""
        return next(iter(self.volumes.values())).affine

    @property
    def uncertainty(self) -> np.ndarray:
        """(I, J, K) float32: the entropy of the probability, 0 to 1 bit."""
        return entropy(self.probability)

    def lesions(self) -> list[dict[str, float]]:
        """A row per lesion and class, see `isanet_jax.quantify.lesions.lesions`."""
        rows = []
        for name, of_class in self.lesions_of_class.items():
            rows += [{"class": name, **row} for row in of_class]
        return rows if len(self.values) > 1 else [_without_class(row) for row in rows]

    @functools.cached_property
    def lesions_of_class(self) -> dict[str, list[dict]]:
        """Class -> its lesions' rows, see `isanet_jax.quantify.lesions.lesions`."""
        return {name: self._lesions_of(mask) for name, mask in self.masks.items()}

    def _lesions_of(self, mask):
        return lesions(Volume(mask, self.affine), self.images.pet, self.images.person)

    def patient(self, references=None) -> list[dict]:
        """The patient's row, see `isanet_jax.quantify.patients.patient`.

        Of several classes, a row of all together, in which lesions that touch are one, and one of
        each.

        Args:
            references: see `patient`.
        """
        person = self.images.person
        if len(self.values) == 1:
            return [patient(self.lesions(), person, references)]
        of_class = {ALL: self._lesions_of(self.mask), **self.lesions_of_class}
        return [{"class": n, **patient(rows, person, references)} for n, rows in of_class.items()]

    def save(self, path, *, format="nifti", keep_identity=False, overwrite=False) -> None:  # noqa: A002
        """Writes the mask.

        Args:
            path: of the file.
            format: of `isanet_jax.prediction.formats`: `nifti` (a value for each class),
                `dicom-seg` or `rtstruct` (a segment or region for each), ...; the DICOM ones
                need the first image as DICOM.
            keep_identity: copy the patient's name, IDs and dates from the CT into DICOM.
            overwrite: replace an existing file.

        Raises:
            DataError: the file exists or cannot be written, or the CT is no DICOM.
        """
        outputs = {format: Path(path)}
        write_outputs(self, outputs, keep_identity=keep_identity, overwrite=overwrite)


def _without_class(row):
    return {name: value for name, value in row.items() if name != "class"}


def predict(
    predictor: Predictor, images: list[Images], *, batch=1, progress=None, clicks=None
) -> list[Prediction | Exception]:
    """Predicts cases together, spread over the devices.

    Args:
        predictor: the networks.
        images: the cases.
        batch, progress, clicks: see `Predictor.probabilities_of_scans`.

    Returns:
        for each case its prediction, or the error that it has met.
    """
    outcomes = predictor.probabilities_of_scans(
        [(one.scan, one.volumes) for one in images], batch=batch, progress=progress, clicks=clicks
    )
    predictions = []
    for one, outcome in zip(images, outcomes, strict=True):
        if isinstance(outcome, Exception):
            predictions.append(outcome)
            continue
        of_class, told = outcome
        unlike = differences(one.volumes, predictor.settings.images, predictor.seen)
        hints = [f"hint: {text}" for text in unlike]
        read = [f"warning: {text}" for text in one.warnings]
        volumes = dict(zip(predictor.classes, of_class, strict=True))
        warnings = (*read, *told, *hints)
        labels, codes = predictor.labels, predictor.settings.classes.codes
        made = Prediction(one, volumes, labels, predictor.rules, warnings, codes, predictor.maker)
        predictions.append(made)
    return predictions
