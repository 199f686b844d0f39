import itertools

import jax
import numpy as np
import pytest
from jax.scipy.ndimage import map_coordinates
from scipy import ndimage

from isanet_jax.kinds import WIDE, CtWindow
from isanet_jax.pipeline import augment
from isanet_jax.pipeline.draw import rotation_matrix
from isanet_jax.pipeline.normalise import normalise

_rotate = jax.jit(augment.rotate, static_argnames=("shape", "order"))
_augment = jax.jit(augment.augment, static_argnames="shape")


def rotate(x, matrix, *, order, fill):
    """About the volume's middle, into its own shape."""
    centre = np.tile((np.array(x.shape[1:], np.float32) - 1) / 2, (len(x), 1))
    fills = np.full(len(x), fill, np.float32)
    return _rotate(x, matrix, centre, x.shape[1:], order=order, fill=fills)


def batch_of(ct, pet, label, **others):
    """A batch of whole volumes as the pipeline gives them; of a label of 0, 0.5 and 1."""
    count, *shape = ct.shape
    return {
        "images": {"ct": ct, "pet": pet},
        "labels": {"tumour": (2 * label).astype(np.uint8)},
        "outside": {"ct": np.full(count, -1024, "f4"), "pet": np.zeros(count, "f4")},
        "centre": np.tile((np.array(shape, "f4") - 1) / 2, (count, 1)),
        "mirror": np.zeros((count, 3), bool),
    } | others


def augmented(batch, shape=None):
    images, labels, _ = _augment(batch, shape or batch["images"]["ct"].shape[1:])
    return images["ct"], images["pet"], labels["tumour"]


def test_rotation_is_rigid_in_mm():
    spacing = np.array([3.0, 1.0, 2.0])
    matrix = rotation_matrix([20.0, -35.0, 10.0], spacing)
    in_mm = np.diag(spacing) @ matrix @ np.diag(1 / spacing)
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(in_mm) == pytest.approx(1)


def test_a_quarter_turn_is_numpys(generator):
    x = generator.normal(size=(1, 6, 6, 6)).astype(np.float32)
    for axis, plane in enumerate([(2, 3), (3, 1), (1, 2)]):
        angles = np.zeros(3)
        angles[axis] = 90
        out = rotate(x, rotation_matrix(angles, np.ones(3))[None], order=1, fill=0.0)
        np.testing.assert_allclose(out, np.rot90(x, -1, plane), atol=1e-4)


@pytest.mark.parametrize("order", [0, 1])
def test_rotation_agrees_with_scipy(generator, order):
    x = generator.normal(size=(2, 9, 10, 11)).astype(np.float32)
    matrices = np.stack([rotation_matrix(a, [2.0, 1, 1]) for a in ([30, 0, 0], [-10, 40, 25])])
    out = rotate(x, matrices, order=order, fill=-9.0)
    centre = (np.array(x.shape[1:]) - 1) / 2
    for volume, matrix, result in zip(x, matrices, out, strict=True):
        expected = ndimage.affine_transform(
            volume, matrix, centre - matrix @ centre, order=order, mode="grid-constant", cval=-9.0
        )
        assert (expected == -9).any()
        agree = np.isclose(result, expected, atol=1e-4)
        # Nearest: coordinates half-way between voxels may round either way.
        assert agree.mean() > (0.999 if order else 0.99)


@pytest.mark.parametrize("order", [0, 1])
def test_rotation_agrees_with_jaxs_own_interpolation(generator, order):
    x = generator.normal(size=(1, 9, 12, 11)).astype(np.float32)
    matrix = rotation_matrix([50, -20, 10], [1.0, 2, 1])[None]
    centre = (np.array(x.shape[1:]) - 1) / 2
    offsets = np.indices(x.shape[1:]) - centre[:, None, None, None]
    coordinates = np.einsum("ij,jdhw->idhw", matrix[0], offsets) + centre[:, None, None, None]
    expected = map_coordinates(x[0], list(coordinates), order, mode="constant", cval=3.0)
    out = rotate(x, matrix, order=order, fill=3.0)[0]
    assert (np.abs(out - expected) < 1e-3).mean() > (0.9999 if order else 0.99)


