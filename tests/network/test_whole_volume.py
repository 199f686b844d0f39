"""Sliding windows and mirror images, against loops in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from isanet_jax.network.whole_volume import (
    gaussian_weights,
    mirrored,
    over_windows,
    stitched,
    window_starts,
)


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
    weights = gaussian_weights((patch,) * 3)
    np.testing.assert_allclose(weights, expected / expected.max(), rtol=1e-5)
    assert weights.min() > 0


def uneven(image):
    """A network's stand-in that sees where it is in its window."""
    p = image.shape[1]
    ramp = jnp.arange(p, dtype=jnp.float32)
    one = image[..., 0] * ramp[:, None, None] + image[..., 1] * ramp
    return jnp.stack([one, image[..., 1] * ramp[:, None]], -1)  # of two classes


def averaged(image, window=(8, 8, 8)):
    """The mean of all windows of an image (D, H, W, 2), by its definition."""
    weights = gaussian_weights(window)[..., None]
    total, weight = np.zeros(image.shape), np.zeros((*image.shape[:3], 1))
    ranges = [window_starts(n, p) for n, p in zip(image.shape[:3], window, strict=True)]
    for starts in itertools.product(*ranges):
        place = tuple(slice(s, s + p) for s, p in zip(starts, window, strict=True))
        total[place] += np.asarray(uneven(image[None, *place]))[0] * weights
        weight[place] += weights
    return total / weight


@pytest.mark.parametrize("batch", [1, 3])
def test_windows_that_are_left_out_anywhere_count_for_nothing(generator, batch):
    """Also where no window of several planes of windows is needed: at the feet, between, on top."""
    shape, window = (43, 11, 9), (8, 8, 8)
    values = generator.random((*shape, 2), dtype=np.float32)
    for _ in range(20):
        kept = set(generator.choice(window_starts(43, 8), 3, replace=False).tolist())
        left_out = {(start, 0, 1) for start in kept}

        def is_needed(start, kept=kept, left_out=left_out):
            return start[0] in kept and start not in left_out

        def predict(starts):
            return [values[tuple(slice(s, s + 8) for s in start)] + sum(start) for start in starts]

        weights = gaussian_weights(window)[..., None]
        total, weight = np.zeros(values.shape), np.zeros((*shape, 1))
        for start in itertools.product(*[window_starts(n, 8) for n in shape]):
            if is_needed(start):
                place = tuple(slice(s, s + 8) for s in start)
                total[place] += predict([start])[0] * weights
                weight[place] += weights
        expected = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
        found = stitched(predict, shape, window, 2, batch=batch, is_needed=is_needed)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_mirror_images_of_a_case_are_averaged(generator):
    image = generator.normal(size=(10, 9, 8, 2)).astype(np.float32)
    images = {"a": image[..., 0], "b": image[..., 1]}

    def predict(windows):
        return np.asarray(uneven(np.stack([windows["a"], windows["b"]], -1)))

    expected = 0
    for flips in itertools.product((False, True), repeat=3):
        axes = np.flatnonzero(flips).tolist()
        expected = expected + np.flip(averaged(np.flip(image, axes)), axes) / 8
    outside = dict.fromkeys(images, 0.0)
    found = over_windows(predict, images, outside, (8, 8, 8), 2, mirror=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_windows_are_averaged_with_their_weights(generator):
    """Of any shape; where there is no body nothing is computed; smaller cases lie in the middle."""
    image = generator.normal(size=(10, 13, 8, 2)).astype(np.float32)
    images, outside = {"a": image[..., 0], "b": image[..., 1]}, {"a": 5.0, "b": -7.0}
    seen = []

    def predict(windows):
        seen.append(len(windows["a"]))
        return np.asarray(uneven(np.stack([windows["a"], windows["b"]], -1)))

    window = (8, 8, 8)
    expected = averaged(image)
    found = over_windows(predict, images, outside, window, 2, batch=3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert max(seen) <= 3

    seen.clear()
    body = np.zeros(image.shape[:3], bool)
    body[0, 0, 0] = True
    part = over_windows(predict, images, outside, window, 2, body=body)
    assert sum(seen) == 1  # one window reaches it
    alone = predict({name: x[None, :8, :8] for name, x in images.items()})[0]
    np.testing.assert_allclose(part[:8, :8], alone, rtol=1e-5)
    assert not part[8:].any()
    assert not part[:, 8:].any()
    assert not over_windows(predict, images, outside, window, 2, body=body & False).any()

    small = {name: x[:5, :8] for name, x in images.items()}
    padded = {
        n: np.pad(x, [(2, 1), (0, 0), (0, 0)], constant_values=outside[n]) for n, x in small.items()
    }
    alone = predict({name: x[None] for name, x in padded.items()})[0, 2:7]
    np.testing.assert_allclose(over_windows(predict, small, outside, window, 2), alone, rtol=1e-5)


def test_mirror_images_are_averaged_where_they_belong(generator):
    image = generator.normal(size=(1, 6, 6, 6, 2)).astype(np.float32)
    expected = np.zeros((1, 6, 6, 6, 2))
    for count in range(4):
        for axes in itertools.combinations((1, 2, 3), count):
            expected += np.flip(np.asarray(uneven(np.flip(image, axes))), axes) / 8
    np.testing.assert_allclose(jax.jit(mirrored(uneven))(image), expected, rtol=1e-4, atol=1e-5)
