"""What a mask holds, lesion by lesion: volumes and uptake."""

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage, signal

from isanet_jax.quantify.person import Person
from isanet_jax.volume import CONNECTED_26, Volume

# Volumes within a lesion, by the SUV from which a voxel counts: a share of its SUVmax (EANM's
# guideline for FDG 2.0), or a value of its own (4.0: Boellaard 2022).
_SHARES = {"volume_41_ml": 0.41, "volume_50_ml": 0.50}
_LEAST = {"volume_suv2.5_ml": 2.5, "volume_suv4_ml": 4.0}
_LEAN = {"sul_max": "suv_max", "sul_mean": "suv_mean", "sul_peak": "suv_peak"}
COLUMNS = (
    *("case", "class", "lesion", "mtv_ml", "suv_max", "suv_mean", "suv_peak", "tlg_g"),
    *(*_SHARES, *_LEAST, *_LEAN, "x_mm", "y_mm", "z_mm", "remark"),
)
_PLACE = ("z_mm", "y_mm", "x_mm")
NO_CENTRE = "no PET voxel has its centre in it"
SMALL = "smaller than the sphere of SUVpeak"
_PEAK_RADIUS_MM = (3000 / (4 * np.pi)) ** (1 / 3)  # 1 ml
_SUBDIVISIONS = 9
_LARGE_KERNEL = 9**3  # from which Fourier transforms are faster than sums


def lesions(mask: Volume, pet: Volume | None, person: Person | None = None) -> list[dict]:
    """A row per 26-connected component, the largest first.

    Uptake is read at the PET's own voxels, each belonging to the lesion that its centre lies in
    (IBSI). A lesion without any has no uptake, and says so.

    Args:
        mask: bool, on any grid.
        pet: SUV, on any grid; None: there is none, and no uptake in the rows.
        person: the patient's body; None, or not all of it known: without SUL.

    Returns:
        `COLUMNS` without `case` and `class`, as far as they are known. `mtv_ml`: the mask's volume,
        on its own grid. `suv_peak`: the highest mean over a sphere of 1 ml centred in the lesion
        (QIBA, PERCIST). `tlg_g`: SUVmean x MTV (Larson 1999). `volume_41_ml` and so on: that share
        of MTV whose PET voxels have at least 41 % of SUVmax, or SUV 2.5. `x_mm` and so on: the
        centroid in patient coordinates (LPS).
    """
    parts, _ = ndimage.label(mask.data, CONNECTED_26)
    boxes = ndimage.find_objects(parts)
    kernel = None if pet is None else _sphere(pet.spacing_mm)
    rows = []
    for number, box in enumerate(boxes, start=1):
        voxels = np.argwhere(parts[box] == number) + [part.start for part in box]
        mtv_ml = len(voxels) * mask.voxel_ml
        row = {"mtv_ml": mtv_ml}
        if pet is not None:
            row |= _uptake(mtv_ml, _own_voxels(parts, number, voxels, mask, pet), pet, kernel)
            lean = person and person.lean_share
            if lean and "suv_max" in row:
                row |= {name: row[suv] * lean for name, suv in _LEAN.items()}
        rows.append(row | _centroid(voxels, mask.affine))
    # Of equal ones the lower first, whatever order the voxels are stored in.
    rows.sort(key=lambda row: (-round(row["mtv_ml"], 6), *(round(row[a], 2) for a in _PLACE)))
    return [{"lesion": index, **row} for index, row in enumerate(rows, start=1)]


def _own_voxels(parts, number, voxels, mask, pet):
    """(n, 3) PET voxels whose centres lie in a component."""
    to_pet = np.linalg.inv(pet.affine) @ mask.affine
    positions = apply_affine(to_pet, voxels)
    low = np.clip(np.floor(positions.min(0)).astype(int), 0, pet.data.shape)
    high = np.clip(np.ceil(positions.max(0)).astype(int) + 1, low, pet.data.shape)
    grid = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1).reshape(-1, 3)
    nearest = np.rint(apply_affine(np.linalg.inv(to_pet), grid)).astype(int)
    valid = ((nearest >= 0) & (nearest < mask.data.shape)).all(1)
    own = np.zeros(len(grid), bool)
    own[valid] = parts[tuple(nearest[valid].T)] == number
    return grid[own]


def _uptake(mtv_ml, own, pet, kernel):
    """A lesion's uptake, from its PET voxels."""
    if not len(own):
        return {"remark": NO_CENTRE}
    suv = pet.data[tuple(own.T)].astype(float)
    least = {name: share * suv.max() for name, share in _SHARES.items()} | _LEAST
    return {
        "suv_max": float(suv.max()),
        "suv_mean": float(suv.mean()),
        "suv_peak": _peak(pet.data, own, kernel),
        "tlg_g": float(suv.mean()) * mtv_ml,
        **{name: float((suv >= value).mean()) * mtv_ml for name, value in least.items()},
        **({"remark": SMALL} if mtv_ml < 1 else {}),
    }


def _centroid(voxels, affine):
    """In patient coordinates, LPS mm."""
    centre = apply_affine(affine, voxels.mean(0))
    return dict(zip(("x_mm", "y_mm", "z_mm"), (centre * [-1, -1, 1]).tolist(), strict=True))


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
