"""Reference regions in liver and blood pool, and what is judged by them."""

from typing import NamedTuple

import numpy as np
from nibabel.affines import apply_affine

from isanet_jax.cases.grid import resample
from isanet_jax.errors import DataError
from isanet_jax.volume import Volume

# Radius and length, mm: a sphere of 3 cm in the right lobe of the liver; a cylinder of 1 cm x 2 cm
# in the descending aorta, along the patient (PERCIST: Wahl 2009).
_SPHERE_MM, _CYLINDER_MM = 15.0, (5.0, 20.0)
REGIONS = ("liver", "blood")


class Reference(NamedTuple):
    """Uptake of a reference region, SUV.

    Attributes:
        mean, sd, max: over its PET voxels.
        voxels: their number.
    """

    mean: float
    sd: float
    max: float
    voxels: int


def of_point(pet: Volume, name: str, point_lps_mm) -> Reference:
    """The standard region around a point.

    Args:
        pet: SUV.
        name: of `REGIONS`: which region.
        point_lps_mm: (3,) its centre in patient coordinates.

    Raises:
        DataError: the region does not lie in the PET.
    """
    centre = np.asarray(point_lps_mm, float) * [-1, -1, 1]
    reach = max(_SPHERE_MM, *_CYLINDER_MM)
    corners = np.stack(np.meshgrid(*[(-reach, reach)] * 3, indexing="ij"), -1).reshape(-1, 3)
    voxels = apply_affine(np.linalg.inv(pet.affine), centre + corners)
    low, high = np.floor(voxels.min(0)).astype(int), np.ceil(voxels.max(0)).astype(int) + 1
    grid = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1).reshape(-1, 3)
    offset = apply_affine(pet.affine, grid) - centre
    if name == "liver":
        inside = np.linalg.norm(offset, axis=1) <= _SPHERE_MM
    else:
        radius, length = _CYLINDER_MM
        inside = (np.linalg.norm(offset[:, :2], axis=1) <= radius) & (
            np.abs(offset[:, 2]) <= length / 2
        )
    grid = grid[inside]
    if not len(grid) or (grid < 0).any() or (grid >= pet.data.shape).any():
        raise DataError(
            f"the region of the {name} at {np.round(point_lps_mm, 1).tolist()} mm is not all in "
            "the PET",
            wanted="a point of the patient, LPS mm, as the report shows it",
        )
    return _reference(pet.data[tuple(grid.T)])


def of_mask(pet: Volume, name: str, mask: Volume) -> Reference:
    """The PET voxels whose centres lie in a mask, on any grid.

    Raises:
        DataError: there are none.
    """
    data = mask.data.astype(np.uint8)
    on_pet = resample(Volume(data, mask.affine), pet.data.shape, pet.affine, order=0, fill=0)
    if not on_pet.any():
        raise DataError(f"the mask of the {name} has no voxel of the PET", wanted="some")
    return _reference(pet.data[on_pet > 0])


def _reference(suv):
    suv = suv.astype(float)
    sd = float(suv.std(ddof=1)) if suv.size > 1 else 0.0
    return Reference(float(suv.mean()), sd, float(suv.max()), suv.size)


def percist_threshold(name: str, reference: Reference, lean_share: float = 1.0) -> float:
    """SULpeak from which a lesion is measurable: 1.5 mean + 2 SD of the liver, else 2 mean + 2 SD.

    Args:
        name: of `REGIONS`: the blood pool where the liver is diseased.
        reference: of it.
        lean_share: see `isanet_jax.quantify.person.Person`; 1: the threshold is of SUVpeak.
    """
    times = 1.5 if name == "liver" else 2.0
    return lean_share * (times * reference.mean + 2 * reference.sd)


def deauville(suv_max: float | None, liver: Reference, blood: Reference) -> int:
    """Score of the hottest lesion: 1 none, 2 up to the blood pool, 3 up to the liver, 4 above.

    5 from twice the liver's SUVmax on (Barrington 2014). Regions count by their SUVmax.
    """
    if suv_max is None:
        return 1
    if suv_max >= 2 * liver.max:
        return 5
    if suv_max > liver.max:
        return 4
    return 2 if suv_max <= blood.max else 3
