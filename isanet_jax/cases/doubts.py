"""What is possible and unusual about a scan: the same for `prepare check` and `prepare`."""

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from isanet_jax.cases.grid import outside_fraction, overlap_fraction, resample, same_grid
from isanet_jax.cases.label import doubts_of_mask
from isanet_jax.kinds import KINDS, shown
from isanet_jax.volume import CONNECTED_26, Volume, bounds_mm

_SMALL_ML = 0.1
_LONGEST = 6  # times longer than wide, of voxels
_LEAST_COVER = 0.5
# Of the outlines of CT and PET: a Dice coefficient that is so much better mirrored, and good enough
# to mean something. Of 36 public sarcoma patients none is told, and mirrored on purpose 34 are.
_MIRROR_GAIN, _MIRROR_LEAST, _OUTLINE_MM = 0.025, 0.7, 8.0


def doubts_of_scan(
    volumes: Mapping[str, Volume], label: Volume | None, kinds: Mapping[str, str]
) -> list[str]:
    """What is to be looked at.

    Args:
        volumes: name -> image.
        label: bool, all classes together, on any grid; None where there is none.
        kinds: name -> kind of the images.
    """
    doubts = []
    for name, volume in volumes.items():
        doubts += _of_image(shown(name, kinds[name]), volume)
        doubts += KINDS[kinds[name]].doubts(volume)
    boxes = {name: bounds_mm(v.data.shape, v.affine) for name, v in volumes.items()}
    first, *others = boxes or [None]
    for name in others:
        covers = overlap_fraction(boxes[first], boxes[name])
        if 0 < covers < _LEAST_COVER:
            doubts.append(
                f"{shown(name, kinds[name])} covers only {covers:.0%} of the "
                f"{shown(first, kinds[first])}"
            )
    by_kind = {kind: volumes[name] for name, kind in reversed(kinds.items()) if name in volumes}
    if {"ct", "pet"} <= by_kind.keys():
        doubts += _of_sides(by_kind["ct"], by_kind["pet"])
    return doubts + (_of_label(label, volumes, kinds) if label is not None else [])


def _of_image(called, volume):
    doubts = []
    direction = volume.affine[:3, :3] / volume.spacing_mm
    if np.abs(np.abs(direction).max(0) - 1).max() > 1e-3:
        doubts.append(f"{called} is oblique")
    if (spread := volume.spacing_mm.max() / volume.spacing_mm.min()) > _LONGEST:
        doubts.append(f"{called} voxels are {spread:.1f} times longer than wide")
    return doubts


def _of_sides(ct, pet):
    """Whether the PET fits the CT better when right and left are swapped."""
    step = np.maximum(_OUTLINE_MM // pet.spacing_mm, 1).astype(int)
    coarse = Volume(
        pet.data[tuple(slice(None, None, n) for n in step)],
        pet.affine @ np.diag([*step, 1.0]),
    )
    # One byte a voxel: of a whole body, float32 would take as much as the CT again.
    body = Volume(KINDS["ct"].body(ct.data).astype(np.int8), ct.affine)
    outline = resample(body, coarse.data.shape, coarse.affine, order=0, fill=-1)
    in_field = outline >= 0
    side = int(np.abs(coarse.affine[0, :3]).argmax())
    # Both ways of it only where both have a CT.
    both = in_field & np.flip(in_field, side)
    of_ct, of_pet = (outline > 0) & both, KINDS["pet"].body(coarse.data)
    plain, mirrored = (_dice(of_ct, mask & both) for mask in (of_pet, np.flip(of_pet, side)))
    if mirrored < max(plain + _MIRROR_GAIN, _MIRROR_LEAST):
        return []
    return [
        f"PET fits the CT better with right and left swapped (outlines: Dice {mirrored:.2f}, as "
        f"they are {plain:.2f}): is one of them mirrored?"
    ]


def _dice(a, b):
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 0.0


def _of_label(label, volumes, kinds):
    parts, count = ndimage.label(label.data, CONNECTED_26)
    if not count:
        return ["the label is empty"]
    doubts = []
    sizes = np.bincount(parts.ravel())[1:] * label.voxel_ml
    if any(same_grid(label, volume) for volume in volumes.values()):
        doubts += doubts_of_mask(label.data)
    if (small := int((sizes < _SMALL_ML).sum())) and count > 1:
        doubts.append(f"{small} of {count} components are smaller than {_SMALL_ML} ml")
    for name, volume in volumes.items():
        outside = outside_fraction(label, volume.data.shape, volume.affine)
        if outside > 0.01:
            doubts.append(f"{outside:.0%} of the label lies outside the {shown(name, kinds[name])}")
    return doubts
