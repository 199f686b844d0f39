"""Augmentation of intensities against NumPy and SciPy, and against nnU-Net's own package."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from isanet_jax.pipeline import augment, intensity
from isanet_jax.pipeline.draw import draw_augmentation, rotation_matrix
from isanet_jax.settings.table import Augment

SHAPE = (12, 14, 16)
OFF = Augment()
# nnU-Net's probabilities.
NNUNET = replace(OFF, **{
    "noise_probability": 0.1, "blur_probability": 0.2, "brightness_probability": 0.15,
    "contrast_probability": 0.15, "low_resolution_probability": 0.25,
    "inverted_gamma_probability": 0.1, "gamma_probability": 0.3,
})  # fmt: skip


@jax.jit
def change(image, drawn):
    """(B, D, H, W, C) in and out."""
    return jnp.stack(intensity.change_intensity(jnp.moveaxis(image, -1, 0), drawn), -1)


@pytest.fixture
def image(generator):
    """Two smooth channels, (1, D, H, W, 2)."""
    noise = generator.normal(size=(2, *SHAPE))
    smooth = [ndimage.gaussian_filter(n, 1) * 4 for n in noise]
    return np.stack(smooth, -1)[None].astype(np.float32)


def nothing():
    """Parameters that change nothing, of a batch of one with two channels."""
    shapes = intensity.parameter_shapes(1, 2)
    drawn = {name: np.ones(shape.shape, shape.dtype) for name, shape in shapes.items()}
    return drawn | {"noise": drawn["noise"] * 0, "blur": drawn["blur"] * 0}


def with_values(**values):
    drawn = nothing()
    return drawn | {name: np.asarray(v, drawn[name].dtype)[None] for name, v in values.items()}


def test_nothing_drawn_changes_nothing(image):
    np.testing.assert_array_equal(change(image, nothing()), image)
    assert not OFF.changes_intensity
    assert NNUNET.changes_intensity


def test_each_transform_is_what_its_formula_says(image):
    ct, pet = image[0, ..., 0], image[0, ..., 1]
    out = np.asarray(change(image, with_values(brightness=[0.8, 1.0])))[0]
    np.testing.assert_allclose(out[..., 0], ct * 0.8, rtol=1e-6)
    np.testing.assert_array_equal(out[..., 1], pet)
    out = np.asarray(change(image, with_values(contrast=[1.2, 1.0])))[0]
    stretched = (ct - ct.mean()) * 1.2 + ct.mean()
    np.testing.assert_allclose(out[..., 0], np.clip(stretched, ct.min(), ct.max()), atol=1e-5)
    out = np.asarray(change(image, with_values(gamma=[1.0, 1.4])))[0]
    span = pet.max() - pet.min()
    powered = ((pet - pet.min()) / span) ** 1.4 * span + pet.min()
    expected = (powered - powered.mean()) / powered.std() * pet.std() + pet.mean()
    np.testing.assert_allclose(out[..., 1], expected, atol=1e-4)
    np.testing.assert_array_equal(out[..., 0], ct)
    out = np.asarray(change(image, with_values(inverted_gamma=[1.0, 1.4])))[0]
    turned = np.asarray(change(-image, with_values(gamma=[1.0, 1.4])))[0]
    np.testing.assert_allclose(out[..., 1], -turned[..., 1], atol=1e-5)


def test_noise_is_normal_and_of_its_seed(generator):
    image = np.zeros((2, 24, 24, 24, 2), np.float32)
    drawn = jax.tree.map(lambda x: np.repeat(x, 2, 0), with_values(noise=0.1))
    drawn["seed"] = np.array([1, 2], np.uint32)
    out = np.asarray(change(image, drawn))
    np.testing.assert_allclose(out.std((1, 2, 3)), 0.1, rtol=0.03)
    np.testing.assert_allclose(out.mean((1, 2, 3)), 0, atol=0.003)
    flat = out.transpose(0, 4, 1, 2, 3).reshape(4, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 0.05  # of each case and channel its own
    np.testing.assert_array_equal(change(image, drawn), out)


@pytest.mark.parametrize(("sigma", "size"), [(0.5, 3), (0.62, 5), (0.9, 5), (1.0, 7)])
def test_blur_is_scipys_with_a_kernel_that_is_cut(image, sigma, size):
    offsets = np.arange(size) - size // 2
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    expected = image[0, ..., 0]
    for axis in range(3):
        expected = ndimage.correlate1d(expected, kernel / kernel.sum(), axis, mode="mirror")
    out = change(image, with_values(blur=[[sigma] * 3, [0] * 3]))
    np.testing.assert_allclose(out[0, ..., 0], expected, atol=1e-5)
    np.testing.assert_array_equal(out[0, ..., 1], image[0, ..., 1])


def test_low_resolution_of_a_half_is_every_second_voxel_interpolated(image):
    out = np.asarray(change(image, with_values(zoom=[0.5, 1.0])))[0, ..., 0]
    few = image[0, 1::2, 1::2, 1::2, 0]  # nearest to the middle of two, which rounds up
    places = np.meshgrid(*[np.clip(np.arange(n) / 2 - 0.25, 0, n / 2 - 1) for n in SHAPE],
                         indexing="ij")  # fmt: skip
    np.testing.assert_allclose(out, ndimage.map_coordinates(few, places, order=1), atol=1e-5)


def test_draws_have_nnunets_probabilities_and_ranges(generator):
    draws = [intensity.draw_intensity(generator, NNUNET, 2) for _ in range(4000)]
    assert np.mean([d["noise"] > 0 for d in draws]) == pytest.approx(0.1, abs=0.015)
    assert max(d["noise"] for d in draws) < 0.1
    blurred = np.array([d["blur"][:, 0] > 0 for d in draws])
    assert blurred.mean() == pytest.approx(0.2 * 0.5, abs=0.012)
    assert blurred.any(1).mean() == pytest.approx(0.2 * 0.75, abs=0.02)
    zooms = np.array([d["zoom"] for d in draws])
    assert (zooms < 1).mean() == pytest.approx(0.25 * 0.5, abs=0.015)
    assert zooms.min() >= 0.5
    for name, share, low, high in (
        ("brightness", 0.15, 0.75, 1.25),
        ("contrast", 0.15, 0.75, 1.25),
        ("inverted_gamma", 0.1, 0.7, 1.5),
        ("gamma", 0.3, 0.7, 1.5),
    ):
        factors = np.array([d[name] for d in draws])
        changed = factors[factors[:, 0] != 1]
        assert len(changed) / len(factors) == pytest.approx(share, abs=0.025)
        assert low <= changed.min() < 1 < changed.max() <= high
        assert (changed < 1).mean() == pytest.approx(0.5, abs=0.05)
        assert not np.array_equal(changed[:, 0], changed[:, 1])  # each channel its own


# Against the package that nnU-Net itself uses: python -m pip install batchgeneratorsv2 torch.


@pytest.fixture
def torch():
    pytest.importorskip("batchgeneratorsv2", reason="batchgeneratorsv2 is not installed")
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def applied(torch, transform, image, drawn=None):
    """A transform's effect on (1, D, H, W, C); its own draw where none is given."""
    channels = torch.tensor(np.moveaxis(image[0], -1, 0).copy())
    drawn = transform.get_parameters(image=channels) if drawn is None else drawn
    return np.moveaxis(transform._apply_to_image(channels, **drawn).numpy(), 0, -1), drawn


