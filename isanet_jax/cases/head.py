"""The head and neck found on a PET scan, for cohorts without boxes (HECKTOR 2022 and later)."""

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from isanet_jax.volume import Volume

_SMOOTHING_VOXELS = 3
_BRAIN_SUV = 3.0
_BODY_SUV = 0.1
_BELOW_MM, _ABOVE_MM = 114.0, 30.0  # of the brain's lowest point
_FORWARD_MM = 30.0
_EDGE_MM = 144.0


def find_head(pet: Volume) -> tuple[np.ndarray, bool]:
    """A box of 144 mm around head and neck, from where the brain is.

    The brain is the largest connected uptake above SUV 3 (smoothed) that reaches the top third of
    the field; where there is none, the same above SUV 0.1.

    Args:
        pet: SUV.

    Returns:
        (2, 3) lower and upper corner, RAS+ mm; and whether a brain was found at SUV 3.
    """
    smooth = ndimage.gaussian_filter(pet.data, _SMOOTHING_VOXELS)
    # Height of each voxel: the scan may be stored in any order of axes.
    index = np.indices(pet.data.shape, sparse=True)
    height = sum(pet.affine[2, i] * index[i] for i in range(3)) + pet.affine[2, 3]
    top = height.max() - (height.max() - height.min()) / 3
    for threshold in (_BRAIN_SUV, _BODY_SUV):
        parts, count = ndimage.label(smooth > threshold)
        if not count:
            continue
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        reaching = np.zeros(count + 1, bool)
        reaching[np.unique(parts[height > top])] = True
        sizes[~reaching] = 0
        sizes[0] = 0
        if sizes.any():
            points = np.argwhere(parts == sizes.argmax())
            world = apply_affine(pet.affine, points)
            x, y, _ = world.mean(0)
            bottom = world[:, 2].min()
            low = np.array([x - _EDGE_MM / 2, y + _FORWARD_MM - _EDGE_MM / 2, bottom - _BELOW_MM])
            return np.stack([low, low + _EDGE_MM]), threshold == _BRAIN_SUV
    world = pet.affine[:3, :3] @ ((np.array(pet.data.shape) - 1) / 2) + pet.affine[:3, 3]
    return np.stack([world - _EDGE_MM / 2, world + _EDGE_MM / 2]), False
