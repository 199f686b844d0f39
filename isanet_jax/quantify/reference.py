"""Reference regions in liver and blood pool, and what is judged by them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel.affines import apply_affine

from isanet_jax.cases.grid import resample
from isanet_jax.datasets.layout import read_csv
from isanet_jax.errors import DataError
from isanet_jax.nifti import read_volume
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


def read_references(table) -> dict[str, dict[str, tuple[str, ...]]]:
    """Case -> region -> its words, see `of_words`, of a CSV: case, liver, blood.

    A cell is a point, `X Y Z` in LPS mm, or a mask's file beside the table; it may be empty.

    Raises:
        DataError: no such columns, a case twice, a mask that is not there.
    """
    table, found = Path(table), {}
    for number, row in read_csv(table, ("case",)):
        case = row["case"].strip()
        cells = {name: (row.get(name) or "").strip() for name in REGIONS}
        if case in found or not any(cells.values()):
            raise DataError(
                f"line {number} has {'this case again' if case in found else 'no region'}",
                case=case,
                file=table,
                wanted=f"each case once, with {' or '.join(REGIONS)}",
            )
        found[case] = {n: _words(cell, table.parent) for n, cell in cells.items() if cell}
        for name, words in found[case].items():
            if len(words) == 1 and not Path(words[0]).is_file():
                raise DataError(f"no such mask of the {name}", case=case, file=words[0])
    return found


def _words(cell, folder):
    """Three numbers, or a file's path, which may have spaces."""
    words = tuple(cell.split())
    return words if _is_point(words) else (str((folder / cell).resolve()),)


def _is_point(words):
    try:
        return len([float(word) for word in words]) == 3
    except ValueError:
        return False


def of_words(pet: Volume, name: str, words: Sequence[str]) -> Reference:
    """The region that is given by a point's three numbers or by a mask's file.

    Raises:
        DataError: neither, or as `of_point` and `of_mask` do.
    """
    if _is_point(words):
        return of_point(pet, name, [float(word) for word in words])
    if len(words) != 1:
        raise DataError(
            f"the {name} is at {' '.join(words)!r}", wanted="X Y Z in LPS mm, or a mask's file"
        )
    return of_mask(pet, name, read_volume(words[0]))


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
