import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from isanet_jax.errors import ConfigError
from isanet_jax.network import systems
from isanet_jax.network.attention import isa
from isanet_jax.network.config import ModelConfig
from tests.network import reference

SMALL = {"size": 8, "levels": 3, "width": 2}
THREE = ("ct", "pet", "mr")
PRODUCT = {"fusion": "product", "weight_scale": "mean", "classes": 3}


def tiny(**options):
    config = ModelConfig(**(SMALL | options))
    graphdef, params = systems.create(config, jax.random.key(0))
    # Away from the initial zeros and ones, so that every parameter matters.
    leaves, structure = jax.tree.flatten(params)
    generator = np.random.default_rng(2)
    leaves = [leaf + 0.1 * generator.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return config, graphdef, jax.tree.unflatten(structure, leaves)


def plain(params):
    """Parameters by name as float64 NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


apply = jax.jit(lambda g, p, x: systems.apply(g, p, x).logits, static_argnums=0)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 47_251_377),
        ({"encoder_attention": False}, 40_326_897),
        ({"name": "unet"}, 12_556_849),
        ({"modalities": ("ct",)}, 23_321_057),
        ({"modalities": ("pet",)}, 23_321_057),
        ({"decoder": "shared"}, 42_279_073),
        # A third image adds what the second did: an encoder and a decoder that fuses.
        ({"images": THREE}, 47_251_377 + (47_251_377 - 23_321_057)),
        ({"classes": 2}, 47_251_377 + 17),
        # Without the biases of two decoders' transposed convolutions (2 x 240), of ISA (2 x 496 in
        # the encoders, 2 x 240 in the decoders) and of the head; and with a block of 27 C^2 + 2 C
        # more at each decoder level (C = 16, 32, 64, 128).
        ({"reading": "text"}, 47_251_377 - 480 - 992 - 480 - 1 + 2 * (27 * 21_760 + 2 * 240)),
    ],
)
def test_parameter_counts(options, count):
    _, params = systems.create(ModelConfig(**options), jax.random.key(0))
    assert systems.count_parameters(params) == count


@pytest.mark.parametrize(
    ("channels", "count"),
    [(16, 40_864), (32, 163_136), (64, 651_904), (128, 2_606_336), (256, 10_422_784)],
)
def test_parameter_counts_of_isa(channels, count):
    module = isa.ISA(channels, ModelConfig(), rngs=nnx.Rngs(0))
    assert systems.count_parameters(nnx.state(module, nnx.Param)) == count


@pytest.mark.parametrize(
    "options",
    [
        {"levels": 4},
        {"fusion": "matmul_scaled", "weight_scale": "mean"},
        {"fusion": "product", "weight_scale": "sigmoid"},
        {"fusion": "product", "weight_scale": "mean", "fusion_weights": (0.5, 2.0)},
        {"name": "unet", "modalities": ("pet",)},
        {"encoder_attention": False, "modalities": ("ct",)},
        {"decoder": "shared", "fusion_weights": (2.0, 0.5)},
        {"convolution": "native", "weight_scale": "mean"},
        {"reading": "text", "fusion": "product", "weight_scale": "mean"},
        {"reading": "text", "decoder": "shared", "name": "unet"},
        {"images": THREE, "classes": 2, "fusion_weights": (1.0, 0.5, 2.0)},
        {"images": THREE, "modalities": ("ct", "mr"), "size": (4, 8, 8), "fusion": "product"},
        {"images": THREE, "decoder": "shared", "size": (16, 4, 8), **PRODUCT},
    ],
)
def test_forward_agrees_with_numpy(generator, options):
    # In float64: in float32 a normalisation of near-equal voxels makes of one processor's
    # rounding up to 1e-3, which would hide an error of that size.
    config, graphdef, params = tiny(**options, dtype="float64")
    image = generator.normal(size=(2, *config.shape, len(config.images)))
    with jax.enable_x64(True):
        out = apply(graphdef, plain(params), image)
    assert (out.shape, out.dtype) == ((2, *config.shape, config.classes), jnp.float64)
    expected = [reference.forward(plain(params), config, x) for x in image]
    assert np.std(expected) > 0.05
    np.testing.assert_allclose(out, expected, atol=1e-10, rtol=1e-10)


def test_gradients_agree_with_differences_of_the_numpy_reference(generator):
    config, graphdef, params = tiny(weight_scale="mean")
    image = generator.normal(size=(1, 8, 8, 8, 2)).astype(np.float32)
    target = generator.normal(size=(8, 8, 8, 1))

    grads = jax.jit(
        jax.grad(lambda p: jnp.sum(systems.apply(graphdef, p, image).logits[0] * target))
    )(params)  # fmt: skip
    exact, leaves = plain(params), jax.tree.leaves(plain(grads))
    assert all(np.abs(leaf).max() > 0 for leaf in leaves), "a parameter gets no gradient"

    parts = [
        "query",
        "key",
        "value",
        "channel_gate",
        "output",
        "up",
        "shortcut",
        "body",
        "head",
    ]
    for part in parts:
        direction = jax.tree_util.tree_map_with_path(
            lambda path, x, part=part: (
                generator.normal(size=x.shape) * (part in jax.tree_util.keystr(path))
            ),
            exact,
        )

        def value(step, direction=direction):
            moved = jax.tree.map(lambda x, change: x + step * change, exact, direction)
            return np.sum(reference.forward(moved, config, image[0].astype(np.float64)) * target)

        difference = (value(1e-6) - value(-1e-6)) / 2e-6
        terms = [g * d for g, d in zip(leaves, jax.tree.leaves(direction), strict=True)]
        # Random signs cancel in the sum: its natural size is the root of the summed squares.
        scale = np.sqrt(sum(np.sum(np.square(term)) for term in terms))
        assert abs(difference - sum(map(np.sum, terms))) < 2e-3 * scale, part


@pytest.mark.parametrize("convolution", ["native", "folded"])
def test_bfloat16_computes_close_to_float32_and_keeps_float32_parameters(generator, convolution):
    image = generator.normal(size=(1, 8, 8, 8, 2)).astype(np.float32)
    _, graphdef, params = tiny(weight_scale="mean", levels=2)
    _, half_graphdef, half_params = tiny(
        weight_scale="mean", dtype="bfloat16", convolution=convolution, levels=2
    )
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half_params))
    full, half = apply(graphdef, params, image), apply(half_graphdef, half_params, image)
    assert full.dtype == half.dtype == jnp.float32
    loss = jax.jit(jax.grad(lambda p: jnp.sum(systems.apply(half_graphdef, p, image).logits ** 2)))
    grads = jax.tree.leaves(loss(half_params))
    assert all(g.dtype == jnp.float32 and jnp.isfinite(g).all() for g in grads)
    error = np.abs(np.asarray(full) - np.asarray(half))
    assert 0 < error.mean() < 0.1 * np.std(full)


def test_isa_weights_sum_to_one_or_have_mean_one(generator):
    x = jnp.asarray(generator.normal(size=(1, 4, 4, 4, 3)), jnp.float32)
    outputs = {}
    for scale in ("sum", "mean"):
        module = isa.ISA(3, ModelConfig(fusion="product", weight_scale=scale), rngs=nnx.Rngs(0))
        kernel = np.zeros((1, 1, 1, 6, 3), np.float32)
        kernel[0, 0, 0, :3] = np.eye(3)  # the output is the weighted value alone
        module.output.kernel[...] = jnp.asarray(kernel)
        outputs[scale] = module(x)
    np.testing.assert_allclose(outputs["mean"], 64 * outputs["sum"], rtol=1e-5)


def test_alpha_zero_ignores_pet_and_alpha_infinity_ignores_the_ct_skips(generator):
    image = generator.normal(size=(1, 8, 8, 8, 2)).astype(np.float32)
    for weights, channel in (((1.0, 0.0), 1), ((0.0, 1.0), 0)):
        _, graphdef, params = tiny(fusion_weights=weights)
        other = image.copy()
        other[..., channel] = generator.normal(size=(1, 8, 8, 8))
        np.testing.assert_allclose(
            apply(graphdef, params, image), apply(graphdef, params, other), atol=1e-5
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 100}, "size of 100 is not a multiple of 16. Use 96 or 112"),
        ({"size": 8}, "size of 8 is not a multiple of 16. Use 16"),
        ({"size": (32, 32, 100)}, "size of 100 is not a multiple of 16"),
        ({"modalities": ("mr",)}, "model.modalities"),
        ({"modalities": ("pet", "ct")}, "in this order"),
        ({"images": ("ct", "ct")}, "each image's name once"),
        ({"images": THREE, "fusion_weights": (1.0, 2.0)}, "for each of ct, pet, mr"),
        ({"classes": 0}, "at least one"),
        ({"fusion_weights": (1.0, -1.0)}, "it must be a number, 0 or more"),
        ({"dtype": "float16"}, "bfloat16"),
        ({"levels": 1}, "at least 2"),
        ({"decoder": "shared", "modalities": ("ct",)}, "needs several images"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**options)


def test_wrong_input_is_refused():
    _, graphdef, params = tiny()
    with pytest.raises(ConfigError, match=r"built for \(B, 8, 8, 8, 2\)"):
        systems.apply(graphdef, params, jnp.zeros((1, 16, 16, 16, 2)))
    with pytest.raises(ConfigError, match="4 x 6.*'product'"):
        isa.fuse(jnp.zeros((1, 2, 4, 6, 1)), jnp.zeros((1, 2, 4, 6, 1)), "matmul")
