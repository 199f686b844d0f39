"""The cascade's box: where it is placed, what is cut, and where results go back."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from isanet_jax.network.cascade import box_size, box_start, crop, paste


def start_by_scipy(mask, box, size):
    """SciPy's bounding box, its middle in mm-like units, and a box clipped into the volume."""
    found = ndimage.find_objects(mask.astype(int))
    starts = []
    for axis in range(3):
        factor = size // mask.shape[axis]
        low, high = (found[0][axis].start, found[0][axis].stop) if found else (0, mask.shape[axis])
        middle = (low + high) / 2 * factor
        starts.append(int(np.clip(np.floor(middle - box / 2), 0, size - box)))
    return starts


def test_the_box_is_centred_on_what_was_found_and_stays_inside(generator):
    masks = np.zeros((40, 12, 12, 12), bool)
    for mask in masks[1:]:  # the first stays empty
        low = generator.integers(0, 12, 3)
        high = low + generator.integers(1, 6, 3)
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    starts = np.asarray(box_start(jnp.asarray(masks), box=(10,) * 3, shape=(24,) * 3))
    np.testing.assert_array_equal(starts, [start_by_scipy(m, 10, 24) for m in masks])
    assert starts[0].tolist() == [7, 7, 7]
    assert starts.min() == 0
    assert starts.max() == 14


def test_the_box_is_at_the_centre_of_mass_of_scattered_voxels(generator):
    masks = generator.random((20, 12, 12, 12)) < 0.05
    expected = [
        np.clip(np.floor(2 * (np.array(ndimage.center_of_mass(m)) + 0.5) - 5 + 1e-6), 0, 14)
        for m in masks
    ]
    np.testing.assert_array_equal(
        box_start(jnp.asarray(masks), box=(10,) * 3, shape=(24,) * 3), expected
    )


def test_a_single_false_voxel_does_not_move_the_box_off_the_tumour():
    mask = np.zeros((1, 24, 24, 24), bool)
    mask[0, 15:21, 15:21, 15:21] = True
    alone = np.asarray(box_start(jnp.asarray(mask), box=(12,) * 3, shape=(24,) * 3))[0]
    mask[0, 0, 0, 0] = True
    with_false = np.asarray(box_start(jnp.asarray(mask), box=(12,) * 3, shape=(24,) * 3))[0]
    assert np.abs(with_false - alone).max() <= 1
    assert (with_false <= 15).all()
    assert (with_false + 12 >= 21).all()


def test_paste_undoes_crop(generator):
    x = generator.normal(size=(3, 8, 8, 8, 1)).astype(np.float32)
    starts = np.array([[0, 1, 2], [3, 3, 3], [2, 0, 1]])
    boxes = crop(jnp.asarray(x), jnp.asarray(starts), (5, 5, 5))
    pasted = np.asarray(paste(boxes, jnp.asarray(starts), (8, 8, 8), -10.0))[..., 0]
    for one, box, back, (a, b, c) in zip(x, boxes, pasted, starts, strict=True):
        np.testing.assert_array_equal(box, one[a : a + 5, b : b + 5, c : c + 5])
        inside = np.zeros((8, 8, 8), bool)
        inside[a : a + 5, b : b + 5, c : c + 5] = True
        np.testing.assert_array_equal(back[inside], one[..., 0][inside])
        assert (back[~inside] == -10).all()


@pytest.mark.parametrize(
    ("size", "step", "box"), [(144, 8, 96), (128, 8, 88), (32, 8, 24), (16, 8, 8), (8, 8, 8)]
)
def test_the_box_is_two_thirds_of_the_volume_in_steps(size, step, box):
    assert box_size(size, step) == box
