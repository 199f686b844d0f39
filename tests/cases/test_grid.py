import itertools

import numpy as np
import pytest

from isanet_jax.cases import grid
from isanet_jax.cases.grid import (
    case_grid,
    outside_fraction,
    overlap_fraction,
    resample,
    same_grid,
)
from isanet_jax.errors import ConfigError
from isanet_jax.kinds import AIR_HU
from isanet_jax.volume import Volume, bounds_mm

OBLIQUE = np.array(
    [[-0.9, 0.1, 0.2, 10.0], [0.1, -1.1, 0.3, 20.0], [0.1, 0.2, 3.0, -30.0], [0, 0, 0, 1]]
)


def field(volume):
    return bounds_mm(volume.data.shape, volume.affine)


def naive_trilinear(volume, shape, affine, fill):
    """Voxel by voxel, clamped at the edges, `fill` beyond them."""
    out = np.full(shape, fill)
    to_source = np.linalg.inv(volume.affine) @ affine
    limits = np.array(volume.data.shape)
    for index in np.ndindex(*shape):
        at = (to_source @ [*index, 1])[:3]
        if (at < -0.5).any() or (at > limits - 0.5).any():
            continue
        low = np.floor(at).astype(int)
        weight = at - low
        value = 0.0
        for corner in itertools.product((0, 1), repeat=3):
            voxel = np.clip(low + corner, 0, limits - 1)
            value += np.prod(np.where(corner, weight, 1 - weight)) * volume.data[tuple(voxel)]
        out[index] = value
    return out


def test_trilinear_agrees_with_a_naive_loop_on_an_oblique_grid(generator):
    volume = Volume(generator.normal(size=(6, 7, 5)).astype(np.float32), OBLIQUE)
    low, high = bounds_mm(volume.data.shape, OBLIQUE)
    affine = np.diag([*((high - low) / 9), 1.0])
    affine[:3, 3] = low
    expected = naive_trilinear(volume, (10, 9, 10), affine, -7.0)
    assert 0.1 < (expected == -7).mean() < 0.9
    out = resample(volume, (10, 9, 10), affine, order=1, fill=-7.0)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_equal_grids_give_equal_voxels(generator):
    volume = Volume(generator.normal(size=(6, 7, 5)).astype(np.float32), OBLIQUE)
    for order in (0, 1):
        out = resample(volume, volume.data.shape, OBLIQUE, order=order, fill=0)
        np.testing.assert_array_equal(out, volume.data)


def test_resize_keeps_the_whole_field_and_crop_the_spacing():
    ct = Volume(np.zeros((50, 60, 20)), np.diag([-1.0, -1.0, 3.0, 1.0]))
    _, grid = case_grid(field(ct), size=10, fit="resize", spacing_mm=1.0)
    np.testing.assert_allclose(bounds_mm((10,) * 3, grid), bounds_mm((50, 60, 20), ct.affine))
    np.testing.assert_allclose(np.abs(grid[:3, :3]).sum(0), [6, 6, 5])  # D, H, W

    box = np.array([[0.0, 0.0, 0.0], [30.0, 40.0, 20.0]])
    _, grid = case_grid(box, size=16, fit="crop", spacing_mm=2.0)
    np.testing.assert_allclose(bounds_mm((16,) * 3, grid), [[-1, 4, -6], [31, 36, 26]])


def test_three_sizes_are_of_the_array_and_three_spacings_of_the_patient():
    box = np.array([[0.0, 0.0, 0.0], [30.0, 40.0, 21.0]])
    shape, grid = case_grid(box, size=(4, 6, 8), fit="crop", spacing_mm=(2.0, 3.0, 5.0))
    assert shape == (4, 6, 8)
    np.testing.assert_allclose(np.abs(grid[:3, :3]).sum(0), [5, 3, 2])  # D, H, W
    np.testing.assert_allclose(bounds_mm(shape, grid).mean(0), box.mean(0))
    shape, grid = case_grid(box, size=1, fit="whole", spacing_mm=(2.0, 3.0, 5.0))
    assert shape == (5, 14, 15)
    low, high = bounds_mm(shape, grid)
    np.testing.assert_allclose(high - low, [30, 42, 25])
    np.testing.assert_allclose(low + high, box.sum(0))


