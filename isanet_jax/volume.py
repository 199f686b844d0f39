"""Volumes in world coordinates, and NIfTI files as the way in and out."""

import dataclasses
import math

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from isanet_jax.errors import DataError

# Limits that no scan of a patient meets; what is beyond them is damaged, or made to do harm.
# Neighbours of a voxel: by corners, too, as lesions are counted; by edges, as autoPET counts.
CONNECTED_26 = ndimage.generate_binary_structure(3, 3)
CONNECTED_18 = ndimage.generate_binary_structure(3, 2)
MOST_VOXELS = 2**30  # 1024^3, 4 GiB as float32
VOXEL_MM = (0.1, 20.0)
MOST_FIELD_MM = 4000.0


@dataclasses.dataclass(frozen=True)
class Volume:
    """An array with its place in the patient.

    Attributes:
        data: (I, J, K) voxels, in the file's own order.
        affine: (4, 4) float64, voxel index to world, RAS+ mm.
        header: NIfTI header (348 bytes) with the file's geometry and nothing else, or None.
    """

    data: np.ndarray
    affine: np.ndarray
    header: bytes | None = None

    @property
    def spacing_mm(self) -> np.ndarray:
        """(3,) distance of neighbouring voxels along each array axis, mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000)


def bounds_mm(shape, affine) -> np.ndarray:
    """Box that encloses the voxels' outer edges: (2, 3), lower and upper corner.

    Args:
        shape: (3,) voxels per axis.
        affine: (4, 4) voxel index to the box's coordinates: world (mm), or another grid's index.
    """
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in shape], indexing="ij"), -1)
    world = apply_affine(affine, corners.reshape(-1, 3))
    return np.stack([world.min(0), world.max(0)])


def check_grid(shape, affine, where: dict) -> None:
    """Raises DataError where a grid is none of a scan: before anything of its size is made.

    Args:
        shape: (3,) voxels per axis.
        affine: (4, 4) to mm.
        where: `case` and `file`, for the message.
    """
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    shown = " x ".join(f"{s:.4g}" for s in spacing_mm)
    low, high = VOXEL_MM
    if (spacing_mm > 0).all() and not ((spacing_mm >= low) & (spacing_mm <= high)).all():
        raise DataError(
            f"voxels of {shown} mm",
            wanted=f"sizes from {low:g} to {high:g} mm",
            action="Look at the unit of its lengths: a header that says mm over numbers in m or "
            "um is wrong by a factor of 1000",
            **where,
        )
    field_mm = spacing_mm * shape
    if math.prod(map(int, shape)) > MOST_VOXELS or field_mm.max() > MOST_FIELD_MM:
        raise DataError(
            f"{' x '.join(map(str, shape))} voxels of {shown} mm",
            wanted=f"at most {MOST_VOXELS} voxels in a field of at most {MOST_FIELD_MM / 1000:g} m",
            action="Crop it to the patient",
            **where,
        )
