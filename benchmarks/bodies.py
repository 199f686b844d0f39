"""Made bodies whose noise is a scanner's: it decides what compresses, and how well."""

import numpy as np
from scipy import ndimage


def make_arrays(shape):
    """CT (int16), PET (float32) and label (uint8) of a body in air."""
    generator = np.random.default_rng(0)
    d, h, w = np.ogrid[tuple(slice(-1, 1, 1j * n) for n in shape)]
    body = (h**2 / 0.5 + w**2 / 0.8 + 0 * d) < 1
    noise = ndimage.gaussian_filter(generator.normal(size=shape).astype(np.float32), 0.7)
    ct = np.where(body, 40 + 60 * noise, -1000 + 20 * noise)
    pet = np.where(body, 1 + 0.4 * ndimage.gaussian_filter(noise, 1), 0.02 * noise)
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(n // 2, n // 2 + 12) for n in shape)] = 1
    return {
        "ct": np.rint(ct).astype(np.int16),
        "pet": np.clip(pet, 0, None).astype(np.float32),
        "label": label,
    }
