"""From scans to cases: check, resample, store; in parallel, restartable."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage

from isanet_jax.cases.body import body_box_mm
from isanet_jax.cases.case import FORMAT, SUFFIX, Case, read_meta, write_case
from isanet_jax.cases.grid import (
    as_three,
    case_grid,
    outside_fraction,
    overlap_fraction,
    resample,
    resample_label,
    same_grid,
)
from isanet_jax.cases.head import find_head
from isanet_jax.classes import TUMOUR, Classes, Code, class_mask
from isanet_jax.datasets.layout import PET_CT, Scan
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.kinds import KINDS, pet_name, shown
from isanet_jax.volume import Volume, bounds_mm, check_grid, read_volume

_LABEL_ROUNDING = 1e-3
_SAMPLES = 10_000  # voxels of a class that a patch may be centred on
_LEFT_OUT_BITS = 13  # of float32's 23: what is left is right to 0.05 %


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How cases are made.

    Attributes:
        size: voxels per axis of `crop` and `resize`, one number or three (D, H, W).
        fit: `crop`, `resize` or `whole`, see `isanet_jax.cases.grid.case_grid`.
        spacing_mm: voxel size of `crop` and `whole`, one number or three along the patient's axes
            (right-left, front-back, feet-head).
        images: name -> kind, see `isanet_jax.kinds`. Predictions and scores are on the
            grid of the first.
        classes: what the label's values stand for.
        region: `given`, the scan's box or else the whole field (of `whole`: the body in it);
            `head`, found on the PET where the scan has no box.

    Raises:
        ConfigError: settings that contradict each other.
    """

    size: int | tuple[int, int, int] = 144
    fit: str = "crop"
    spacing_mm: float | tuple[float, float, float] = 1.0
    images: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(PET_CT))
    classes: Classes = dataclasses.field(default_factory=Classes)
    region: str = "given"

    def __post_init__(self):
        if self.region == "head" and not pet_name(self.images):
            raise ConfigError("the head is found on the PET, and there is none among the images")

    def to_json(self) -> dict:
        """As the manifest has them; of `whole`, without a size."""
        return {
            "size": None if self.fit == "whole" else _short(self.size),
            "fit": self.fit,
            "spacing_mm": _short(self.spacing_mm),
            "images": dict(self.images),
            **self.classes.to_json(),
            "region": self.region,
        }


def _short(value):
    """One number where it is the same for every axis, else a list."""
    three = as_three(value)
    return three[0] if len(set(three)) == 1 else list(three)


def settings_of(stored: Mapping) -> Settings:
    """The settings that a manifest or a checkpoint has, those of older versions too."""
    values = dict(stored)
    if "classes" not in values:  # before there were several
        values["classes"] = {TUMOUR: values.get("label_values", [1])}
        values["others"] = values.get("other_values", [])
    classes = {name: tuple(numbers) for name, numbers in values["classes"].items()}
    spacing = values["spacing_mm"]
    return Settings(
        size=_size_of(values["size"]),
        fit=values["fit"],
        spacing_mm=tuple(spacing) if isinstance(spacing, list) else spacing,
        images=values.get("images", dict(PET_CT)),
        classes=Classes(
            classes,
            tuple(values.get("ignore", ())),
            tuple(values["others"]),
            {name: Code(*code) for name, code in values.get("codes", {}).items()},
        ),
        region=values.get("region", "given"),
    )


def _size_of(stored):
    """Of `whole` there is none."""
    if stored is None:
        return Settings.size
    return tuple(stored) if isinstance(stored, list) else stored


def read_images(scan: Scan, images: Mapping[str, str] = PET_CT) -> dict[str, Volume]:
    """A scan's images from NIfTI, by name. Raises DataError, see `read_volume`."""
    return {name: read_volume(scan.image(name), case=scan.case) for name in images}


