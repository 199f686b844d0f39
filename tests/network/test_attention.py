"""The attention modules and SE-Norm against NumPy and SciPy, written from their papers alone."""

import jax
import numpy as np
import pytest
from flax import nnx
from scipy import ndimage, special

from isanet_jax.network.attention.cbam import CBAM
from isanet_jax.network.attention.isa import fuse
from isanet_jax.network.attention.scse import SCSE
from isanet_jax.network.attention.se import SE
from isanet_jax.network.attention.sk import SK
from isanet_jax.network.blocks import MLP
from isanet_jax.network.config import ModelConfig
from isanet_jax.network.se_norm import SENorm
from tests.network import reference

CHANNELS = 8


def se(x, p):
    return reference.channel_gate(x, p["gate"])


def sk(x, p):
    maps = []
    for dilation, branch in zip((1, 2), p["branches"].values(), strict=True):
        kernel = branch["conv"]["kernel"]  # (3, 3, 3, 2, 8): two inputs for each of four groups
        spread = np.zeros((*[2 * dilation + 1] * 3, *kernel.shape[3:]))
        spread[::dilation, ::dilation, ::dilation] = kernel
        out = np.empty_like(x)
        for o in range(CHANNELS):
            inputs = range(o // 2 * 2, o // 2 * 2 + 2)
            out[..., o] = sum(
                ndimage.correlate(x[..., i], spread[..., i % 2, o], mode="constant") for i in inputs
            )
        maps.append(np.maximum(reference.norm(out, branch["norm"]), 0))
    scores = reference.perceptron((maps[0] + maps[1]).mean((0, 1, 2)), p["perceptron"])
    weights = special.softmax(scores.reshape(2, CHANNELS), axis=0)
    return weights[0] * maps[0] + weights[1] * maps[1]


def cbam(x, p):
    mean, largest = x.mean((0, 1, 2)), x.max((0, 1, 2))
    gate = reference.perceptron(mean, p["perceptron"])
    gate = gate + reference.perceptron(largest, p["perceptron"])
    x = x * special.expit(gate)
    kernel = p["conv"]["kernel"]
    pooled = ndimage.correlate(x.max(-1), kernel[..., 0, 0], mode="constant")
    pooled += ndimage.correlate(x.mean(-1), kernel[..., 1, 0], mode="constant")
    return x * special.expit(reference.norm(pooled[..., None], p["norm"]))


MODULES = {
    "se": (lambda **kw: SE(CHANNELS, ModelConfig(), **kw), se),
    "sk": (lambda **kw: SK(CHANNELS, ModelConfig(), **kw), sk),
    "sk native": (lambda **kw: SK(CHANNELS, ModelConfig(convolution="native"), **kw), sk),
    "cbam": (lambda **kw: CBAM(CHANNELS, ModelConfig(), **kw), cbam),
    "scse": (lambda **kw: SCSE(CHANNELS, ModelConfig(), **kw), reference.scse),
    "se_norm": (lambda **kw: SENorm(CHANNELS, **kw), reference.se_norm),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_agree_with_numpy(name, generator):
    make, expected = MODULES[name]
    graphdef, params = nnx.split(make(rngs=nnx.Rngs(0)), nnx.Param)
    # Far from the initial state, where gates are one half everywhere.
    params = jax.tree.map(
        lambda p: p + 0.7 * generator.normal(size=p.shape).astype(np.float32), params
    )
    x = generator.normal(0.3, 1, (2, 6, 5, 7, CHANNELS)).astype(np.float32)
    out = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))(params, x)
    plain = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    for one, image in zip(out, x.astype(np.float64), strict=True):
        np.testing.assert_allclose(one, expected(image, plain), atol=1e-4, rtol=1e-4)


def test_se_norm_starts_with_the_originals_spread():
    """PyTorch's layers, of which it was made, start uniform within 1 / sqrt(inputs)."""
    norm = SENorm(64, rngs=nnx.Rngs(0))
    for perceptron in (norm.gamma, norm.beta):
        for layer, inputs in ((perceptron.first, 64), (perceptron.second, 32)):
            for values in (layer.kernel[...], layer.bias[...]):
                assert np.abs(values).max() <= inputs**-0.5
                assert np.std(values) == pytest.approx((3 * inputs) ** -0.5, rel=0.25)


@pytest.mark.parametrize("fusion", ["matmul", "matmul_scaled", "product"])
def test_query_and_key_are_joined_in_float32_whatever_they_are(generator, fusion):
    """In bfloat16 a product of 100 has steps of one half, and the softmax takes its differences."""
    shape = (1, 2, 16, 16, 3)
    q, k = (jax.numpy.bfloat16(3 * generator.random(shape)) for _ in range(2))
    fused = fuse(q, k, fusion)
    assert fused.dtype == np.float32
    exact = fuse(*(np.asarray(x, np.float64).astype(np.float32) for x in (q, k)), fusion)
    np.testing.assert_allclose(fused, exact, rtol=1e-5)


def test_a_gates_perceptron_starts_at_little_as_the_papers_authors_have_it():
    rngs = nnx.Rngs(0)
    plain, torch = MLP(64, 32, 64, rngs=rngs), MLP(64, 32, 64, uniform=True, rngs=rngs)
    assert not plain.first.bias[...].any()
    assert np.std(plain.first.kernel[...]) == pytest.approx(0.01, rel=0.1)
    assert np.abs(torch.first.kernel[...]).max() == pytest.approx(64**-0.5, rel=0.02)
    assert torch.first.bias[...].any()