def test_mirroring_is_part_of_the_rotation(generator):
    shape = (1, 6, 7, 8)
    volumes = {"ct": generator.normal(size=shape), "pet": generator.normal(size=shape)}
    volumes["label"] = generator.integers(0, 2, shape)
    volumes = {name: v.astype(np.float32) for name, v in volumes.items()}
    batch = batch_of(**volumes, rotation=rotation_matrix([25, 5, -40], [1, 1, 1])[None])
    rotated = augmented(batch)
    mirrored = augmented(batch | {"mirror": np.array([[True, False, True]])})
    for a, b in zip(rotated[:2], mirrored[:2], strict=True):
        np.testing.assert_allclose(np.asarray(a)[:, ::-1, :, ::-1], b, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("count", [1, 2])
def test_without_rotation_only_mirroring_is_done(generator, count):
    volumes = {k: generator.normal(size=(count, 8, 8, 8)).astype("f4") for k in ("ct", "pet")}
    volumes["label"] = generator.integers(0, 3, (count, 8, 8, 8)).astype("f4") / 2
    rotation = np.stack([np.eye(3, dtype=np.float32)] * count)
    for axes in itertools.product((False, True), repeat=3):
        batch = batch_of(**volumes, rotation=rotation, mirror=np.array([axes, [False] * 3])[:count])
        out = augmented(batch)
        for before, after in zip(volumes.values(), out, strict=True):
            flipped = np.flip(before[0], [axis for axis in range(3) if axes[axis]])
            np.testing.assert_array_equal(after[0], flipped)
            np.testing.assert_array_equal(after[1:], before[1:])


@pytest.mark.parametrize("count", [1, 2])
def test_what_turns_in_is_air_without_uptake_and_labels_keep_their_values(generator, count):
    shape = (count, 8, 8, 8)
    batch = batch_of(
        generator.uniform(0, 50, shape).astype("f4"),
        generator.uniform(5, 9, shape).astype("f4"),
        generator.integers(0, 3, shape).astype("f4") / 2,
        rotation=np.stack([rotation_matrix([45, 0, 0], [1, 1, 1])] * count),
    )
    ct, pet, label = augmented(batch)
    corner = np.s_[:, :, 0, 0]  # beyond the volume that was turned
    np.testing.assert_array_equal(ct[corner], -1024)
    np.testing.assert_array_equal(pet[corner], 0)
    np.testing.assert_array_equal(label[corner], 0)
    assert set(np.unique(label)) == {0, 0.5, 1}
    assert not set(np.unique(ct)) <= set(np.unique(batch["images"]["ct"])) | {
        -1024
    }  # but images are linear


def test_normalisation(generator):
    kinds = {"ct": "ct", "pet": "pet", "t1": "mr"}
    ct = np.array([-3000.0, -512.0, 0.0, 3000.0]).reshape(1, 2, 2, 1)
    pet = generator.gamma(2.0, size=(1, 2, 2, 1)).astype(np.float32) * 5
    images = {"ct": ct, "pet": pet, "t1": ct / 7}
    out = np.asarray(normalise(images, kinds, of_volume=True))
    np.testing.assert_allclose(out[..., 0].ravel(), [-1, -0.5, 0, 1])
    np.testing.assert_allclose(out[..., 1], (pet - pet.mean()) / pet.std(), rtol=1e-4)
    window = CtWindow(-600.0, 500.0, 44.0, 20.0)
    windows = (window, WIDE)
    shown = np.asarray(normalise(images, kinds, of_volume=True, ct_windows=windows))
    np.testing.assert_allclose(shown[..., 0].ravel(), [-32.2, -27.8, -2.2, 22.8], rtol=1e-6)
    np.testing.assert_array_equal(shown[..., 1:], out)  # the wide one is a channel beside it
    np.testing.assert_allclose(out[..., 2], ct / 7)  # comes normalised from the host
    constant = images | {"pet": np.ones_like(pet)}
    assert np.isfinite(normalise(constant, kinds, of_volume=True)).all()
    of_patch = np.asarray(normalise(images, kinds, of_volume=False))
    np.testing.assert_array_equal(of_patch[..., 1], pet)  # by its case's statistics, before


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, -20, 10)])
@pytest.mark.parametrize("count", [1, 2])
def test_a_patch_is_cut_out_of_the_rotated_volume(generator, angles, count):
    """What is read around it is enough: its corners are image, and not the fill."""
    whole = ndimage.gaussian_filter(generator.normal(size=(40, 44, 48)), 2).astype(np.float32)
    matrix = rotation_matrix(angles, [1, 1, 1])
    start, shape = np.array([12, 15, 20]), (8, 9, 10)
    middle = (np.array(shape) - 1) / 2
    low = np.array([4, 6, 11])
    part = whole[4:30, 6:36, 11:44]  # more than the rotated patch
    batch = batch_of(
        *[np.stack([part] * count)] * 3,
        rotation=np.stack([matrix] * count),
        centre=np.tile((start + middle - low).astype("f4"), (count, 1)),
        mirror=np.array([[False, True, False]] * count),
    )
    ct, *_ = augmented(batch, shape)
    signs = np.diag([1, -1, 1])
    transform = matrix @ signs
    centre = start + middle
    expected = ndimage.affine_transform(
        whole, transform, centre - transform @ middle, shape, order=1
    )
    for found in ct:
        np.testing.assert_allclose(found, expected, atol=1e-4)