def _read_scan(scan, settings, copies):
    """(images, label of bits, warnings); of a DICOM study, written to the folder `copies`, too."""
    if scan.study is None:
        label = read_label(scan.label, settings.classes, case=scan.case)
        return read_images(scan, settings.images), label, list(scan.warnings)
    from isanet_jax.dicom.convert import read_study, write_copies  # pydicom, where it is needed

    images = read_study(scan.study)
    if copies is not None:
        write_copies(copies / scan.case, images)
    label = bits_of_masks(images.masks, settings.classes)
    return images.volumes, label, [*scan.warnings, *images.warnings]


def bits_of_masks(masks: Mapping[str, Volume], classes: Classes) -> Volume:
    """Masks of one grid, class by class, as one label of bits."""
    some = next(iter(masks.values()))
    bits = np.zeros(some.data.shape, classes.dtype)
    for index, name in enumerate(classes.names):
        bits |= masks[name].data.astype(classes.dtype) << classes.dtype(index)
    return Volume(bits, some.affine, some.header)


def image_channels(
    scan: Scan, volumes: Mapping[str, Volume], settings: Settings
) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """Checks and resamples one scan's images: the part that training and prediction share.

    Returns:
        images: name -> (D, H, W), int16 HU of a CT, float32 of others; affine: (4, 4) of their
        grid; warnings.

    Raises:
        DataError: no overlap, or values that are not of the images' kinds.
    """
    warnings = check_images(scan, volumes, settings.images)
    shape, affine, told = place(scan, volumes, settings)
    field = bounds_mm(shape, affine)
    (first, reference), *others = volumes.items()
    if overlap_fraction(field, bounds_mm(reference.data.shape, reference.affine)) == 0:
        raise DataError(
            f"the box lies outside the {shown(first, settings.images[first])}",
            case=scan.case,
            file=scan.image(first),
        )
    for name, volume in others:
        covered = overlap_fraction(field, bounds_mm(volume.data.shape, volume.affine))
        if covered < 0.5:
            told.append(
                f"{shown(name, settings.images[name])} covers only {covered:.0%} of the case's "
                "field"
            )
    return resample_images(volumes, settings, shape, affine), affine, warnings + told


def place(scan, volumes, settings) -> tuple[tuple[int, int, int], np.ndarray, list[str]]:
    """Where a scan's case lies: shape (D, H, W), affine and warnings."""
    box_mm, warnings = scan.box_mm, []
    if box_mm is None and settings.region == "head":
        box_mm, has_brain = find_head(volumes[pet_name(settings.images)])
        if not has_brain:
            warnings.append("no brain found on the PET: the box may miss the head")
    first, reference = next(iter(volumes.items()))
    if box_mm is None and settings.fit == "whole":
        box_mm = body_box_mm(reference, settings.images[first])
    if box_mm is None:
        box_mm = bounds_mm(reference.data.shape, reference.affine)
    grid = {"size": settings.size, "fit": settings.fit, "spacing_mm": settings.spacing_mm}
    shape, affine = case_grid(box_mm, **grid)
    if settings.fit == "whole":  # before anything of its size is made
        check_grid(shape, affine, {"case": scan.case, "file": scan.image(first)})
    return shape, affine, warnings


def resample_images(
    volumes: Mapping[str, Volume], settings: Settings, shape, affine
) -> dict[str, np.ndarray]:
    """Images on a grid: air, no uptake or no signal outside their fields.

    CT is whole HU: at most 0.5 HU of the interpolated value are lost. Of `whole`, whose volumes
    are large, other images keep 11 significant bits, 0.05 %.
    """
    found = {}
    for name, volume in volumes.items():
        kind = KINDS[settings.images[name]]
        data = resample(volume, shape, affine, order=1, fill=kind.outside)
        if kind.dtype is np.int16:
            data = np.clip(np.rint(data), -32768, 32767).astype(np.int16)
        elif settings.fit == "whole":
            data = _rounded(data)
        found[name] = data
    return found


def _rounded(data):
    """float32 with as many of its significand's bits as stay, rounded to nearest."""
    bits = np.ascontiguousarray(data, np.float32).view(np.uint32)
    half = np.uint32(1 << (_LEFT_OUT_BITS - 1))
    return ((bits + half) & np.uint32(-(1 << _LEFT_OUT_BITS) & 0xFFFFFFFF)).view(np.float32)