def test_case_axes_are_feet_to_head_front_to_back_right_to_left():
    ct = Volume(np.zeros((8, 8, 8)), np.eye(4))
    _, grid = case_grid(field(ct), size=8, fit="resize", spacing_mm=1.0)
    np.testing.assert_allclose(grid[:3, :3] @ [1, 0, 0], [0, 0, 1])
    np.testing.assert_allclose(grid[:3, :3] @ [0, 1, 0], [0, -1, 0])
    np.testing.assert_allclose(grid[:3, :3] @ [0, 0, 1], [-1, 0, 0])


def test_a_mask_survives_the_way_to_the_case_grid_and_back():
    shape = (60, 64, 30)
    affine = OBLIQUE @ np.diag([1.0, 1.0, 0.9, 1.0])
    world = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    centre = world[30, 32, 15]
    mask = np.linalg.norm(world - centre, axis=-1) < 12  # 7 ml
    volume = Volume(mask, affine)
    _, grid = case_grid(field(volume), size=64, fit="resize", spacing_mm=1.0)
    there = resample(volume, (64,) * 3, grid, order=0, fill=0)
    back = resample(Volume(there.astype(np.float32), grid), shape, affine, order=1, fill=0) >= 0.5
    assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) > 0.97


def test_outside_the_field_ct_is_air():
    ct = Volume(np.full((4, 4, 4), 40.0), np.eye(4))
    _, grid = case_grid(field(ct), size=8, fit="crop", spacing_mm=1.0)
    out = resample(ct, (8,) * 3, grid, order=1, fill=AIR_HU)
    assert (out == AIR_HU).sum() == 8**3 - 4**3
    assert (out[2:6, 2:6, 2:6] == 40).all()


def test_bad_settings_are_refused():
    ct = Volume(np.zeros((4, 4, 4)), np.eye(4))
    with pytest.raises(ConfigError, match="crop, resize"):
        case_grid(field(ct), size=8, fit="stretch", spacing_mm=1.0)
    with pytest.raises(ConfigError, match="must be > 0"):
        case_grid(field(ct), size=8, fit="crop", spacing_mm=0.0)


def test_a_voxel_is_outside_where_its_centre_is():
    mask = np.zeros((4, 1, 1), bool)
    mask[:3] = True
    for shift, outside in ((-0.6, 1 / 3), (-0.4, 0), (1.4, 0), (1.6, 1 / 3), (-9, 1)):
        affine = np.eye(4)
        affine[0, 3] = shift
        found = outside_fraction(Volume(mask, affine), (4, 1, 1), np.eye(4))
        assert found == pytest.approx(outside), shift
    assert outside_fraction(Volume(mask & False, np.eye(4)), (4, 1, 1), np.eye(4)) == 0


def test_same_grid_and_overlap():
    a = Volume(np.zeros((4, 4, 4)), np.eye(4))
    shifted = np.eye(4)
    shifted[0, 3] = 0.01
    assert same_grid(a, a)
    assert not same_grid(a, Volume(a.data, shifted))
    assert not same_grid(a, Volume(np.zeros((4, 4, 5)), np.eye(4)))
    # Of voxels that are no cubes, the shortest side counts.
    long, moved = np.diag([1.0, 1.0, 5.0, 1.0]), np.diag([1.0, 1.0, 5.0, 1.0])
    moved[0, 3] = 0.004
    assert not same_grid(Volume(a.data, long), Volume(a.data, moved))
    moved[0, 3] = 0.001
    assert same_grid(Volume(a.data, long), Volume(a.data, moved))
    box = np.array([[0.0, 0, 0], [2, 2, 2]])
    assert overlap_fraction(box, box + 1) == pytest.approx(1 / 8)
    assert overlap_fraction(box, box + 5) == 0


@pytest.mark.parametrize("order", [0, 1])
def test_slabs_are_the_whole(generator, monkeypatch, order):
    volume = Volume(generator.normal(size=(9, 10, 11)), np.diag([2.0, 3.0, 1.5, 1.0]))
    affine = np.array([[0.9, 0.2, 0, -3], [-0.2, 0.9, 0.1, 4], [0.1, 0, 1, -2], [0, 0, 0, 1.0]])
    arguments = {"order": order, "fill": -7.0}
    whole = grid.resample(volume, (17, 14, 15), affine, **arguments)
    assert (whole == -7).any()
    monkeypatch.setattr(grid, "_SLAB_VOXELS", 3 * 14 * 15)
    slabs = grid.resample(volume, (17, 14, 15), affine, **arguments)
    np.testing.assert_allclose(slabs, whole, atol=1e-6)
