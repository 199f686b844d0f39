"""Geometry round trips over random affines: flips, permutations, oblique, anisotropic."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from isanet_jax.cases.grid import case_grid, resample, resample_mask
from isanet_jax.nifti import read_volume, write_volume
from isanet_jax.prediction.predictor import to_grid_of
from isanet_jax.volume import Volume, bounds_mm


@st.composite
def affines(draw, oblique=True):
    """Voxel to world: 0.7 to 3 mm, axes in any order and direction, turned by any angle."""
    spacing = [draw(st.floats(0.7, 3.0)) for _ in range(3)]
    order = draw(st.permutations(range(3)))
    signs = [draw(st.sampled_from((-1, 1))) for _ in range(3)]
    angles = [draw(st.floats(-45, 45)) for _ in range(3)] if oblique else [0, 0, 0]
    axes = np.eye(3)[:, order] * signs
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ axes * spacing
    affine[:3, 3] = [draw(st.floats(-500, 500)) for _ in range(3)]
    return affine


def blob(affine, volume_ml, generator):
    """A lobed blob of about `volume_ml` in the middle of a grid that has room for it."""
    radius = (3000 * volume_ml / (4 * np.pi)) ** (1 / 3)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    shape = np.ceil(4 * radius / spacing).astype(int) + 4
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    centre = (shape - 1) / 2 + generator.uniform(-0.5, 0.5, 3)
    offset = (index - centre) @ affine[:3, :3].T
    distance = np.linalg.norm(offset, axis=-1)
    direction = offset / np.maximum(distance, 1e-6)[..., None]
    lobes = 1 + 0.1 * np.sin(3 * direction[..., 0] + 2 * direction[..., 1])
    return distance < radius * lobes


def dsc(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@settings(max_examples=60, deadline=None)
@given(affine=affines(), volume_ml=st.floats(2, 60), seed=st.integers(0, 2**31))
def test_a_mask_goes_to_the_case_grid_and_back(affine, volume_ml, seed):
    mask = blob(affine, volume_ml, np.random.default_rng(seed))
    ct = Volume(mask.astype(np.uint8), affine)
    low, high = bounds_mm(mask.shape, affine)
    size = int(np.ceil((high - low).max()))
    _, grid = case_grid(np.stack([low, high]), size=size, fit="crop", spacing_mm=1.0)
    # As a network's probability is: 0 or 1 on the case grid, back by linear interpolation.
    on_case = resample_mask(Volume(mask, affine), (size,) * 3, grid)
    back = to_grid_of(on_case.astype(np.float32), grid, ct)
    assert dsc(back.data >= 0.5, mask) >= 0.97


@settings(max_examples=40, deadline=None)
@given(affine=affines(oblique=False), seed=st.integers(0, 2**31))
def test_how_an_array_is_stored_changes_nothing(affine, seed):
    """A grid along the patient's axes and the same voxels in RAS order are one volume."""
    generator = np.random.default_rng(seed)
    data = generator.normal(size=(5, 6, 7)).astype(np.float32)
    order = np.abs(affine[:3, :3]).argmax(1)
    ras = affine.copy()
    ras[:3, :3] = affine[:3, order]
    stored = data.transpose(order)
    for axis in range(3):
        if ras[axis, axis] < 0:
            ras[:3, 3] += ras[:3, axis] * (stored.shape[axis] - 1)
            ras[:3, axis] *= -1
            stored = np.flip(stored, axis)
    target = np.diag([1.3, 1.1, 0.9, 1.0])
    # Not halfway between voxels, where the order of storage decides which is nearest.
    target[:3, 3] = bounds_mm(data.shape, affine)[0] + generator.uniform(0.01, 0.3, 3)
    for sampling in (0, 1):
        a = resample(Volume(data, affine), (6, 6, 6), target, order=sampling, fill=-9.0)
        b = resample(Volume(stored, ras), (6, 6, 6), target, order=sampling, fill=-9.0)
        np.testing.assert_allclose(a, b, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(affine=affines(), seed=st.integers(0, 2**31))
def test_nifti_keeps_data_and_geometry(affine, seed, tmp_path_factory):
    data = np.random.default_rng(seed).normal(size=(3, 4, 5)).astype(np.float32)
    path = tmp_path_factory.mktemp("nifti") / "v.nii.gz"
    write_volume(path, Volume(data, affine))
    read = read_volume(path)
    np.testing.assert_array_equal(read.data, data)
    np.testing.assert_allclose(read.affine, affine, rtol=1e-5, atol=1e-4)
