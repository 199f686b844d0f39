"""What a predicted mask holds, lesion by lesion: volumes and uptake."""

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage, signal

from isanet_jax.volume import CONNECTED_26, Volume

COLUMNS = (
    *("case", "class", "lesion", "volume_ml", "suv_max", "suv_mean", "suv_peak", "tlg", "mtv_ml"),
    *("x_mm", "y_mm", "z_mm"),
)
_MTV_SHARE = 0.41  # of SUVmax: EANM guideline for FDG tumour imaging 2.0
_PEAK_RADIUS_MM = (3000 / (4 * np.pi)) ** (1 / 3)  # 1 ml
_SUBDIVISIONS = 9
_LARGE_KERNEL = 9**3  # from which Fourier transforms are faster than sums


def lesions(mask: Volume, pet: Volume | None) -> list[dict[str, float]]:
    """A row per 26-connected component, the largest first.

    Uptake is read at the PET's own voxels, each belonging to the lesion that its centre lies in; a
    lesion without any takes the PET interpolated at the lesion's own voxels.

    Args:
        mask: bool, on any grid.
        pet: SUV, on any grid; None: there is none, and no uptake in the rows.

    Returns:
        `COLUMNS` without `case`: volume of the mask; SUVmax, SUVmean; SUVpeak, the highest mean
        over a sphere of 1 ml centred in the lesion; TLG, SUVmean x volume; MTV, the part at or
        above 41 % of SUVmax; centroid in patient coordinates (LPS, mm).
    """
    parts, _ = ndimage.label(mask.data, CONNECTED_26)
    voxel_ml = mask.voxel_ml
    if pet is None:
        numbers = range(1, parts.max() + 1)
        return _ranked([_shape_of(mask, parts, number, voxel_ml) for number in numbers])
    pet_ml = pet.voxel_ml
    to_pet = np.linalg.inv(pet.affine) @ mask.affine
    to_mask = np.linalg.inv(to_pet)
    kernel = _sphere(pet.spacing_mm)
    rows = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        inside = np.argwhere(parts[box] == number) + [part.start for part in box]
        positions = apply_affine(to_pet, inside)
        # PET voxels in the lesion's box, and which of them have their centre in it.
        low = np.clip(np.floor(positions.min(0)).astype(int), 0, pet.data.shape)
        high = np.clip(np.ceil(positions.max(0)).astype(int) + 1, low, pet.data.shape)
        grid = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1).reshape(-1, 3)
        nearest = np.rint(apply_affine(to_mask, grid)).astype(int)
        valid = ((nearest >= 0) & (nearest < mask.data.shape)).all(1)
        own = np.zeros(len(grid), bool)
        own[valid] = parts[tuple(nearest[valid].T)] == number
        grid = grid[own]
        unit_ml = pet_ml
        suv = pet.data[tuple(grid.T)]
        if not suv.size:
            suv = ndimage.map_coordinates(pet.data, positions.T, order=1, mode="nearest")
            grid, unit_ml = np.rint(positions).astype(int), voxel_ml
        volume_ml = len(inside) * voxel_ml
        above = float((suv >= _MTV_SHARE * suv.max()).sum())
        rows.append(
            {
                "volume_ml": volume_ml,
                "suv_max": float(suv.max()),
                "suv_mean": float(suv.mean()),
                "suv_peak": _peak(pet.data, grid, kernel),
                "tlg": float(suv.mean()) * volume_ml,
                "mtv_ml": above * unit_ml,
                **_centroid(inside, mask.affine),
            }
        )
    return _ranked(rows)


def _ranked(rows):
    """The rows, the largest lesion first, numbered."""
    rows.sort(key=lambda row: -row["volume_ml"])
    return [{"lesion": index, **row} for index, row in enumerate(rows, start=1)]


def _shape_of(mask, parts, number, voxel_ml):
    """A lesion's row without uptake."""
    inside = np.argwhere(parts == number)
    return {"volume_ml": len(inside) * voxel_ml} | _centroid(inside, mask.affine)


def _centroid(voxels, affine):
    """In patient coordinates, LPS mm."""
    centre = apply_affine(affine, voxels.mean(0))
    return dict(zip(("x_mm", "y_mm", "z_mm"), centre * [-1, -1, 1], strict=True))


def _sphere(spacing_mm):
    """Weights of a sphere of 1 ml centred on a voxel: the share of each voxel that it fills."""
    reach = np.ceil(_PEAK_RADIUS_MM / spacing_mm + 0.5).astype(int)
    # Parts of about 0.1 mm; a voxel of a clinical scan has nine along each axis.
    parts = np.clip(np.rint(_SUBDIVISIONS * spacing_mm), 1, _SUBDIVISIONS).astype(int)
    fine = [
        ((np.arange((2 * r + 1) * n) + 0.5) / n - r - 0.5) * s
        for r, n, s in zip(reach, parts, spacing_mm, strict=True)
    ]
    squared = sum(np.square(f) for f in np.ix_(*fine))
    filled = (squared <= _PEAK_RADIUS_MM**2).astype(float)
    shape = [n for r, part in zip(reach, parts, strict=True) for n in (2 * r + 1, part)]
    weights = filled.reshape(shape).mean((1, 3, 5))
    return weights / weights.sum()


def _peak(data, centres, kernel):
    """The highest mean over the sphere; outside the volume, its edge's values count."""
    reach = np.array(kernel.shape) // 2
    low = np.clip(centres.min(0), 0, np.array(data.shape) - 1)
    high = np.clip(centres.max(0), low, np.array(data.shape) - 1) + 1
    start, stop = np.maximum(low - reach, 0), np.minimum(high + reach, data.shape)
    part = data[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].astype(float)
    if kernel.size > _LARGE_KERNEL:  # the sphere is symmetric: a convolution is a correlation
        padded = np.pad(part, [(r, r) for r in reach], mode="edge")
        means = signal.oaconvolve(padded, kernel, mode="valid")
    else:
        means = ndimage.correlate(part, kernel, mode="nearest")
    places = np.clip(centres - start, 0, np.array(part.shape) - 1)
    return float(means[tuple(places.T)].max())
