import numpy as np
import pytest

from isanet_jax.cases.grid import case_grid
from isanet_jax.cases.prepare import Settings, resample_images
from isanet_jax.prediction.windows import predict_windows, whole_grid
from isanet_jax.volume import Volume

SETTINGS = Settings(size=16, fit="crop", spacing_mm=2.0)


def scan(shape, spacing=(1.0, 1.0, 2.0)):
    generator = np.random.default_rng(0)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -20, 30, -50
    ct = Volume(generator.normal(0, 300, shape).astype(np.float32), affine)
    return ct, Volume(generator.random(shape).astype(np.float32) * 9, affine)


def run(probability, ct, pet, batch=1):
    calls = []

    def counted(a, b):
        calls.append(a.shape)
        return probability(a, b)

    values, affine = predict_windows(
        counted, ct, pet, SETTINGS, batch=batch, progress=lambda _, batches: batches
    )
    return values, affine, calls


def local(ct_hu, pet_suv):
    """A prediction that looks at each voxel alone."""
    return (ct_hu > 0) * 0.5 + pet_suv / 20


@pytest.mark.parametrize("batch", [1, 3])
def test_windows_put_together_are_the_whole_where_voxels_are_independent(batch):
    ct, pet = scan((70, 50, 31))
    values, affine, calls = run(local, ct, pet, batch)
    assert values.shape == (31, 25, 35)
    assert len(set(calls)) == 1  # one shape, compiled once
    expected = local(*resample_images(ct, pet, values.shape, affine))
    np.testing.assert_allclose(values, expected, atol=1e-5)


def test_a_scan_of_the_networks_size_is_one_window_and_the_same_case():
    ct, pet = scan((32, 30, 12))

    def whole(ct_hu, pet_suv):
        return local(ct_hu, pet_suv) * pet_suv.mean((1, 2, 3), keepdims=True)

    values, affine, calls = run(whole, ct, pet)
    assert len(calls) == 1
    grid = case_grid(ct, size=16, fit="crop", spacing_mm=2.0, box_mm=None)
    np.testing.assert_allclose(affine, grid)
    images = resample_images(ct, pet, (16, 16, 16), grid)
    np.testing.assert_allclose(values, whole(*(i[None] for i in images))[0], rtol=1e-6)


def test_the_grid_covers_the_ct_at_the_networks_spacing():
    ct, _ = scan((101, 40, 10))
    shape, affine = whole_grid(ct, SETTINGS)
    assert shape == (16, 20, 51)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), 2.0)
