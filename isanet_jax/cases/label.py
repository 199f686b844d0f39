"""The label of a case: read as bits of its classes, and what is doubtful in it."""

from collections.abc import Mapping

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from isanet_jax.cases.grid import (
    outside_fraction,
    same_grid,
)
from isanet_jax.classes import Classes, class_mask
from isanet_jax.errors import DataError
from isanet_jax.kinds import shown
from isanet_jax.nifti import read_volume
from isanet_jax.volume import CONNECTED_26, Volume

_LABEL_ROUNDING = 1e-3


def bits_of_masks(masks: Mapping[str, Volume], classes: Classes) -> Volume:
    """Masks of one grid, class by class, as one label of bits."""
    some = next(iter(masks.values()))
    bits = np.zeros(some.data.shape, classes.dtype)
    for index, name in enumerate(classes.names):
        bits |= masks[name].data.astype(classes.dtype) << classes.dtype(index)
    return Volume(bits, some.affine, some.header)


def read_label(path, classes: Classes, *, case, placed=True) -> Volume:
    """Reads a mask file as bits of the classes, on its own grid.

    Args:
        path: NIfTI.
        classes: what its values stand for.
        case: ID to name in errors.
        placed: see `isanet_jax.nifti.read_volume`.

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


def check_place(scan, label, volumes, settings):
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


def _lost_lesions(label, label_case, affine):
    """Volumes, in ml, of the label's 26-connected components that have no voxel on the case grid.

    A component is there if a voxel of the mask lies within a voxel of one of its own.
    """
    parts, _ = ndimage.label(label.data, CONNECTED_26)
    near = ndimage.binary_dilation(label_case, CONNECTED_26)
    to_case = np.linalg.inv(affine) @ label.affine
    voxels = np.argwhere(label.data)
    places = np.rint(apply_affine(to_case, voxels)).astype(int)
    inside = ((places >= 0) & (places < label_case.shape)).all(1)
    is_kept = np.zeros(len(voxels), bool)
    is_kept[inside] = near[tuple(places[inside].T)]
    numbers = parts[tuple(voxels.T)]
    kept = np.unique(numbers[is_kept])
    sizes = np.bincount(numbers)
    ml = label.voxel_ml
    return [size * ml for n, size in enumerate(sizes) if size and n not in kept]


def label_warnings(label, label_case, affine, volumes, settings):
    """What the case's grid does to a label of bits, for each class where there are several."""
    classes, warnings = settings.classes, []
    is_own = not any(same_grid(label, volume) for volume in volumes.values())
    for index, name in enumerate(classes.names):
        mask = Volume(class_mask(label.data, index), label.affine)
        if not mask.data.any():
            continue
        prefix = "" if len(classes.names) == 1 else f"{name}: "
        told = _mask_warnings(mask, class_mask(label_case, index), affine, is_own=is_own)
        warnings += [prefix + text for text in told]
    return warnings


def doubts_of_mask(mask: np.ndarray) -> list[str]:
    """What is possible and unusual about a mask on an image's or a case's grid."""
    share = np.count_nonzero(mask) / mask.size
    if share <= 0.5:
        return []
    return [f"the label covers {share:.0%} of its field: is it the body, or inverted?"]


def _mask_warnings(mask, on_case, affine, *, is_own):
    # On a grid of its own, a mask may fill what was cropped to it.
    warnings = doubts_of_mask(on_case) if is_own else []
    ml = mask.data.sum() * mask.voxel_ml
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
