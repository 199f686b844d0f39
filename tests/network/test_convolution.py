import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import ndimage

from isanet_jax.errors import ConfigError
from isanet_jax.network import convolution
from isanet_jax.network.convolution.toom_cook import toom_cook
from tests.network import reference


def forms(function, *arguments):
    """Values and gradients of the native and the folded form."""
    results = []
    for form in ("native", "folded"):

        def loss(*args, form=form):
            out = function(*args, form)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out

        every = tuple(range(len(arguments)))
        grads, out = jax.jit(jax.grad(loss, every, has_aux=True))(*arguments)
        results.append((out, *grads))
    return results


def random(generator, *shape):
    return jnp.asarray(generator.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("inputs", [1, 3])
def test_convolutions_agree_with_each_other_and_with_numpy(generator, size, inputs):
    x = random(generator, 2, 4, 6, 5, inputs)
    kernel = random(generator, size, size, size, inputs, 4)
    native, folded = forms(convolution.conv3d, x, kernel)
    for a, b in zip(native, folded, strict=True):
        np.testing.assert_allclose(a, b, atol=3e-4)
    expected = [reference.conv(np.asarray(v, np.float64), np.asarray(kernel)) for v in x]
    np.testing.assert_allclose(folded[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "inputs", "outputs", "size"),
    [
        ((8, 7, 8), 3, 5, 5),  # four slices at once, pairs of voxels
        ((8, 7, 8), 9, 8, 3),
        ((6, 8, 7), 8, 8, 3),  # two slices at once
        ((6, 7, 7), 9, 10, 5),
        ((5, 7, 8), 3, 4, 5),  # an odd depth: one slice at a time
        ((3, 6, 6), 7, 5, 5),  # few voxels: columns
    ],
)
def test_every_way_of_folding_is_the_native_convolution(
    generator, monkeypatch, shape, inputs, outputs, size
):
    monkeypatch.setattr(convolution.folded, "_MUCH_WORK", 0)
    monkeypatch.setattr(convolution.folded, "_MUCH_WORK_OF_FEW", 0)
    x = random(generator, 2, *shape, inputs)
    kernel = random(generator, size, size, size, inputs, outputs) / size**1.5
    native, folded = forms(convolution.conv3d, x, kernel)
    for a, b in zip(native, folded, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max())


@pytest.mark.parametrize(("outputs", "taps"), [(2, 3), (2, 5), (4, 3), (4, 5)])
def test_toom_cook_is_the_correlation_to_rounding(generator, outputs, taps):
    to_outputs, of_kernel, of_inputs = toom_cook(outputs, taps)
    x, g = generator.normal(size=outputs + taps - 1), generator.normal(size=taps)
    expected = np.correlate(x, g, "valid")
    np.testing.assert_allclose(to_outputs @ ((of_kernel @ g) * (of_inputs @ x)), expected)


def test_bfloat16_is_not_computed_by_points(generator, monkeypatch):
    monkeypatch.setattr(convolution.folded, "_MUCH_WORK", 0)
    x, kernel = random(generator, 1, 12, 12, 12, 16), random(generator, 5, 5, 5, 16, 16)
    half = convolution.conv3d(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), "folded")
    full = convolution.conv3d(x, kernel, "folded")
    assert float(jnp.abs(half - full).max() / jnp.abs(full).max()) < 0.01


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (3, {"stride": 2}),
        (3, {"dilation": 2}),
        (3, {"groups": 2}),
        (5, {"stride": 2, "dilation": 2, "groups": 2}),
        (1, {"stride": 2}),
        (1, {"groups": 2}),
    ],
)
def test_strides_dilations_and_groups_are_those_of_scipy(generator, size, options):
    x = random(generator, 1, 4, 6, 5, 4)
    groups, stride = options.get("groups", 1), options.get("stride", 1)
    kernel = random(generator, size, size, size, 4 // groups, 6)
    native, folded = forms(lambda a, b, f: convolution.conv3d(a, b, f, **options), x, kernel)
    for a, b in zip(native, folded, strict=True):
        np.testing.assert_allclose(a, b, atol=3e-4)
    dilation = options.get("dilation", 1)
    spread = np.zeros((*[dilation * (size - 1) + 1] * 3, 4 // groups, 6))
    spread[::dilation, ::dilation, ::dilation] = kernel
    expected = np.empty((4, 6, 5, 6))
    for o in range(6):
        first = o // (6 // groups) * (4 // groups)
        expected[..., o] = sum(
            ndimage.correlate(np.float64(x[0, ..., first + i]), spread[..., i, o], mode="constant")
            for i in range(4 // groups)
        )
    np.testing.assert_allclose(folded[0][0], expected[::stride, ::stride, ::stride], atol=1e-4)


def test_halving_is_a_strided_convolution_and_doubling_its_transpose(generator):
    x, kernel = random(generator, 2, 4, 6, 8, 3), random(generator, 2, 2, 2, 3, 5)
    halved = convolution.strided_conv3d(x, kernel)
    numbers = ("NDHWC", "DHWIO", "NDHWC")
    expected = lax.conv_general_dilated(x, kernel, (2,) * 3, "VALID", dimension_numbers=numbers)
    np.testing.assert_allclose(halved, expected, atol=1e-4)
    # The transpose of a linear map is its gradient.
    small = random(generator, 2, 2, 3, 4, 5)
    _, transpose = jax.vjp(lambda v: convolution.strided_conv3d(v, kernel), x)
    doubled = convolution.transposed_conv3d(small, kernel.swapaxes(3, 4))
    np.testing.assert_allclose(doubled, transpose(small)[0], atol=1e-4)


def test_a_plane_thinner_than_the_kernel(generator):
    x, kernel = random(generator, 1, 1, 2, 1, 3), random(generator, 5, 5, 5, 3, 2)
    native, folded = forms(convolution.conv3d, x, kernel)
    for a, b in zip(native, folded, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_transposed_convolutions_agree_with_each_other_and_with_numpy(generator):
    x, kernel = random(generator, 2, 2, 3, 4, 3), random(generator, 3, 3, 3, 3, 2)
    native, folded = forms(convolution.upsample_conv3d, x, kernel)
    assert native[0].shape == (2, 4, 6, 8, 2)
    for a, b in zip(native, folded, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    expected = [reference.transposed(np.asarray(v, np.float64), np.asarray(kernel), 0) for v in x]
    np.testing.assert_allclose(folded[0], expected, atol=1e-4)


def test_pools_agree_gradients_and_ties_included(generator):
    x = jnp.round(random(generator, 2, 4, 6, 8, 3))  # rounded: full of ties
    window = (1, 2, 2, 2, 1)
    pools = {
        "native": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID"),
        "folded": convolution.max_pool,
    }
    native, folded = forms(lambda x, form: pools[form](x), x)
    for a, b in zip(native, folded, strict=True):
        np.testing.assert_array_equal(a, b)


def test_unknown_form():
    with pytest.raises(ConfigError, match="auto, native, folded"):
        convolution.is_folded("fast")


@pytest.mark.parametrize("stride", [1, (1, 2, 2), (2, 1, 2)])
@pytest.mark.parametrize("size", [(1, 3, 3), (3, 1, 3)])
def test_kernels_and_strides_of_each_axis(generator, size, stride):
    x = generator.normal(size=(2, 4, 6, 8, 3)).astype(np.float32)
    kernel = generator.normal(size=(*size, 3, 2)).astype(np.float32)
    found = [convolution.conv3d(x, kernel, form, stride=stride) for form in ("native", "folded")]
    every = (stride,) * 3 if stride == 1 else stride
    expected = np.zeros((2, 4, 6, 8, 2))
    for sample, one, other in itertools.product(range(2), range(3), range(2)):
        expected[sample, ..., other] += ndimage.correlate(
            x[sample, ..., one].astype(float), kernel[..., one, other], mode="constant"
        )
    expected = expected[:, :: every[0], :: every[1], :: every[2]]
    for out in found:
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_transposed_convolution_of_each_axis(generator):
    x = generator.normal(size=(1, 2, 3, 4, 3)).astype(np.float32)
    kernel = generator.normal(size=(1, 2, 2, 3, 5)).astype(np.float32)
    found = np.asarray(convolution.transposed_conv3d(x, kernel))
    assert found.shape == (1, 2, 6, 8, 5)
    np.testing.assert_allclose(found[0, 1, 3, 6], x[0, 1, 1, 3] @ kernel[0, 1, 0], rtol=1e-5)
