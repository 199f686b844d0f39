"""The images of a case: checked, placed, and resampled to its grid."""

from collections.abc import Mapping

import numpy as np

from isanet_jax.cases.body import body_box_mm
from isanet_jax.cases.case import Case
from isanet_jax.cases.grid import (
    case_grid,
    overlap_fraction,
    resample,
)
from isanet_jax.cases.head import find_head
from isanet_jax.cases.preparation import Settings
from isanet_jax.datasets.layout import PET_CT, Scan
from isanet_jax.errors import DataError
from isanet_jax.kinds import KINDS, pet_name, shown
from isanet_jax.nifti import read_volume
from isanet_jax.volume import Volume, bounds_mm, check_grid

_LEFT_OUT_BITS = 13  # of float32's 23: what is left is right to 0.05 %


def read_images(scan: Scan, images: Mapping[str, str] = PET_CT) -> dict[str, Volume]:
    """A scan's images from NIfTI, by name. Raises DataError, see `read_volume`."""
    return {name: read_volume(scan.image(name), case=scan.case) for name in images}


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
