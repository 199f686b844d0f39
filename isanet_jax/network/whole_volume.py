"""From a network on patches to a prediction of whole volumes, and its mean over mirror images.

`probability` is a function (B, p, p, p, C) -> (B, p, p, p) throughout.
"""

import itertools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax


def window_starts(size: int, patch: int) -> list[int]:
    """Starts of windows that cover `size` voxels, evenly placed, overlapping by half or more."""
    count = -(-2 * (size - patch) // patch) + 1
    return [round(i * (size - patch) / max(count - 1, 1)) for i in range(count)]


def gaussian_weights(patch: int) -> np.ndarray:
    """nnU-Net's weights of a window, (p, p, p) float32: sigma p/8, 1 at voxel p // 2, never 0."""
    line = np.exp(-0.5 * np.square((np.arange(patch) - patch // 2) / (patch / 8)))
    return (line[:, None, None] * line[:, None] * line).astype(np.float32)


def windowed(probability: Callable, patch: int) -> Callable:
    """Sliding windows of `patch`^3 with half overlap, averaged with Gaussian weights.

    Returns:
        (B, D, H, W, C) -> (B, D, H, W), with one window in memory at a time.
    """

    def whole(image):
        batch, *shape, channels = image.shape
        starts = np.array(list(itertools.product(*(window_starts(n, patch) for n in shape))))
        weights = jnp.asarray(gaussian_weights(patch))

        def add(sums, start):
            place = (0, *start)
            window = lax.dynamic_slice(image, (*place, 0), (batch, *[patch] * 3, channels))
            weighted = (probability(window) * weights, jnp.broadcast_to(weights, (1, *[patch] * 3)))
            sums = tuple(
                lax.dynamic_update_slice(
                    s, lax.dynamic_slice(s, place, w.shape) + w.astype(s.dtype), place
                )
                for s, w in zip(sums, weighted, strict=True)
            )
            return sums, None

        empty = (jnp.zeros((batch, *shape), jnp.float32), jnp.zeros((1, *shape), jnp.float32))
        (total, weight), _ = lax.scan(add, empty, jnp.asarray(starts))
        return total / weight

    return whole


def mirrored(probability: Callable) -> Callable:
    """The mean over the eight mirror images of a volume."""

    def whole(image):
        def add(total, flips):
            def flip(x):
                for axis in range(3):
                    x = jnp.where(flips[axis], jnp.flip(x, axis + 1), x)
                return x

            return total + flip(probability(flip(image))), None

        flips = jnp.asarray(list(itertools.product((False, True), repeat=3)))
        total, _ = lax.scan(add, jnp.zeros(image.shape[:-1], jnp.float32), flips)
        return total / len(flips)

    return whole
