import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isanet_jax.errors import ConfigError
from isanet_jax.network import convolution
from tests.network import reference


def forms(function, *arguments):
    """Values and gradients of the native and the folded form."""
    results = []
    for folded in (False, True):

        def loss(*args, folded=folded):
            out = function(*args, folded)
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
    native, folded = forms(convolution.max_pool, x)
    for a, b in zip(native, folded, strict=True):
        np.testing.assert_array_equal(a, b)


def test_unknown_form():
    with pytest.raises(ConfigError, match="auto, native, folded"):
        convolution.is_folded("fast")
