"""Segmentation by a threshold on SUV: rows that need no training, as a floor for every table."""

import numpy as np
from scipy import ndimage

from isanet_jax.volume import CONNECTED_26

_RULES = {
    "SUV >= 2.5": lambda suv, suv_max: suv >= 2.5,
    "SUV >= 4.0": lambda suv, suv_max: suv >= 4.0,
    "41 % SUVmax": lambda suv, suv_max: suv >= 0.41 * suv_max,
}


def threshold_masks(suv: np.ndarray, suv_max: float) -> dict[str, np.ndarray]:
    """Masks of each rule, as it is and with its largest component (26-connected) only.

    Args:
        suv: (I, J, K).
        suv_max: the case's largest SUV.

    Returns:
        name -> (I, J, K) bool.
    """
    masks = {}
    for name, rule in _RULES.items():
        masks[name] = rule(suv, suv_max)
        masks[f"{name}, largest component"] = largest_component(masks[name])
    return masks


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The 26-connected component with the most voxels; an empty mask stays empty."""
    parts, count = ndimage.label(mask, CONNECTED_26)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()
