"""Where in a scan the patient is."""

import itertools

import numpy as np
from scipy import ndimage

from isanet_jax.kinds import KINDS
from isanet_jax.volume import Volume, bounds_mm

_STEP_MM = 4.0  # that is looked at
_MARGIN_MM = 10.0
_SMALLEST_PART = 0.01  # of the largest: arms are parts of their own, noise is none


def body_box_mm(volume: Volume, kind: str) -> np.ndarray:
    """A box around the patient: (2, 3) lower and upper corner, RAS+ mm.

    What is taken for the patient is what `isanet_jax.kinds.Kind.body` says, but for small
    parts; 10 mm of its surroundings are kept. An image without any is kept whole.

    Args:
        volume: the scan.
        kind: of `isanet_jax.kinds.KINDS`.
    """
    field = bounds_mm(volume.data.shape, volume.affine)
    step = np.maximum(_STEP_MM // volume.spacing_mm, 1).astype(int)
    sparse = volume.data[tuple(slice(0, None, n) for n in step)]
    parts, count = ndimage.label(KINDS[kind].body(sparse))
    if not count:
        return field
    sizes = np.bincount(parts.ravel())[1:]
    is_kept = sizes >= _SMALLEST_PART * sizes.max()
    kept = list(itertools.compress(ndimage.find_objects(parts), is_kept))
    low, high = (
        np.array([pick(getattr(box[axis], end) for box in kept) for axis in range(3)])
        for pick, end in ((min, "start"), (max, "stop"))
    )
    # In the scan's voxels, from the outer edge of the first to that of the last.
    shape = np.minimum(high * step, volume.data.shape) - low * step
    shifted = volume.affine.copy()
    shifted[:3, 3] += volume.affine[:3, :3] @ (low * step)
    found = bounds_mm(shape, shifted) + np.array([[-_MARGIN_MM], [_MARGIN_MM]])
    return np.stack([np.maximum(found[0], field[0]), np.minimum(found[1], field[1])])
