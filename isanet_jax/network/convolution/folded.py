"""Convolution and upsampling through 2D convolutions and matrix products: for CPUs.

XLA's CPU backend runs these about ten times faster than its own 3D operations
(docs/evidence/speed.md).
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from isanet_jax.network.convolution.native import product
from isanet_jax.network.convolution.toom_cook import conv3d_by_points

_DIMENSIONS_2D = ("NHWC", "HWIO", "NHWC")
# Slices of at most this many voxels (6 x 6) are convolved as one matrix product.
_FEW_VOXELS = 36
# Voxels x input channels x output channels from which the faster ways are worth their many
# operations: each takes time to compile.
_MUCH_WORK = 5_000_000  # Toom-Cook: 48^3 with 8 channels, 12^3 with 64
_MUCH_WORK_OF_FEW = 1_700_000  # columns: 3^3 with 256 channels


def conv3d(maps, kernel, *, stride, dilation, groups) -> jax.Array:
    """See `isanet_jax.network.convolution.conv3d`."""
    x = maps[0] if len(maps) == 1 else jnp.concatenate(maps, -1)
    size, is_cube = kernel.shape[0], len(set(kernel.shape[:3])) == 1 and isinstance(stride, int)
    if is_cube and size == 1 and groups == 1:
        return product(x[:, ::stride, ::stride, ::stride], kernel[0, 0, 0])
    if groups > 1:
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        outputs = [conv3d([a], b, stride=stride, dilation=dilation, groups=1) for a, b in parts]
        return jnp.concatenate(outputs, -1)
    work = math.prod(x.shape[1:]) * kernel.shape[-1]
    few = x.shape[2] * x.shape[3] <= _FEW_VOXELS
    if is_cube and stride == dilation == 1 and work >= (_MUCH_WORK_OF_FEW if few else _MUCH_WORK):
        if few:
            return _conv_by_columns(x, kernel)
        outputs = next((m for m in (4, 2) if x.shape[1] % m == 0), None)
        # Not in bfloat16: its rounding errors would be multiplied by the points' factors.
        if outputs and size in (3, 5) and x.dtype != jnp.bfloat16:
            return conv3d_by_points(x, kernel, outputs)
    return _conv_by_slices(x, kernel, stride, dilation)


def _conv_by_slices(x, kernel, stride, dilation):
    """The depth taps become input channels of one 2D convolution over all (sample, slice) pairs."""
    sizes = kernel.shape[:3]
    padding = [(size // 2 * dilation, size // 2 * dilation) for size in sizes]
    of_depth, *in_slice = (stride,) * 3 if isinstance(stride, int) else stride
    batch, depth, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
    starts = range(0, sizes[0] * dilation, dilation)
    taps = jnp.concatenate([padded[:, t : t + depth : of_depth] for t in starts], axis=-1)
    flat_kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(*sizes[1:], sizes[0] * channels, -1)
    slices = taps.shape[1]
    out = lax.conv_general_dilated(
        taps.reshape(batch * slices, height, width, sizes[0] * channels),
        flat_kernel,
        in_slice,
        padding[1:],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=_DIMENSIONS_2D,
    )
    return out.reshape(batch, slices, *out.shape[1:])


def _conv_by_columns(x, kernel):
    """All taps of a voxel become one row of a matrix; for volumes of few voxels and many channels.

    There the kernel is what has to be read, and a matrix product reads it once.
    """
    size = kernel.shape[0]
    batch, depth, height, width, channels = x.shape
    half = size // 2
    padded = jnp.pad(x, ((0, 0), *[(half, half)] * 3, (0, 0)))
    columns = jnp.stack(
        [
            padded[:, i : i + depth, j : j + height, k : k + width]
            for i, j, k in itertools.product(range(size), repeat=3)
        ],
        axis=-2,
    )
    flat = columns.reshape(batch, depth, height, width, size**3 * channels)
    return flat @ kernel.reshape(size**3 * channels, -1)


def upsample_conv3d(x, kernel) -> jax.Array:
    """See `isanet_jax.network.convolution.upsample_conv3d`.

    Per axis: output 2i sees x[i] through tap 1; output 2i+1 sees x[i] through tap 0 and x[i+1]
    through tap 2. One matrix product gives all 27 taps, then each axis is interleaved.
    """
    batch, depth, height, width, _ = x.shape
    channels = kernel.shape[-1]
    taps = product(x, kernel.transpose(3, 0, 1, 2, 4).reshape(kernel.shape[3], -1))
    taps = taps.reshape(batch, depth, height, width, 3, 3, 3, channels)
    for axis in (1, 2, 3):
        # The taps of the axis at hand are always at axis 4: each round removes one.
        first, middle, last = (lax.index_in_dim(taps, t, 4, keepdims=False) for t in range(3))
        shift = [(0, 0, 0)] * last.ndim
        shift[axis] = (-1, 1, 0)  # drops the first element and appends a zero
        shifted = lax.pad(last, jnp.zeros((), last.dtype), shift)
        pair = jnp.stack([middle, first + shifted], axis + 1)
        shape = list(middle.shape)
        shape[axis] *= 2
        taps = pair.reshape(shape)
    return taps
