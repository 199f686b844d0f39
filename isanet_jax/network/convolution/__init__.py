"""3D convolution, max pooling and 2x resampling by convolution, in two equal forms.

`native` uses XLA's own 3D operations and is right on GPU and TPU. `folded` computes the same sums
through 2D convolutions and matrix products, which XLA's CPU backend runs about ten times faster
(docs/performance.md has the measurements). Arrays are channels-last: (B, D, H, W, C).
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from isanet_jax.errors import ConfigError
from isanet_jax.network.convolution.toom_cook import conv3d_by_points

FORMS = ("auto", "native", "folded")
_DIMENSIONS_3D = ("NDHWC", "DHWIO", "NDHWC")
_DIMENSIONS_2D = ("NHWC", "HWIO", "NHWC")
# Slices of at most this many voxels (6 x 6) are convolved as one matrix product.
_FEW_VOXELS = 36
# Voxels x input channels x output channels from which the faster ways are worth their many
# operations: each takes time to compile.
_MUCH_WORK = 5_000_000  # Toom-Cook: 48^3 with 8 channels, 12^3 with 64
_MUCH_WORK_OF_FEW = 1_700_000  # columns: 3^3 with 256 channels


def is_folded(form: str) -> bool:
    """Resolves a form's name; `auto` folds on CPU only.

    Raises:
        ConfigError: `form` is not one of `FORMS`.
    """
    if form not in FORMS:
        raise ConfigError(f"model.convolution is {form!r}; choose one of {', '.join(FORMS)}")
    return form == "folded" or (form == "auto" and jax.default_backend() == "cpu")


def conv3d(
    x: jax.Array,
    kernel: jax.Array,
    folded: bool,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> jax.Array:
    """Cross-correlation, zero-padded on both sides by (k - 1)/2 x dilation (PyTorch's "same").

    Args:
        x: (B, D, H, W, C).
        kernel: (k, k, k, C / groups, O), k odd.
        folded: which of the two equal forms.
        stride, dilation, groups: as in PyTorch's Conv3d, the same on every axis.

    Returns:
        (B, D, H, W, O), each axis divided by the stride (rounded up).
    """
    size = kernel.shape[0]
    # Not in the native form: XLA's GPU compiler (jax 0.10.2) fails on products of 12 million rows.
    if size == 1 and groups == 1 and folded:
        return x[:, ::stride, ::stride, ::stride] @ kernel[0, 0, 0]
    before = size // 2 * dilation
    padding = (before, before)
    if not folded:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride,) * 3,
            (padding,) * 3,
            rhs_dilation=(dilation,) * 3,
            dimension_numbers=_DIMENSIONS_3D,
            feature_group_count=groups,
        )
    if groups > 1:
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        outputs = [conv3d(a, b, True, stride=stride, dilation=dilation) for a, b in parts]
        return jnp.concatenate(outputs, -1)
    work = math.prod(x.shape[1:]) * kernel.shape[-1]
    few = x.shape[2] * x.shape[3] <= _FEW_VOXELS
    if stride == dilation == 1 and work >= (_MUCH_WORK_OF_FEW if few else _MUCH_WORK):
        if few:
            return _conv_by_columns(x, kernel)
        outputs = next((m for m in (4, 2) if x.shape[1] % m == 0), None)
        # Not in bfloat16: its rounding errors would be multiplied by the points' factors.
        if outputs and size in (3, 5) and x.dtype != jnp.bfloat16:
            return conv3d_by_points(x, kernel, outputs)
    return _conv_by_slices(x, kernel, stride, dilation)


def _conv_by_slices(x, kernel, stride, dilation):
    """The depth taps become input channels of one 2D convolution over all (sample, slice) pairs."""
    size = kernel.shape[0]
    before = size // 2 * dilation
    padding = (before, before)
    batch, depth, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), padding, (0, 0), (0, 0), (0, 0)))
    starts = range(0, size * dilation, dilation)
    taps = jnp.concatenate([padded[:, t : t + depth : stride] for t in starts], axis=-1)
    flat_kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(size, size, size * channels, -1)
    slices = taps.shape[1]
    out = lax.conv_general_dilated(
        taps.reshape(batch * slices, height, width, size * channels),
        flat_kernel,
        (stride, stride),
        (padding, padding),
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


def halving_conv3d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution 2x2x2 with stride 2, as one matrix product (its windows do not overlap).

    Args:
        x: (B, D, H, W, C), even sizes.
        kernel: (2, 2, 2, C, O).

    Returns:
        (B, D/2, H/2, W/2, O).
    """
    b, d, h, w, c = x.shape
    windows = x.reshape(b, d // 2, 2, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return windows.reshape(b, d // 2, h // 2, w // 2, 8 * c) @ kernel.reshape(8 * c, -1)


def doubling_conv3d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution 2x2x2 with stride 2, as one matrix product.

    Args:
        x: (B, D, H, W, C).
        kernel: (2, 2, 2, C, O); voxel (2d + i, 2h + j, 2w + k) is x[d, h, w] @ kernel[i, j, k].

    Returns:
        (B, 2D, 2H, 2W, O).
    """
    out = x @ kernel.transpose(3, 0, 1, 2, 4).reshape(x.shape[-1], -1)
    return _channels_to_voxels(out)


def _channels_to_voxels(x):
    """(B, D, H, W, 2 x 2 x 2 x O) -> (B, 2D, 2H, 2W, O)."""
    b, d, h, w, _ = x.shape
    x = x.reshape(b, d, h, w, 2, 2, 2, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, 2 * d, 2 * h, 2 * w, -1)


def max_pool(x: jax.Array, folded: bool) -> jax.Array:
    """2x2x2 max pooling with stride 2: (B, D, H, W, C) -> (B, D/2, H/2, W/2, C)."""
    if not folded:
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 2, 1), (1, 2, 2, 2, 1), "VALID")
    # Depth last, and the earlier voxel where two are equal: gradients then go to the same voxel
    # as in the native form, which picks the first maximum in memory order.
    for axis in (3, 2, 1):
        even = lax.slice_in_dim(x, 0, None, 2, axis)
        odd = lax.slice_in_dim(x, 1, None, 2, axis)
        x = jnp.where(even >= odd, even, odd)
    return x


def upsample_conv3d(
    x: jax.Array, kernel: jax.Array, folded: bool, *, split_depth: bool = False
) -> jax.Array:
    """Transposed 3x3x3 convolution with stride 2 whose output is exactly twice the size.

    The same as PyTorch's ConvTranspose3d(kernel 3, stride 2, padding 1, output_padding 1) with
    its kernel flipped along the three axes (here it is stored as a cross-correlation kernel).

    Args:
        x: (B, D, H, W, C).
        kernel: (3, 3, 3, C, O).
        folded: which of the two equal forms.
        split_depth: D lies on several devices; a third equal form, in which D is not dilated. For
            a kernel's gradient along a dilated axis, XLA's partitioner gathers the whole volume.

    Returns:
        (B, 2D, 2H, 2W, O).
    """
    if split_depth:
        return _upsample_by_parity(x, kernel)
    if not folded:
        return lax.conv_general_dilated(
            x,
            kernel,
            (1, 1, 1),
            ((1, 2),) * 3,
            lhs_dilation=(2, 2, 2),
            dimension_numbers=_DIMENSIONS_3D,
        )
    batch, depth, height, width, _ = x.shape
    # Per axis: output 2i sees x[i] through tap 1; output 2i+1 sees x[i] through tap 0 and x[i+1]
    # through tap 2. One matrix product gives all 27 taps, then each axis is interleaved.
    channels = kernel.shape[-1]
    taps = x @ kernel.transpose(3, 0, 1, 2, 4).reshape(kernel.shape[3], -1)
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


def _upsample_by_parity(x, kernel):
    """Each voxel gives its 2x2x2 outputs as channels of one convolution without dilation.

    Along an axis, output 2i sees x[i] through tap 1; output 2i+1 sees x[i] and x[i+1] through taps
    0 and 2. The later plane comes in as further channels: then the depth needs no window.
    """
    channels = x.shape[-1]
    later = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (-1, 1, 0), *[(0, 0, 0)] * 3])
    # of_parity[p, s]: the tap that output 2i+p sees x[i+s] through; 3 is none.
    of_parity = jnp.array([[1, 3], [0, 2]])
    taps = jnp.pad(kernel, [(0, 1)] * 3 + [(0, 0)] * 2)
    for axis in (0, 2, 4):
        taps = jnp.take(taps, of_parity, axis)
    # (pd, sd, ph, sh, pw, sw, C, O) -> (1, sh, sw, sd x C, pd x ph x pw x O)
    taps = taps.transpose(3, 5, 1, 6, 0, 2, 4, 7).reshape(1, 2, 2, 2 * channels, -1)
    out = lax.conv_general_dilated(
        jnp.concatenate([x, later], -1),
        taps,
        (1, 1, 1),
        ((0, 0), (0, 1), (0, 1)),
        dimension_numbers=_DIMENSIONS_3D,
    )
    return _channels_to_voxels(out)
