"""Building blocks of ISA-Net (paper sections 2.1-2.3) as Flax NNX modules.

Feature maps are (B, D, H, W, C). Parameters are float32 and are cast to the input's dtype.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from isanet_jax.errors import ConfigError
from isanet_jax.network.convolution import conv3d, upsample_conv3d

_SPACE = (1, 2, 3)


def _normal(rngs: nnx.Rngs, shape, deviation) -> jax.Array:
    """Draws from N(0, deviation^2).

    Drawn by NumPy: compiling jax.random for the network's hundred different shapes takes longer
    (37 s on two cores) than compiling the train step.
    """
    generator = np.random.default_rng(np.asarray(jax.random.key_data(rngs.params())))
    return jnp.asarray(generator.standard_normal(shape, np.float32) * np.float32(deviation))


def _he_normal(rngs, shape):
    """He et al. 2015, fan-in: variance 2 / (taps x input channels)."""
    return _normal(rngs, shape, (2.0 / np.prod(shape[:-1])) ** 0.5)


class Conv(nnx.Module):
    """Convolution k^3, "same", stride 1; He-normal kernel (fan-in), bias only where asked for."""

    def __init__(self, inputs, outputs, size, *, folded, bias=False, rngs):
        self.kernel = nnx.Param(_he_normal(rngs, (size, size, size, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.folded = folded

    def __call__(self, x):
        out = conv3d(x, self.kernel[...].astype(x.dtype), self.folded)
        return out if self.bias is None else out + self.bias[...].astype(x.dtype)


class UpsampleConv(nnx.Module):
    """Transposed convolution 3^3 with stride 2 and bias; the output has twice the size."""

    def __init__(self, inputs, outputs, *, folded, rngs):
        self.kernel = nnx.Param(_he_normal(rngs, (3, 3, 3, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.folded = folded

    def __call__(self, x):
        out = upsample_conv3d(x, self.kernel[...].astype(x.dtype), self.folded)
        return out + self.bias[...].astype(x.dtype)


class InstanceNorm(nnx.Module):
    """Per-sample, per-channel normalisation over the volume: affine, biased variance, eps 1e-5."""

    def __init__(self, channels):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x):
        values = x.astype(jnp.float32)
        mean = values.mean(_SPACE, keepdims=True)
        variance = jnp.square(values - mean).mean(_SPACE, keepdims=True)
        gain = self.scale[...] * jax.lax.rsqrt(variance + 1e-5)
        return ((values - mean) * gain + self.bias[...]).astype(x.dtype)


class ConvBlock(nnx.Module):
    """Convolution k^3 without bias -> instance norm -> ReLU."""

    def __init__(self, inputs, outputs, size, *, folded, rngs):
        self.conv = Conv(inputs, outputs, size, folded=folded, rngs=rngs)
        self.norm = InstanceNorm(outputs)

    def __call__(self, x):
        return jax.nn.relu(self.norm(self.conv(x)))


class Residual(nnx.Module):
    """Eq. 1: ConvBlock(3) plus a shortcut: ConvBlock(1) where channels change, else identity."""

    def __init__(self, inputs, outputs, *, folded, rngs):
        self.body = ConvBlock(inputs, outputs, 3, folded=folded, rngs=rngs)
        changes = inputs != outputs
        self.shortcut = ConvBlock(inputs, outputs, 1, folded=folded, rngs=rngs) if changes else None

    def __call__(self, x):
        return self.body(x) + (x if self.shortcut is None else self.shortcut(x))


class Dense(nnx.Module):
    """Fully connected layer with bias, weights from N(0, 0.01)."""

    def __init__(self, inputs, outputs, *, rngs):
        self.kernel = nnx.Param(_normal(rngs, (inputs, outputs), 0.01))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x):
        return x @ self.kernel[...] + self.bias[...]


class ChannelAttention(nnx.Module):
    """Eqs. 2-3: channels scaled by sigmoid(FC(relu(FC(global mean)))), C -> 2C -> C."""

    def __init__(self, channels, *, rngs):
        self.expand = Dense(channels, 2 * channels, rngs=rngs)
        self.squeeze = Dense(2 * channels, channels, rngs=rngs)

    def __call__(self, x):
        pooled = x.astype(jnp.float32).mean(_SPACE)
        gate = jax.nn.sigmoid(self.squeeze(jax.nn.relu(self.expand(pooled))))
        return x * gate[:, None, None, None, :].astype(x.dtype)


def fuse(q: jax.Array, k: jax.Array, fusion: str) -> jax.Array:
    """Eq. 5, query and key joined into U, all (B, D, H, W, C).

    `matmul` is the H x W matrix product of each channel's depth slices, `matmul_scaled` the same
    over sqrt(W), `product` element-wise.

    Raises:
        ConfigError: a matrix product of slices that are not square.
    """
    if fusion == "product":
        return q * k
    height, width = q.shape[2:4]
    if height != width:
        raise ConfigError(
            f"model.fusion {fusion!r} multiplies square slices, and these are {height} x {width}; "
            "use model.fusion 'product' or a cubic size"
        )
    fused = jnp.einsum("bdhic,bdiwc->bdhwc", q, k)
    return fused / width**0.5 if fusion == "matmul_scaled" else fused


class ISA(nnx.Module):
    """Improved spatial attention (Eqs. 4-8); the output has the input's shape.

    `weight_scale` "sum" lets the weights of a channel sum to 1 over the volume (as printed),
    "mean" multiplies them by the number of voxels.
    """

    def __init__(self, channels, *, fusion, weight_scale, folded, rngs):
        self.channel_attention = ChannelAttention(channels, rngs=rngs)
        self.query = ConvBlock(channels, channels, 3, folded=folded, rngs=rngs)
        self.key = ConvBlock(channels, channels, 5, folded=folded, rngs=rngs)
        self.value = ConvBlock(channels, channels, 1, folded=folded, rngs=rngs)
        self.output = Conv(2 * channels, channels, 1, folded=folded, bias=True, rngs=rngs)
        self.fusion = fusion
        self.weight_scale = weight_scale

    def __call__(self, x):
        attended = self.channel_attention(x)
        fused = fuse(self.query(attended), self.key(attended), self.fusion)
        # float32 whatever the compute dtype: a sum over millions of voxels.
        weight = jax.nn.softmax(fused.astype(jnp.float32), axis=_SPACE)
        if self.weight_scale == "mean":
            weight = weight * (x.shape[1] * x.shape[2] * x.shape[3])
        weighted = weight.astype(x.dtype) * self.value(attended)
        return self.output(jnp.concatenate([weighted, x], axis=-1))
