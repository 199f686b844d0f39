import numpy as np
import pytest

from isanet_jax.cases.grid import case_grid
from isanet_jax.cases.images import resample_images
from isanet_jax.cases.preparation import Settings
from isanet_jax.prediction.windows import predict_windows, whole_grid
from isanet_jax.volume import Volume, bounds_mm

SETTINGS = Settings(size=16, fit="crop", spacing_mm=2.0)


def scan(shape, spacing=(1.0, 1.0, 2.0)):
    generator = np.random.default_rng(0)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -20, 30, -50
    ct = Volume(generator.normal(0, 300, shape).astype(np.float32), affine)
    return {"ct": ct, "pet": Volume(generator.random(shape).astype(np.float32) * 9, affine)}


def run(probability, volumes, batch=1):
    calls = []

    def counted(cases):
        calls.append(len(cases))
        return np.stack([probability(case.images)[..., None] for case in cases])

    found, affine = predict_windows(counted, volumes, SETTINGS, classes=1, batch=batch)
    return found[..., 0], affine, calls


def local(images):
    """A prediction that looks at each voxel alone."""
    return (images["ct"] > 0) * 0.5 + images["pet"] / 20


@pytest.mark.parametrize("batch", [1, 3])
def test_windows_put_together_are_the_whole_where_voxels_are_independent(batch):
    volumes = scan((70, 50, 31))
    values, affine, calls = run(local, volumes, batch)
    assert values.shape == (31, 25, 35)
    assert len(set(calls)) == 1  # one shape, compiled once
    expected = local(resample_images(volumes, SETTINGS, values.shape, affine))
    np.testing.assert_allclose(values, expected, atol=1e-5)


def test_a_scan_of_the_networks_size_is_one_window_and_the_same_case():
    volumes = scan((32, 30, 12))

    def whole(images):
        return local(images) * images["pet"].mean()

    values, affine, calls = run(whole, volumes)
    assert calls == [1]
    field = bounds_mm((32, 30, 12), volumes["ct"].affine)
    shape, grid = case_grid(field, size=16, fit="crop", spacing_mm=2.0)
    np.testing.assert_allclose(affine, grid)
    images = resample_images(volumes, SETTINGS, shape, grid)
    np.testing.assert_allclose(values, whole(images), rtol=1e-6)


def test_the_grid_covers_the_ct_at_the_networks_spacing():
    shape, affine = whole_grid(scan((101, 40, 10))["ct"], SETTINGS)
    assert shape == (16, 20, 51)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), 2.0)
