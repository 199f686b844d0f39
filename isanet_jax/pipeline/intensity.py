"""Augmentation of intensities: noise, blur, brightness, contrast, low resolution and gamma.

The transforms of nnU-Net, in its order (nnU-Net 2.8.1, `nnUNetTrainer.get_training_transforms`),
drawn on the host and applied on the device to normalised images. A value that changes nothing (a
sigma of 0, a factor, zoom or exponent of 1) stands for a transform that was not drawn, and costs
next to nothing.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from isanet_jax.settings.table import Augment

# nnU-Net's ranges.
_NOISE_SIGMAS, _BLUR_SIGMAS, _ZOOMS = (0.0, 0.1), (0.5, 1.0), (0.5, 1.0)  # the second of voxels
_FACTORS, _EXPONENTS = (0.75, 1.25), (0.7, 1.5)  # of brightness and contrast; of gamma
# Of blur and low resolution, that a channel has it where the case has it.
_OF_A_CHANNEL = 0.5
_TRUNCATE = 6.0  # a blur's kernel has so many sigmas
_RADIUS = 3  # voxels, that a blur reaches: enough for a sigma of 1
_TINY = 1e-7
_AS_IT_IS = jax.lax.optimization_barrier  # is computed once, and kept


def draw_intensity(generator: np.random.Generator, augment: Augment, channels: int) -> dict:
    """Random parameters of one element.

    Args:
        generator: source of randomness.
        augment: the settings.
        channels: how many images there are.

    Returns:
        noise () sigma and seed () of it; blur (channels, 3) sigmas, voxels; brightness, contrast,
        zoom, inverted_gamma and gamma (channels,); float32, the seed uint32.
    """

    def drawn(name):
        return generator.random() < getattr(augment, f"{name}_probability")

    def of_channels():
        return generator.random(channels) < _OF_A_CHANNEL

    def factors(name, span):
        """Half of them below 1 and half above, as nnU-Net's BGContrast."""
        if not drawn(name):
            return np.ones(channels, np.float32)
        low, high = span
        below = (generator.random(channels) < 0.5) & (low < 1)
        smaller = generator.uniform(min(low, 1), 1, channels)
        larger = generator.uniform(max(low, 1), high, channels)
        return np.where(below, smaller, larger).astype(np.float32)

    noise = generator.uniform(*_NOISE_SIGMAS) if drawn("noise") else 0.0
    seed = generator.integers(2**32, dtype=np.uint32)
    blur = np.zeros((channels, 3), np.float32)
    if drawn("blur"):
        sigmas = generator.uniform(*_BLUR_SIGMAS, (channels, 3))
        blur = np.where(of_channels()[:, None], sigmas, 0).astype(np.float32)
    found = {"noise": np.float32(noise), "seed": seed, "blur": blur}
    found["brightness"] = factors("brightness", _FACTORS)
    found["contrast"] = factors("contrast", _FACTORS)
    zoom = np.ones(channels, np.float32)
    if drawn("low_resolution"):
        zooms = generator.uniform(*_ZOOMS, channels)
        zoom = np.where(of_channels(), zooms, 1).astype(np.float32)
    found["zoom"] = zoom
    found["inverted_gamma"] = factors("inverted_gamma", _EXPONENTS)
    found["gamma"] = factors("gamma", _EXPONENTS)
    return found


def parameter_shapes(batch: int, channels: int) -> dict:
    """The arrays of a batch of `draw_intensity`, as `jax.ShapeDtypeStruct`."""
    of_channel = jax.ShapeDtypeStruct((batch, channels), np.float32)
    names = ("brightness", "contrast", "zoom", "inverted_gamma", "gamma")
    return {
        "noise": jax.ShapeDtypeStruct((batch,), np.float32),
        "seed": jax.ShapeDtypeStruct((batch,), np.uint32),
        "blur": jax.ShapeDtypeStruct((batch, channels, 3), np.float32),
        **dict.fromkeys(names, of_channel),
    }


def change_intensity(
    channels: Sequence[jax.Array], drawn: Mapping[str, jax.Array]
) -> list[jax.Array]:
    """Applies what was drawn, one element after the other: what was not drawn is not computed.

    Args:
        channels: (B, D, H, W) of each image, normalised.
        drawn: of a batch, see `draw_intensity`.

    Returns:
        the channels.
    """

    def one(given):
        channels, of_element = given
        return [_change(x, index, of_element) for index, x in enumerate(channels)]

    given = list(channels), dict(drawn)
    if len(channels[0]) == 1:  # without a loop of one turn
        return [x[None] for x in one(jax.tree.map(lambda x: x[0], given))]
    return jax.lax.map(one, given)


