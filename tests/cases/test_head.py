import numpy as np

from isanet_jax.cases.head import find_head
from isanet_jax.volume import Volume


def body(flips=(1, 1, 1)):
    """A body of SUV 1 with a brain, and a bladder that is hotter and larger: 4 mm, RAS or other."""
    data = np.zeros((60, 60, 200), np.float32)
    x, y, z = np.ogrid[:60, :60, :200]
    data[((x - 30) ** 2 + (y - 30) ** 2 < 400) & (z < 190)] = 1.0
    brain = ((x - 28) / 15) ** 2 + ((y - 33) / 18) ** 2 + ((z - 175) / 13) ** 2 < 1
    bladder = ((x - 30) / 18) ** 2 + ((y - 30) / 18) ** 2 + ((z - 20) / 18) ** 2 < 1
    data[brain], data[bladder] = 8.0, 30.0
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -120, -120, -700
    for axis, sign in enumerate(flips):
        if sign < 0:
            data = np.flip(data, axis)
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
    return Volume(np.ascontiguousarray(data), affine)


def test_the_box_hangs_on_the_brain_in_any_storage_order():
    boxes = []
    for flips in ((1, 1, 1), (-1, -1, 1), (1, 1, -1)):
        box, found = find_head(body(flips))
        assert found
        boxes.append(box)
    for box in boxes[1:]:
        np.testing.assert_allclose(box, boxes[0], atol=1e-3)
    np.testing.assert_allclose(boxes[0][1] - boxes[0][0], 144)
    centre = boxes[0].mean(0)
    np.testing.assert_allclose(centre[:2], [28 * 4 - 120, 33 * 4 - 120 + 30], atol=3)
    lowest = (175 - 13) * 4 - 700
    # Smoothing lowers the brain's edge by less than two voxels.
    assert abs(boxes[0][0, 2] - (lowest - 114)) < 8


def test_without_a_brain_the_body_counts_and_it_is_said():
    volume = body()
    volume.data[volume.data == 8] = 1
    box, found = find_head(volume)
    assert not found
    np.testing.assert_allclose(box[1] - box[0], 144)
    box, found = find_head(Volume(np.zeros((9, 9, 9), np.float32), np.eye(4)))
    assert not found
    np.testing.assert_allclose(box.mean(0), [4, 4, 4])
