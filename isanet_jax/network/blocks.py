"""Building blocks that the systems share, as Flax NNX modules.

Feature maps are (B, D, H, W, C). Parameters are float32 and are cast to the input's dtype.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from isanet_jax.distributed.placement import (
    largest_of_parts,
    mean_of_parts,
    own_part,
    parts_of,
    sum_of_parts,
    with_neighbours,
)
from isanet_jax.network import initial
from isanet_jax.network.config import ModelConfig
from isanet_jax.network.convolution import (
    conv3d,
    strided_conv3d,
    transposed_conv3d,
    upsample_conv3d,
)
from isanet_jax.network.instance_norm import SPACE, instance_norm, to_float32
from isanet_jax.network.recompute import CONVOLUTION


def _three(value):
    return (value,) * 3 if isinstance(value, int) else tuple(value)


class Conv(nnx.Module):
    """Convolution k^3, zero-padded; He-normal kernel (fan-in), bias only where asked for.

    Size and stride are one number, or three along D, H, W.
    """

    def __init__(
        self,
        in_features,
        out_features,
        size,
        *,
        form,
        bias=False,
        stride=1,
        dilation=1,
        groups=1,
        rngs,
    ):
        size = _three(size)
        self.kernel = nnx.Param(
            initial.he_normal(rngs, (*size, in_features // groups, out_features))
        )
        self.bias = nnx.Param(np.zeros(out_features, np.float32)) if bias else None
        self.form = form
        self.stride, self.dilation, self.groups = stride, dilation, groups

    def __call__(self, x):
        """`x`: a map, or several, whose channels count one after the other."""
        maps = x if isinstance(x, (list, tuple)) else (x,)
        kernel = self.kernel[...].astype(maps[0].dtype)
        convolve = self._convolve if parts_of(maps[0]) == 1 else self._convolve_part
        out = checkpoint_name(convolve(kernel, *maps), CONVOLUTION)
        return out if self.bias is None else out + self.bias[...].astype(out.dtype)

    def _convolve(self, kernel, *maps, pads_depth=True):
        options = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        return conv3d(maps, kernel, self.form, **options, pads_depth=pads_depth)

    def _convolve_part(self, kernel, *maps):
        reach = kernel.shape[0] // 2 * self.dilation

        def with_planes(kernel, *maps):
            maps = [with_neighbours(x, reach, reach) for x in maps]
            return self._convolve(kernel, *maps, pads_depth=False)

        # Recomputed: for the gradients, the maps are kept and not their copies with more planes.
        return jax.checkpoint(with_planes)(kernel, *maps)


def output_convolution(in_features, config: ModelConfig, *, bias=True, rngs) -> Conv:
    """Convolution 1^3 to a logit of each class; its bias starts at that of `config.prior`."""
    conv = Conv(in_features, config.classes, 1, form=config.convolution, bias=bias, rngs=rngs)
    if bias:
        logit = np.log(config.prior / (1 - config.prior))
        conv.bias = nnx.Param(np.full(config.classes, logit, np.float32))
    return conv


class StridedConv(nnx.Module):
    """Convolution 2^3 with stride 2, no bias; the output has half the size."""

    def __init__(self, in_features, out_features, *, rngs):
        self.kernel = nnx.Param(initial.he_normal(rngs, (2, 2, 2, in_features, out_features)))

    def __call__(self, x):
        return strided_conv3d(x, self.kernel[...].astype(x.dtype))


def averaged(x: jax.Array, stride: tuple[int, int, int]) -> jax.Array:
    """The means of the blocks of `stride` voxels: (B, D, H, W, C), smaller by it."""
    batch, *shape, channels = x.shape
    blocks = [n for size, step in zip(shape, stride, strict=True) for n in (size // step, step)]
    return x.reshape(batch, *blocks, channels).mean((2, 4, 6))


def halved(x: jax.Array) -> jax.Array:
    """(B, D, H, W, C) at half the size: the means of 2^3 voxels."""
    return averaged(x, (2, 2, 2))


class TransposedConv(nnx.Module):
    """Transposed convolution with a kernel of its stride, 2^3: the output has twice the size."""

    def __init__(self, in_features, out_features, *, stride=2, bias=False, rngs):
        # Every output voxel is a sum over one tap: its fan-in is the input channels alone.
        shape = (*_three(stride), in_features, out_features)
        self.kernel = nnx.Param(initial.normal(rngs, shape, (2.0 / in_features) ** 0.5))
        self.bias = nnx.Param(np.zeros(out_features, np.float32)) if bias else None

    def __call__(self, x):
        out = transposed_conv3d(x, self.kernel[...].astype(x.dtype))
        return out if self.bias is None else out + self.bias[...].astype(out.dtype)


class UpsampleConv(nnx.Module):
    """Transposed convolution 3^3 with stride 2; the output has twice the size."""

    def __init__(self, in_features, out_features, *, form, bias=True, rngs):
        self.kernel = nnx.Param(initial.he_normal(rngs, (3, 3, 3, in_features, out_features)))
        self.bias = nnx.Param(np.zeros(out_features, np.float32)) if bias else None
        self.form = form

    def __call__(self, x):
        kernel = self.kernel[...].astype(x.dtype)
        if parts_of(x) == 1:
            out = own_part(upsample_conv3d(x, kernel, self.form))
        else:  # the last outputs see the next device's first plane, which has outputs there
            out = upsample_conv3d(with_neighbours(x, 0, 1), kernel, self.form)[:, :-2]
        return out if self.bias is None else out + self.bias[...].astype(out.dtype)


class InstanceNorm(nnx.Module):
    """Instance norm with a learned scale and bias per channel, and the ReLU that may follow."""

    def __init__(self, channels, *, relu=False):
        self.scale = nnx.Param(np.ones(channels, np.float32))
        self.bias = nnx.Param(np.zeros(channels, np.float32))
        self.relu = relu

    def __call__(self, x):
        return instance_norm(x, self.scale[...], self.bias[...], self.relu)


class ConvBlock(nnx.Module):
    """Convolution k^3 without bias -> instance norm -> ReLU."""

    def __init__(self, in_features, out_features, size, *, form, rngs, **convolution):
        self.conv = Conv(in_features, out_features, size, form=form, rngs=rngs, **convolution)
        self.norm = InstanceNorm(out_features, relu=True)

    def __call__(self, x):
        return self.norm(self.conv(x))


class Residual(nnx.Module):
    """Eq. 1: ConvBlock(3) plus a shortcut: ConvBlock(1) where channels change, else identity."""

    def __init__(self, in_features, out_features, *, form, rngs):
        self.body = ConvBlock(in_features, out_features, 3, form=form, rngs=rngs)
        changes = in_features != out_features
        self.shortcut = (
            ConvBlock(in_features, out_features, 1, form=form, rngs=rngs) if changes else None
        )

    def __call__(self, x):
        return self.body(x) + (x if self.shortcut is None else self.shortcut(x))


class Dense(nnx.Module):
    """Fully connected layer with bias, weights from N(0, 0.01).

    With `uniform`, weights and bias are uniform within 1 / sqrt(in_features), as PyTorch's layers
    start.
    """

    def __init__(self, in_features, out_features, *, uniform=False, rngs):
        if uniform:
            kernel = initial.uniform(rngs, (in_features, out_features), in_features**-0.5)
            bias = initial.uniform(rngs, (out_features,), in_features**-0.5)
        else:
            kernel = initial.normal(rngs, (in_features, out_features), 0.01)
            bias = np.zeros(out_features, np.float32)
        self.kernel, self.bias = nnx.Param(kernel), nnx.Param(bias)

    def __call__(self, x):
        return x @ self.kernel[...] + self.bias[...]


class MLP(nnx.Module):
    """Two fully connected layers with a ReLU between: (B, C) -> (B, out_features)."""

    def __init__(self, in_features, hidden, out_features, *, uniform=False, rngs):
        self.first = Dense(in_features, hidden, uniform=uniform, rngs=rngs)
        self.second = Dense(hidden, out_features, uniform=uniform, rngs=rngs)

    def __call__(self, x):
        return self.second(jax.nn.relu(self.first(x)))


def global_mean(x: jax.Array) -> jax.Array:
    """Mean over the volume in float32: (B, D, H, W, C) -> (B, C)."""
    return mean_of_parts(to_float32(x).mean(SPACE), parts_of(x))


def softmax_over_volume(x: jax.Array) -> jax.Array:
    """Returns the softmax of each channel: (B, D, H, W, C), whose sum over a volume is 1."""
    parts = parts_of(x)
    if parts == 1:
        return jax.nn.softmax(x, axis=SPACE)
    positive = jnp.exp(x - largest_of_parts(x.max(SPACE, keepdims=True), parts))
    return positive / sum_of_parts(positive.sum(SPACE, keepdims=True), parts)


def scale_channels(x: jax.Array, factor: jax.Array) -> jax.Array:
    """X (B, D, H, W, C) times factor (B, C), in x's dtype."""
    return x * factor[:, None, None, None, :].astype(x.dtype)
