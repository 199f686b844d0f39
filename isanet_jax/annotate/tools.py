"""What a reader does without a network: thresholds in a sphere, and what they change."""

from collections.abc import Sequence

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from isanet_jax.cases.grid import resample
from isanet_jax.errors import ConfigError
from isanet_jax.volume import CONNECTED_26, Volume

RADIUS_MM = 30.0  # of the sphere around a click
SHARE = 0.41  # of the sphere's SUVmax
FOLLOWED_MM, BALL_MM = 15.0, 5.0  # radii of what is added at a click that a network missed


def threshold_in_sphere(
    pet: Volume,
    grid: Volume,
    point_ras_mm: Sequence[float],
    *,
    radius_mm: float = RADIUS_MM,
    share: float | None = SHARE,
    least_suv: float | None = None,
) -> np.ndarray:
    """The part of a sphere at or above a threshold that is connected with its hottest voxel.

    Args:
        pet: SUV.
        grid: whose grid the mask is on; its data's shape counts only.
        point_ras_mm: (3,) middle of the sphere.
        radius_mm: of it.
        share: of the highest SUV within it; or
        least_suv: an SUV.

    Returns:
        bool on the grid; empty where the sphere lies outside.

    Raises:
        ConfigError: neither, or a radius that is none.
    """
    if (share is None) == (least_suv is None):
        raise ConfigError("give a share of SUVmax, or an SUV")
    if not 0 < radius_mm <= 500 or not np.isfinite(point_ras_mm).all():
        raise ConfigError(f"a sphere of {radius_mm} mm at {list(point_ras_mm)}")
    mask = np.zeros(grid.data.shape, bool)
    box, shifted, inside = _sphere(grid, point_ras_mm, radius_mm)
    if not inside.any():
        return mask
    suv = resample(pet, inside.shape, shifted, order=1, fill=0.0)
    values = np.where(inside, suv, -np.inf)
    hottest = np.unravel_index(int(values.argmax()), values.shape)
    least = float(values[hottest]) * share if least_suv is None else least_suv
    parts, _ = ndimage.label(inside & (suv >= least), CONNECTED_26)
    if parts[hottest]:
        mask[box] = parts == parts[hottest]
    return mask


def followed(
    mask: np.ndarray,
    grid: Volume,
    pet: Volume | None,
    here: Sequence,
    away: Sequence,
    *,
    within: np.ndarray | None = None,
) -> np.ndarray:
    """A network's mask in which each click is right, also where the network did not follow it.

    At a missed "here" the threshold in a sphere is added, or, without PET or where that lies
    elsewhere, a ball; at an "away" a ball goes that reaches as far as the mask does around it.

    Args:
        mask: bool on the grid.
        grid: of the mask; its data's shape counts only.
        pet: SUV; None: there is none.
        here, away: (n, 3) RAS mm.
        within: bool on the grid: other clicks do not count. None: all do.
    """
    inverse, found = np.linalg.inv(grid.affine), mask
    for points, is_here in ((here, True), (away, False)):
        for point in points:
            voxel = tuple(np.rint(apply_affine(inverse, np.asarray(point, float))).astype(int))
            if not all(0 <= v < n for v, n in zip(voxel, mask.shape, strict=True)):
                continue
            if found[voxel] == is_here or not (within is None or within[voxel]):
                continue
            if is_here:
                added = np.zeros(mask.shape, bool)
                if pet is not None:
                    added = threshold_in_sphere(pet, grid, point, radius_mm=FOLLOWED_MM)
                found = found | (added if added[voxel] else ball(grid, point, BALL_MM))
            else:
                found = found & ~ball(grid, point, _depth(found, voxel, grid.spacing_mm))
    return found


def _depth(mask, voxel, spacing_mm):
    """The distance in mm from a voxel of a mask to the nearest that is none, or the grid's end."""
    at, reach_mm = np.array(voxel), 10.0
    end_mm = float((np.minimum(at + 1, np.array(mask.shape) - at) * spacing_mm).min())
    while True:  # in a box that grows, as a whole scan would take seconds
        reach = np.ceil(reach_mm / spacing_mm).astype(int)
        low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, mask.shape)
        others = np.argwhere(~mask[tuple(map(slice, low, high))]) + low - at
        nearest = np.linalg.norm(others * spacing_mm, axis=1).min(initial=end_mm)
        if nearest <= reach_mm:
            return float(nearest)
        reach_mm *= 2


def ball(grid: Volume, point_ras_mm: Sequence[float], radius_mm: float) -> np.ndarray:
    """The voxels of a grid within a radius of a point: bool; the point's own is one of them."""
    found = np.zeros(grid.data.shape, bool)
    box, _, inside = _sphere(grid, point_ras_mm, radius_mm)
    found[box] = inside
    voxel = np.rint(apply_affine(np.linalg.inv(grid.affine), point_ras_mm)).astype(int)
    if ((voxel >= 0) & (voxel < found.shape)).all():
        found[tuple(voxel)] = True
    return found


def _sphere(grid, point_ras_mm, radius_mm):
    """The box of a grid around a sphere, the box's affine, and which of its voxels are inside."""
    inverse, shape = np.linalg.inv(grid.affine), grid.data.shape
    reach = np.abs(inverse[:3, :3]).sum(1) * radius_mm
    middle = apply_affine(inverse, np.asarray(point_ras_mm, float))
    low = np.clip(np.floor(middle - reach).astype(int), 0, shape)
    high = np.clip(np.ceil(middle + reach).astype(int) + 1, low, shape)
    shifted = grid.affine.copy()
    shifted[:3, 3] = apply_affine(grid.affine, low)
    index = np.stack(np.meshgrid(*map(np.arange, high - low), indexing="ij"), -1)
    inside = np.linalg.norm(apply_affine(shifted, index) - point_ras_mm, axis=-1) <= radius_mm
    return tuple(map(slice, low, high)), shifted, inside


def without_component(mask: np.ndarray, voxel: Sequence[int]) -> np.ndarray:
    """The mask without the 26-connected component that a voxel lies in."""
    voxel = tuple(int(v) for v in voxel)
    if not all(0 <= v < n for v, n in zip(voxel, mask.shape, strict=True)) or not mask[voxel]:
        return mask
    parts, _ = ndimage.label(mask, CONNECTED_26)
    return mask & (parts != parts[voxel])


def changes(before: np.ndarray, after: np.ndarray, voxel_ml: float) -> dict[str, float]:
    """What differs between two masks of one grid.

    Returns:
        `volume_ml` before and after, `dsc` (1 where both are empty), and `added` and `gone`: the
        lesions of the one that no voxel of the other touches.
    """
    total = int(before.sum()) + int(after.sum())
    both = int(np.count_nonzero(before & after))
    return {
        "volume_before_ml": float(before.sum()) * voxel_ml,
        "volume_after_ml": float(after.sum()) * voxel_ml,
        "dsc": 2 * both / total if total else 1.0,
        "added": _alone(after, before),
        "gone": _alone(before, after),
    }


def _alone(mask, other):
    """Lesions of a mask without a voxel of another one."""
    parts, count = ndimage.label(mask, CONNECTED_26)
    return count - np.count_nonzero(np.unique(parts[mask & other]))