def image_statistics(
    images: Mapping[str, np.ndarray], settings: Settings
) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each image of a case.

    Of a PET that is `crop` or `resize`, over its volume (Eq. 17); else over the body, which is
    what the first image says it is: how much air there is around it then changes nothing.
    """
    first, reference = next(iter(images.items()))
    body = KINDS[settings.images[first]].body(reference)
    statistics = {}
    for name, data in images.items():
        is_over_body = settings.fit == "whole" or settings.images[name] in ("mr", "other")
        values = data[body] if is_over_body and body.any() else data
        mean = values.mean(dtype=np.float64)
        statistics[name] = float(mean), float(np.sqrt(np.square(values - mean).mean()))
    return statistics


def unlabelled_case(images: Mapping[str, np.ndarray], settings: Settings) -> Case:
    """A case of images alone, to predict on."""
    statistics = image_statistics(images, settings)
    known = {name: {"mean": mean, "sd": sd} for name, (mean, sd) in statistics.items()}
    return Case(images, np.zeros(0, np.uint8), {"images": known})


def check_images(scan: Scan, volumes: Mapping[str, Volume], kinds: Mapping[str, str]) -> list[str]:
    """Raises DataError on images that cannot be of their kinds and one patient; gives warnings."""
    (first, reference), *others = volumes.items()
    box = bounds_mm(reference.data.shape, reference.affine)
    for name, volume in others:
        other = bounds_mm(volume.data.shape, volume.affine)
        if overlap_fraction(box, other) == 0:
            names = shown(first, kinds[first]), shown(name, kinds[name])
            raise DataError(
                f"{names[0]} ({_span(box)}) and {names[1]} {scan.image(name)} ({_span(other)}) do "
                "not overlap",
                case=scan.case,
                file=scan.image(first),
                wanted=f"{names[0]} and {names[1]} of one patient in one frame of reference",
            )
    warnings = []
    for name, volume in volumes.items():
        where = {"case": scan.case, "file": scan.image(name)}
        warnings += KINDS[kinds[name]].check(volume, where)
    return warnings


def _span(box):
    return ", ".join(
        f"{name} {a:.0f} to {b:.0f} mm" for name, a, b in zip("xyz", *box, strict=True)
    )


def read_label(path, classes: Classes, *, case, placed=True) -> Volume:
    """Reads a mask file as bits of the classes, on its own grid.

    Args:
        path: NIfTI.
        classes: what its values stand for.
        case: ID to name in errors.
        placed: see `isanet_jax.volume.read_volume`.

    Raises:
        DataError: unreadable, or with a value that is neither 0 nor known to `classes`, but for
            the rounding errors of a resampler.
    """
    label = read_volume(path, case=case, placed=placed)
    whole = np.rint(label.data)
    if np.abs(label.data - whole).max(initial=0) < _LABEL_ROUNDING:
        label = Volume(whole, label.affine, label.header)
    present = np.unique(label.data)
    known = [v for values in classes.values.values() for v in values]
    known = sorted({*known, *classes.ignore, *classes.others})
    if any(v != 0 and v not in known for v in present):
        listed = ", ".join(f"{v:.9g}" for v in present[:10])
        raise DataError(
            f"label values {listed}{', ...' if len(present) > 10 else ''}",
            case=case,
            file=path,
            wanted=f"0 and {', '.join(map(str, known))}",
            action="Name the values that are tumour with --label-values, or each class with "
            "--classes",
        )
    return Volume(classes.bits(label.data), label.affine, label.header)


def prepare_case(
    scan: Scan, settings: Settings, output: Path, *, copies: Path | None = None
) -> tuple[dict, bool]:
    """Makes one case file, or keeps it where it was made from the same files and settings.

    Args:
        scan: what it is made of.
        settings: how.
        output: folder of the case.
        copies: folder that gets a DICOM study as NIfTI, too; None: no copies.

    Returns:
        The case's meta, and whether it was made now.

    Raises:
        DataError: on bad input (see `image_channels`, `read_label`) or a failed write.
    """
    path = output / f"{scan.case}{SUFFIX}"
    identity = {
        "format": FORMAT,
        "case": scan.case,
        "patient": scan.patient,
        "centre": scan.centre,
        "fold": scan.fold,
        "box_mm": None if scan.box_mm is None else scan.box_mm.tolist(),
        "settings": settings.to_json(),
        "sources": _sources(scan, settings),
    }
    if path.exists():
        try:
            meta = read_meta(path)
        except DataError:
            meta = {}  # damaged or of another version: made anew
        has_copies = copies is None or scan.study is None or (copies / scan.case).is_dir()
        if identity.items() <= meta.items() and has_copies:
            return meta, False
    volumes, label, told = _read_scan(scan, settings, copies)
    _check_place(scan, label, volumes, settings)
    images, affine, warnings = image_channels(scan, volumes, settings)
    reference = next(iter(volumes.values()))
    shape = next(iter(images.values())).shape
    label_case = resample_label(label, shape, affine)
    label_reference = (
        label.data
        if same_grid(label, reference)
        else resample(label, reference.data.shape, reference.affine, order=0, fill=0)
    )
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    warnings += _label_warnings(label, label_case, affine, volumes, settings)
    classes = settings.classes
    ml = abs(np.linalg.det(reference.affine[:3, :3])) / 1000
    case_ml = float(np.prod(spacing_mm) / 1000)
    volumes_ml = {name: n * ml for name, n in _voxels(label_reference, classes).items()}
    volumes_case_ml = {name: n * case_ml for name, n in _voxels(label_case, classes).items()}
    meta = {
        **identity,
        "spacing_mm": spacing_mm.tolist(),
        "affine": affine.tolist(),
        "shape": list(shape),
        "reference_shape": list(reference.data.shape),
        "reference_affine": reference.affine.tolist(),
        "reference_header": reference.header.hex() if reference.header else "",
        "images": _describe(volumes, images, classes.any_of(label_case), settings),
        "volume_ml": int(np.count_nonzero(classes.any_of(label_reference))) * ml,
        "volume_case_ml": int(np.count_nonzero(classes.any_of(label_case))) * case_ml,
        "volumes_ml": volumes_ml,
        "volumes_case_ml": volumes_case_ml,
        "warnings": told + warnings,
    }
    samples = {
        name: _draw(class_mask(label_case, index)) for index, name in enumerate(classes.names)
    }
    write_case(path, Case(images, label_case, meta), label_reference, samples)
    return meta, True


def _check_place(scan, label, volumes, settings):
    """Raises DataError where no voxel of a label that has some lies in the first image."""
    first, reference = next(iter(volumes.items()))
    if same_grid(label, reference):
        return
    tumour = Volume(settings.classes.any_of(label.data), label.affine)
    if outside_fraction(tumour, reference.data.shape, reference.affine) == 1:
        raise DataError(
            f"the label lies outside the {shown(first, settings.images[first])}",
            case=scan.case,
            file=scan.label,
            wanted="both of one patient in one frame of reference",
            action="Look at its affine: a program that changed the image may have kept the label's",
        )


def _voxels(bits, classes):
    """Class -> its voxels in a label of bits."""
    return {
        name: int(np.count_nonzero(class_mask(bits, index)))
        for index, name in enumerate(classes.names)
    }


def _describe(volumes, images, tumour, settings):
    """Of each image its kind, the range of its values, and what it is normalised by.

    `of_tumour` are the percentiles 0, 1, ..., 100 of the voxels of any class; none without.
    """
    statistics = image_statistics(images, settings)
    return {
        name: {
            "kind": settings.images[name],
            "range": [float(volume.data.min()), float(volume.data.max())],
            "mean": statistics[name][0],
            "sd": statistics[name][1],
            "of_tumour": _percentiles(images[name][tumour]),
        }
        for name, volume in volumes.items()
    }


def _percentiles(values):
    if not values.size:
        return []
    return np.round(np.percentile(values.astype(np.float32), range(101)), 3).tolist()


def _draw(mask):
    """(n, 3) int32: voxels of a mask, at most as many as patches need; always the same ones."""
    voxels = np.argwhere(mask).astype(np.int32)
    if len(voxels) > _SAMPLES:
        chosen = np.random.default_rng(0).choice(len(voxels), _SAMPLES, replace=False)
        voxels = voxels[np.sort(chosen)]
    return voxels


def _lost_lesions(label, label_case, affine):
    """Volumes, in ml, of the label's 26-connected components that have no voxel on the case grid.

    A component is there if a voxel of the mask lies within a voxel of one of its own.
    """
    parts, _ = ndimage.label(label.data, np.ones((3, 3, 3)))
    near = ndimage.binary_dilation(label_case, np.ones((3, 3, 3)))
    to_case = np.linalg.inv(affine) @ label.affine
    voxels = np.argwhere(label.data)
    places = np.rint(voxels @ to_case[:3, :3].T + to_case[:3, 3]).astype(int)
    inside = ((places >= 0) & (places < label_case.shape)).all(1)
    is_kept = np.zeros(len(voxels), bool)
    is_kept[inside] = near[tuple(places[inside].T)]
    numbers = parts[tuple(voxels.T)]
    kept = np.unique(numbers[is_kept])
    sizes = np.bincount(numbers)
    ml = abs(np.linalg.det(label.affine[:3, :3])) / 1000
    return [size * ml for n, size in enumerate(sizes) if size and n not in kept]


def _label_warnings(label, label_case, affine, volumes, settings):
    """What is to be told of a label of bits; of each class, where there are several."""
    classes, warnings = settings.classes, []
    if not classes.any_of(label.data).any():
        return ["the label is empty"]
    pets = [v for name, v in volumes.items() if settings.images[name] == "pet"]
    for index, name in enumerate(classes.names):
        mask = Volume(class_mask(label.data, index), label.affine)
        if not mask.data.any():
            continue
        prefix = "" if len(classes.names) == 1 else f"{name}: "
        told = _mask_warnings(mask, class_mask(label_case, index), affine, pets)
        warnings += [prefix + text for text in told]
    return warnings


def doubts_of_mask(mask: np.ndarray) -> list[str]:
    """What is possible and unusual about a mask on an image's or a case's grid."""
    share = np.count_nonzero(mask) / mask.size
    if share <= 0.5:
        return []
    return [f"the label covers {share:.0%} of its field: is it the body, or inverted?"]


def _mask_warnings(mask, on_case, affine, pets):
    warnings = doubts_of_mask(on_case)
    ml = mask.data.sum() * abs(np.linalg.det(mask.affine[:3, :3])) / 1000
    for pet in pets:
        if (outside := outside_fraction(mask, pet.data.shape, pet.affine)) > 0.01:
            warnings.append(f"{outside:.0%} of the tumour lies outside the PET")
    if not on_case.any():
        return [*warnings, f"the tumour ({ml:.2f} ml) has no voxel on the case's grid"]
    if lost := _lost_lesions(mask, on_case, affine):
        listed = ", ".join(f"{ml:.3f} ml" for ml in lost[:10])
        more = f" and {len(lost) - 10} more" if len(lost) > 10 else ""
        warnings.append(
            f"{len(lost)} lesion(s) of the label are lost on the case's grid ({listed}{more})"
        )
    if (outside := outside_fraction(mask, on_case.shape, affine)) > 0.01:
        warnings.append(f"{outside:.0%} of the tumour lies outside the case's grid")
    return warnings


def _sources(scan, settings):
    """What a case is made of: SHA-256 of the files; of a DICOM study, see `fingerprints`."""
    if scan.study is None:
        paths = {name: scan.image(name) for name in settings.images} | {"label": scan.label}
        return {name: _sha256(path, scan.case) for name, path in paths.items()}
    from isanet_jax.dicom.convert import fingerprints

    return fingerprints(scan.study)


def _sha256(path, case):
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", case=case, file=path) from error