def _change(x, index, drawn):
    """One channel (D, H, W) of one element."""
    sigma, blur = drawn["noise"], drawn["blur"][index]
    names = ("brightness", "contrast", "zoom", "inverted_gamma", "gamma")
    brightness, contrast, zoom, inverted, gamma = (drawn[name][index] for name in names)
    key = jax.random.fold_in(jax.random.key(drawn["seed"]), index)
    transforms = [
        (sigma > 0, lambda x: x + sigma * jax.random.normal(key, x.shape, x.dtype)),
        (blur.max() > 0, lambda x: gaussian_blur(x, blur)),
        (brightness != 1, lambda x: x * brightness),
        (contrast != 1, lambda x: change_contrast(x, contrast)),
        (zoom != 1, lambda x: lower_resolution(x, zoom)),
        (inverted != 1, lambda x: -change_gamma(-x, inverted)),
        (gamma != 1, lambda x: change_gamma(x, gamma)),
    ]

    def changed(x):
        for is_drawn, transform in transforms:
            x = jax.lax.cond(is_drawn, transform, lambda x: x, x)
        return x

    # Each of them copies what it leaves alone; a third of the images have none.
    is_any = functools.reduce(jnp.logical_or, (is_drawn for is_drawn, _ in transforms))
    return jax.lax.cond(is_any, changed, lambda x: x, x)


def gaussian_blur(x: jax.Array, sigmas: jax.Array) -> jax.Array:
    """Smooths (D, H, W) along each axis by a sigma, voxels, at most 1; mirrored at the edges.

    The kernel is cut as batchgeneratorsv2 cuts it: it has the odd number of voxels nearest to six
    sigmas and a half.
    """
    offsets = jnp.arange(-_RADIUS, _RADIUS + 1, dtype=x.dtype)
    for axis in range(3):
        voxels = sigmas[axis] * _TRUNCATE + 0.5
        # Of two odd numbers as near, the larger; an even number goes to the side that it was on.
        whole = jnp.round(voxels)
        nearest = jnp.where(whole % 2 == 1, whole, jnp.where(voxels >= whole, whole + 1, whole - 1))
        weights = jnp.exp(-0.5 * jnp.square(offsets / jnp.maximum(sigmas[axis], _TINY)))
        weights = jnp.where(jnp.abs(offsets) <= (nearest - 1) / 2, weights, 0)
        weights = weights / weights.sum()
        length = x.shape[axis]
        padding = [(_RADIUS, _RADIUS) if a == axis else (0, 0) for a in range(3)]
        # Barriers: fused, XLA's CPU code would work out what is read seven times seven times.
        padded = _AS_IT_IS(jnp.pad(x, padding, mode="reflect"))
        smoothed = sum(
            weight * jax.lax.slice_in_dim(padded, start, start + length, axis=axis)
            for start, weight in enumerate(weights)
        )
        x = _AS_IT_IS(smoothed)
    return x


def change_contrast(x: jax.Array, factor: jax.Array) -> jax.Array:
    """Stretches values about their mean, and keeps their range."""
    mean = x.mean()
    return jnp.clip((x - mean) * factor + mean, x.min(), x.max())


def lower_resolution(x: jax.Array, zoom: jax.Array) -> jax.Array:
    """Makes a volume look as if (D, H, W) had `zoom` times as many voxels along each axis.

    The nearest voxels are taken, then interpolated linearly (PyTorch's `nearest-exact` and
    `trilinear`). Both work along each axis on its own.
    """
    for axis in range(3):
        length = x.shape[axis]
        few = jnp.round(length * zoom)
        place = (jnp.arange(length) + 0.5) * (few / length) - 0.5
        place = jnp.clip(place, 0, few - 1)
        below = jnp.floor(place)
        fraction = (place - below).astype(x.dtype)
        shape = [length if a == axis else 1 for a in range(3)]

        def taken(number, axis=axis, few=few, length=length, x=x):
            source = jnp.floor((jnp.minimum(number, few - 1) + 0.5) * (length / few))
            return jnp.take(x, source.astype(jnp.int32), axis, mode="clip")

        low, high = taken(below), taken(below + 1)
        x = _AS_IT_IS(low + fraction.reshape(shape) * (high - low))
    return x


def change_gamma(x: jax.Array, exponent: jax.Array) -> jax.Array:
    """Raises values, scaled to [0, 1], to a power; then they have their mean and sd again."""
    mean, sd = x.mean(), x.std()
    low, span = x.min(), x.max() - x.min()
    # A power by its definition: on CPUs XLA's own takes four times as long. log(0) becomes 0.
    logarithm = jnp.log((x - low) / jnp.maximum(span, _TINY))
    powered = jnp.exp(exponent * logarithm) * span + low
    scale = sd / jnp.maximum(powered.std(), _TINY)
    return (powered - powered.mean()) * scale + mean
