"""The grid of a case, and resampling between grids in world coordinates.

Arrays of a case are (D, H, W): D runs from the feet to the head, H from front to back, W from the
patient's right to left, so that `case[d]` is an axial slice as radiologists view it.
"""

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from isanet_jax.classes import class_mask
from isanet_jax.errors import ConfigError
from isanet_jax.volume import Volume

FITS = ("crop", "resize", "whole")
_SLAB_VOXELS = 2**22


def as_three(value) -> tuple:
    """One number for every axis, or a number for each: three of them."""
    return (value,) * 3 if np.isscalar(value) else tuple(value)


def case_grid(
    bounds: np.ndarray, *, size, fit: str, spacing_mm
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Places the grid of a case.

    `crop`: `size` voxels of `spacing_mm`, centred on the box. `resize`: `size` voxels that fill
    the box: the spacing follows, per axis. `whole`: as many voxels of `spacing_mm` as the box
    takes, around its centre.

    Args:
        bounds: (2, 3) lower and upper corner of the box, RAS+ mm.
        size: voxels per axis, one number or three (D, H, W); of `crop` and `resize`.
        fit: of `FITS`.
        spacing_mm: one number or three, along the patient's axes (right-left, front-back,
            feet-head); of `crop` and `whole`.

    Returns:
        shape (D, H, W), and (4, 4) affine, (d, h, w) index to RAS+ mm.

    Raises:
        ConfigError: an unknown fit, or a size or spacing that is not positive.
    """
    if fit not in FITS:
        raise ConfigError(f"fit is {fit!r}; choose one of {', '.join(FITS)}")
    shape, spacing = as_three(size), np.array(as_three(spacing_mm), float)
    if min(shape) < 1 or not (spacing > 0).all():
        raise ConfigError(f"size is {size} and spacing_mm is {spacing_mm}; both must be > 0")
    low, high = bounds
    if fit == "whole":
        # A voxel that the box reaches into by a rounding error only is left out.
        counts = np.maximum(np.ceil((high - low) / spacing - 1e-3).astype(int), 1)
        shape = tuple(int(n) for n in counts[::-1])
    if fit != "resize":
        centre, edges = (low + high) / 2, np.array(shape)[::-1] * spacing
        low, high = centre - edges / 2, centre + edges / 2
    return shape, grid_affine(shape, low, high)


def grid_affine(shape, low, high) -> np.ndarray:
    """(4, 4) affine of a (D, H, W) grid that fills the box from `low` to `high`, RAS+ mm."""
    x, y, z = (np.asarray(high) - low) / np.asarray(shape)[::-1]
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = z, -y, -x, 1.0
    affine[:3, 3] = high[0] - x / 2, high[1] - y / 2, low[2] + z / 2
    return affine


def resample(volume: Volume, shape, affine, *, order: int, fill: float) -> np.ndarray:
    """The volume's values at the voxel centres of another grid.

    A voxel reaches to its edges: between its centre and the outer edge of the field the value
    is the voxel's, beyond it `fill` (as SimpleITK does).

    Args:
        volume: the source.
        shape, affine: the target grid, (3,) and (4, 4) index to RAS+ mm.
        order: 1 trilinear, 0 nearest.
        fill: value outside the source's field.

    Returns:
        `shape`, float32 for order 1, the source's dtype for order 0.
    """
    shape = tuple(int(n) for n in shape)
    to_source = np.linalg.inv(volume.affine) @ affine
    # Snapped to exact numbers, equal grids give equal voxels and edges fall on the same side.
    to_source = np.where(abs(to_source - to_source.round()) < 1e-9, to_source.round(), to_source)
    data = volume.data.astype(np.float32, copy=False) if order else volume.data
    out = np.empty(shape, data.dtype)
    # Slab by slab: the coordinates' arrays of a whole CT would take more memory than the CT.
    slab = max(_SLAB_VOXELS // max(shape[1] * shape[2], 1), 1)
    for first in range(0, shape[0], slab):
        part = out[first : first + slab]
        shifted = to_source.copy()
        shifted[:, 3] += first * to_source[:, 0]
        ndimage.affine_transform(
            data, shifted[:3, :3], shifted[:3, 3], part.shape, part, order=order, mode="nearest"
        )
        part[~_inside(part.shape, shifted, volume.data.shape)] = fill
    return out


def resample_mask(label: Volume, shape, affine) -> np.ndarray:
    """A mask on another grid: the voxels where its linear interpolation exceeds one half.

    Nearest neighbours shift a mask by up to half a voxel, all of it the same way where two grids
    lie half a voxel apart. So taken to a case grid and, as a network's probability is, back by
    linear interpolation (0.5 and above), a blob of 2 ml keeps a DSC of 0.97 instead of 0.95
    (tests/test_geometry.py). A mask too small to have any such voxel keeps its nearest ones.

    Args:
        label: bool.
        shape, affine: see `resample`.

    Returns:
        `shape`, bool.
    """
    fraction = resample(
        Volume(label.data.astype(np.float32), label.affine), shape, affine, order=1, fill=0.0
    )
    # Rounding errors must not decide where two grids lie exactly half a voxel apart.
    found = fraction > 0.5 + 1e-4
    return found if found.any() else resample(label, shape, affine, order=0, fill=False)


def resample_label(label: Volume, shape, affine) -> np.ndarray:
    """A label of bits (`isanet_jax.classes`) on another grid, each bit by `resample_mask`."""
    out = np.zeros(shape, label.data.dtype)
    for index in range(int(label.data.max(initial=0)).bit_length()):
        mask = Volume(class_mask(label.data, index), label.affine)
        if mask.data.any():
            out |= resample_mask(mask, shape, affine).astype(out.dtype) << index
    return out


def _inside(shape, to_source, source_shape):
    """Which voxels of a grid lie within the field of another, (shape) bool."""
    inside = np.ones(shape, bool)
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    for source_axis, length in enumerate(source_shape):
        terms = [to_source[source_axis, i] * axes[i] for i in range(3) if to_source[source_axis, i]]
        position = sum(terms, to_source[source_axis, 3])
        inside &= (position >= -0.5 - 1e-6) & (position <= length - 0.5 + 1e-6)
    return inside


def same_grid(a: Volume, b: Volume) -> bool:
    """Whether two volumes have equal shapes, and voxels in equal places but for rounding.

    Rounding is up to two thousandths of a voxel, anywhere in the field: programs round spacings.
    """
    if a.data.shape != b.data.shape:
        return False
    return grid_distance_mm(a, b) < 0.002 * min(a.spacing_mm.min(), b.spacing_mm.min())


def grid_distance_mm(a: Volume, b: Volume) -> float:
    """The largest distance of two equal-shaped volumes' voxels of one index, mm."""
    corners = np.array(a.data.shape)[:, None] * np.eye(3)
    corners = np.concatenate([corners, np.zeros((1, 3)), [a.data.shape]])
    shift = apply_affine(a.affine - b.affine, corners)
    return float(np.linalg.norm(shift, axis=1).max())


def outside_fraction(mask: Volume, shape, affine) -> float:
    """Share of a mask's voxels whose centre lies outside a grid's field; 0 of an empty mask.

    Args:
        mask: bool.
        shape, affine: (3,) voxels and (4, 4) to mm of the grid.
    """
    to_grid = np.linalg.inv(affine) @ mask.affine
    voxels = apply_affine(to_grid, np.argwhere(mask.data))
    inside = ((voxels >= -0.5) & (voxels <= np.array(shape) - 0.5)).all(1)
    return 1 - float(inside.mean()) if len(inside) else 0.0


def overlap_fraction(inner: np.ndarray, outer: np.ndarray) -> float:
    """Share of the box `inner` that lies in the box `outer`; both (2, 3) corners in mm."""
    edges = np.minimum(inner[1], outer[1]) - np.maximum(inner[0], outer[0])
    return float(np.prod(np.clip(edges, 0, None)) / np.prod(inner[1] - inner[0]))