def test_effects_are_batchgeneratorsv2s(torch, image):
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform

    span = BGContrast((0.75, 1.25))
    for _ in range(5):
        out, drawn = applied(torch, MultiplicativeBrightnessTransform(span, False, 1), image)
        ours = change(image, with_values(brightness=drawn["multipliers"]))
        np.testing.assert_allclose(ours[0], out, atol=1e-5)
        out, drawn = applied(torch, ContrastTransform(span, True, False, 1), image)
        ours = change(image, with_values(contrast=drawn["multipliers"]))
        np.testing.assert_allclose(ours[0], out, atol=1e-5)
        for inverted in (0, 1):
            gamma = GammaTransform((0.7, 1.5), inverted, False, 1, 1)
            out, drawn = applied(torch, gamma, image)
            name = "inverted_gamma" if inverted else "gamma"
            ours = change(image, with_values(**{name: drawn["gamma"].numpy()}))
            np.testing.assert_allclose(ours[0], out, atol=1e-4)
        out, drawn = applied(torch, GaussianBlurTransform((0.5, 1.0), False, False, 1), image)
        np.testing.assert_allclose(
            change(image, with_values(blur=drawn["sigmas"]))[0], out, atol=1e-5
        )
        lower = SimulateLowResolutionTransform((0.5, 1), False, True, None, None, 1)
        out, drawn = applied(torch, lower, image)
        ours = change(image, with_values(zoom=drawn["scales"][:, 0].numpy()))
        np.testing.assert_allclose(ours[0], out, atol=1e-5)


def test_rotation_and_scaling_are_batchgeneratorsv2s(torch, image):
    """With its matrix, which acts on offsets from the middle as ours does; and its range."""
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    patch = (8, 8, 8)
    transform = SpatialTransform(
        patch, 0, False, p_rotation=1, rotation=(-0.5, 0.5), p_scaling=1, scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
    )  # fmt: skip
    scales = []
    for _ in range(20):
        out, drawn = applied(torch, transform, image)
        scales.append(np.cbrt(np.linalg.det(drawn["affine"])))
        centre = (np.array(SHAPE, np.float32)[None] - 1) / 2
        matrix = drawn["affine"].astype(np.float32)[None]
        for index in range(2):
            ours = augment.rotate(
                image[..., index], matrix, centre, patch, order=1, fill=np.zeros(1, np.float32)
            )
            np.testing.assert_allclose(ours[0], out[..., index], atol=1e-4)
    assert 0.7 <= min(scales) < 1 < max(scales) <= 1.4


def test_a_scaled_draw_is_a_rotation_times_a_factor(generator):
    settings = replace(OFF, **{"scaling_probability": 0.2, "rotation_probability": 0.2,
                      "rotation_degrees": 30.0, "rotation_of_all_axes": True})  # fmt: skip
    draws = [draw_augmentation(generator, settings, np.ones(3))["rotation"] for _ in range(4000)]
    scales = np.cbrt([np.linalg.det(matrix) for matrix in draws])
    is_scaled = np.abs(scales - 1) > 1e-6
    assert is_scaled.mean() == pytest.approx(0.2, abs=0.02)
    assert scales[is_scaled].mean() == pytest.approx(1.05, abs=0.02)  # uniform in 0.7 to 1.4
    turned = [
        not np.allclose(m / s, np.eye(3), atol=1e-5) for m, s in zip(draws, scales, strict=True)
    ]
    assert np.mean(turned) == pytest.approx(0.2, abs=0.02)
    flat = rotation_matrix([30.0, 0, 0], np.ones(3))
    in_plane = replace(
        settings, **{"rotation_degrees": (180.0, 0.0, 0.0), "rotation_probability": 1.0}
    )
    matrix = draw_augmentation(generator, in_plane, np.ones(3))["rotation"]
    assert (matrix == 0).sum() == (flat == 0).sum()
