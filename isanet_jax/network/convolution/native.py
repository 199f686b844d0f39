"""Convolution, pooling and upsampling by XLA's own 3D operations: right on GPU and TPU."""

import jax
import jax.numpy as jnp
from jax import lax

_DIMENSIONS_3D = ("NDHWC", "DHWIO", "NDHWC")


def conv3d(x, kernel, *, stride, dilation, groups) -> jax.Array:
    """See `isanet_jax.network.convolution.conv3d`."""
    before = kernel.shape[0] // 2 * dilation
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * 3,
        ((before, before),) * 3,
        rhs_dilation=(dilation,) * 3,
        dimension_numbers=_DIMENSIONS_3D,
        feature_group_count=groups,
    )


def max_pool(x) -> jax.Array:
    """See `isanet_jax.network.convolution.max_pool`."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 2, 1), (1, 2, 2, 2, 1), "VALID")


def upsample_conv3d(x, kernel) -> jax.Array:
    """See `isanet_jax.network.convolution.upsample_conv3d`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1, 1),
        ((1, 2),) * 3,
        lhs_dilation=(2, 2, 2),
        dimension_numbers=_DIMENSIONS_3D,
    )


def upsample_conv3d_by_parity(x, kernel) -> jax.Array:
    """`upsample_conv3d` where D lies on several devices, in a form that does not dilate D.

    For a kernel's gradient along a dilated axis, XLA's partitioner gathers the whole volume. Here
    each voxel gives its 2x2x2 outputs as channels of one convolution without dilation.

    Along an axis, output 2i sees x[i] through tap 1; output 2i+1 sees x[i] and x[i+1] through taps
    0 and 2. The later plane comes in as further channels: then the depth needs no window.
    """
    channels = x.shape[-1]
    later = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (-1, 1, 0), *[(0, 0, 0)] * 3])
    # tap_of[p, s]: the tap that output 2i+p sees x[i+s] through; 3 is none.
    tap_of = jnp.array([[1, 3], [0, 2]])
    taps = jnp.pad(kernel, [(0, 1)] * 3 + [(0, 0)] * 2)
    for axis in (0, 2, 4):
        taps = jnp.take(taps, tap_of, axis)
    # (pd, sd, ph, sh, pw, sw, C, O) -> (1, sh, sw, sd x C, pd x ph x pw x O)
    taps = taps.transpose(3, 5, 1, 6, 0, 2, 4, 7).reshape(1, 2, 2, 2 * channels, -1)
    out = lax.conv_general_dilated(
        jnp.concatenate([x, later], -1),
        taps,
        (1, 1, 1),
        ((0, 0), (0, 1), (0, 1)),
        dimension_numbers=_DIMENSIONS_3D,
    )
    return channels_to_voxels(out)


def channels_to_voxels(x) -> jax.Array:
    """(B, D, H, W, 2 x 2 x 2 x O) -> (B, 2D, 2H, 2W, O)."""
    b, d, h, w, _ = x.shape
    x = x.reshape(b, d, h, w, 2, 2, 2, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, 2 * d, 2 * h, 2 * w, -1)
