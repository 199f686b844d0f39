import jax
import numpy as np
import pytest
from jax.scipy.ndimage import map_coordinates
from scipy import ndimage

from isanet_jax.pipeline import augment
from isanet_jax.pipeline.dataset import rotation_matrix

rotate = jax.jit(augment.rotate, static_argnames=("order", "fill"))


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
    batch = volumes | {"rotation": rotation_matrix([25, 5, -40], [1, 1, 1])[None]}
    rotated = jax.jit(augment.augment)(batch | {"mirror": np.array([[False] * 3])})
    mirrored = jax.jit(augment.augment)(batch | {"mirror": np.array([[True, False, True]])})
    for a, b in zip(rotated[:2], mirrored[:2], strict=True):
        np.testing.assert_allclose(np.asarray(a)[:, ::-1, :, ::-1], b, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("count", [1, 2])
def test_without_rotation_only_mirroring_is_done(generator, count):
    volumes = {k: generator.normal(size=(count, 8, 8, 8)).astype("f4") for k in ("ct", "pet")}
    volumes["label"] = generator.integers(0, 3, (count, 8, 8, 8)).astype("f4") / 2
    batch = volumes | {
        "rotation": np.stack([np.eye(3, dtype=np.float32)] * count),
        "mirror": np.array([[True, False, True], [False] * 3])[:count],
    }
    out = jax.jit(augment.augment)(batch)
    for before, after in zip(volumes.values(), out, strict=True):
        np.testing.assert_array_equal(after[0], before[0][::-1, :, ::-1])
        np.testing.assert_array_equal(after[1:], before[1:])


@pytest.mark.parametrize("count", [1, 2])
def test_what_turns_in_is_air_without_uptake_and_labels_keep_their_values(generator, count):
    shape = (count, 8, 8, 8)
    batch = {
        "ct": generator.uniform(0, 50, shape).astype("f4"),
        "pet": generator.uniform(5, 9, shape).astype("f4"),
        "label": generator.integers(0, 3, shape).astype("f4") / 2,
        "rotation": np.stack([rotation_matrix([45, 0, 0], [1, 1, 1])] * count),
        "mirror": np.zeros((count, 3), bool),
    }
    ct, pet, label = jax.jit(augment.augment)(batch)
    corner = np.s_[:, :, 0, 0]  # beyond the volume that was turned
    np.testing.assert_array_equal(ct[corner], -1024)
    np.testing.assert_array_equal(pet[corner], 0)
    np.testing.assert_array_equal(label[corner], 0)
    assert set(np.unique(label)) == {0, 0.5, 1}
    assert not set(np.unique(ct)) <= set(np.unique(batch["ct"])) | {-1024}  # but images are linear


def test_normalisation(generator):
    ct = np.array([-3000.0, -512.0, 0.0, 3000.0]).reshape(1, 2, 2, 1)
    pet = generator.gamma(2.0, size=(1, 2, 2, 1)).astype(np.float32) * 5
    out = np.asarray(augment.normalise(ct, pet))
    np.testing.assert_allclose(out[..., 0].ravel(), [-1, -0.5, 0, 1])
    np.testing.assert_allclose(out[..., 1], (pet - pet.mean()) / pet.std(), rtol=1e-4)
    constant = augment.normalise(ct, np.ones_like(pet))
    assert np.isfinite(constant).all()


def test_patches_lie_anywhere_in_the_volume_or_around_a_voxel_of_the_tumour(generator):
    label = np.zeros((4, 8, 9, 10), np.float32)
    voxels = [(0, 4, 9), (3, 4, 5), (7, 8, 0)]  # in memory order
    label[:3, *np.transpose(voxels)] = 1
    image = generator.normal(size=(4, 8, 9, 10, 2)).astype(np.float32)
    place = np.array([[0.0, 0.999, 0.5], [0.3, 0.3, 0.3], [0.5, 0.5, 0.5], [0.999, 0, 0]], "f4")
    pick = np.array([-1, 0.5, 0.99, 0.5], "f4")  # the last has no tumour
    cut = jax.jit(augment.crop_patch, static_argnums=2)
    images, labels = cut(image, label, 4, place=place, pick=pick)
    # place: of 5, 6 and 7 starts; pick: around the second voxel, and the third as far as it goes.
    starts = [(0, 5, 3), (3 - 2, 4 - 2, 5 - 2), (4, 5, 0), (4, 0, 0)]
    for i, (a, b, c) in enumerate(starts):
        where = (i, slice(a, a + 4), slice(b, b + 4), slice(c, c + 4))
        np.testing.assert_array_equal(images[i], image[where])
        np.testing.assert_array_equal(labels[i], label[where])
