"""3D convolution, max pooling and 2x transposed convolution, each in two equal forms.

`native` uses XLA's own 3D operations and is right on GPU and TPU. `folded` computes the same sums
through 2D convolutions and matrix products, which XLA's CPU backend runs about ten times faster
(docs/convolution.md has the measurements). Arrays are channels-last: (B, D, H, W, C).
"""

import jax
import jax.numpy as jnp
from jax import lax

from isanet_jax.errors import ConfigError

FORMS = ("auto", "native", "folded")
_DIMENSIONS_3D = ("NDHWC", "DHWIO", "NDHWC")
_DIMENSIONS_2D = ("NHWC", "HWIO", "NHWC")


def is_folded(form: str) -> bool:
    """Resolves a form's name; `auto` folds on CPU only.

    Raises:
        ConfigError: `form` is not one of `FORMS`.
    """
    if form not in FORMS:
        raise ConfigError(f"model.convolution is {form!r}; choose one of {', '.join(FORMS)}")
    return form == "folded" or (form == "auto" and jax.default_backend() == "cpu")


def conv3d(x: jax.Array, kernel: jax.Array, folded: bool) -> jax.Array:
    """Cross-correlation with stride 1 and zero padding that keeps the size ("same").

    Args:
        x: (B, D, H, W, C).
        kernel: (k, k, k, C, O), k odd.
        folded: which of the two equal forms.

    Returns:
        (B, D, H, W, O).
    """
    size = kernel.shape[0]
    if size == 1:
        return x @ kernel[0, 0, 0]
    if not folded:
        return lax.conv_general_dilated(
            x, kernel, (1, 1, 1), "SAME", dimension_numbers=_DIMENSIONS_3D
        )
    batch, depth, height, width, channels = x.shape
    # The depth taps become input channels of one 2D convolution over all (sample, slice) pairs.
    before = size // 2
    padded = jnp.pad(x, ((0, 0), (before, before), (0, 0), (0, 0), (0, 0)))
    taps = jnp.concatenate([padded[:, t : t + depth] for t in range(size)], axis=-1)
    flat_kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(size, size, size * channels, -1)
    out = lax.conv_general_dilated(
        taps.reshape(batch * depth, height, width, size * channels),
        flat_kernel,
        (1, 1),
        "SAME",
        dimension_numbers=_DIMENSIONS_2D,
    )
    return out.reshape(batch, depth, height, width, -1)


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


def upsample_conv3d(x: jax.Array, kernel: jax.Array, folded: bool) -> jax.Array:
    """Transposed 3x3x3 convolution with stride 2 whose output is exactly twice the size.

    The same as PyTorch's ConvTranspose3d(kernel 3, stride 2, padding 1, output_padding 1) with
    its kernel flipped along the three axes (here it is stored as a cross-correlation kernel).

    Args:
        x: (B, D, H, W, C).
        kernel: (3, 3, 3, C, O).
        folded: which of the two equal forms.

    Returns:
        (B, 2D, 2H, 2W, O).
    """
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
