"""Sliding windows and mirror images, against loops in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from isanet_jax.network.whole_volume import gaussian_weights, mirrored, window_starts, windowed


@pytest.mark.parametrize(
    ("size", "patch", "starts"),
    [(16, 16, [0]), (24, 16, [0, 8]), (17, 16, [0, 1]), (32, 16, [0, 8, 16]), (144, 128, [0, 16])],
)
def test_window_starts(size, patch, starts):
    assert window_starts(size, patch) == starts


def test_windows_cover_the_volume_and_overlap_by_half():
    for size, patch in itertools.product(range(8, 60, 3), (8, 12)):
        if patch <= size:
            starts = window_starts(size, patch)
            assert starts[0] == 0
            assert starts[-1] == size - patch
            assert all(b - a <= -(-patch // 2) for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("patch", [12, 13])
def test_gaussian_weights_are_nnunets(patch):
    """nnU-Net filters a single voxel in the middle, patch // 2, with sigma p/8."""
    point = np.zeros((patch,) * 3)
    point[(patch // 2,) * 3] = 1
    expected = ndimage.gaussian_filter(point, patch / 8, mode="constant")
    weights = gaussian_weights(patch)
    np.testing.assert_allclose(weights, expected / expected.max(), rtol=1e-5)
    assert weights.min() > 0


def uneven(image):
    """A network's stand-in that sees where it is in its window."""
    p = image.shape[1]
    ramp = jnp.arange(p, dtype=jnp.float32)
    return image[..., 0] * ramp[:, None, None] + image[..., 1] * ramp


def test_windows_are_averaged_with_their_weights(generator):
    image = generator.normal(size=(2, 10, 10, 10, 2)).astype(np.float32)
    out = jax.jit(windowed(uneven, 8))(image)
    total, weight = np.zeros((2, 10, 10, 10)), np.zeros((10, 10, 10))
    for starts in itertools.product((0, 2), repeat=3):
        place = tuple(slice(s, s + 8) for s in starts)
        total[:, *place] += np.asarray(uneven(image[:, *place])) * gaussian_weights(8)
        weight[place] += gaussian_weights(8)
    np.testing.assert_allclose(out, total / weight, rtol=1e-4, atol=1e-4)


def test_mirror_images_are_averaged_where_they_belong(generator):
    image = generator.normal(size=(1, 6, 6, 6, 2)).astype(np.float32)
    expected = np.zeros((1, 6, 6, 6))
    for count in range(4):
        for axes in itertools.combinations((1, 2, 3), count):
            expected += np.flip(np.asarray(uneven(np.flip(image, axes))), axes) / 8
    np.testing.assert_allclose(jax.jit(mirrored(uneven))(image), expected, rtol=1e-4, atol=1e-5)
