"""3D convolution and 2x resampling by convolution, in two equal forms; and max pooling.

`native` uses XLA's own 3D operations and is right on GPU and TPU. `folded` computes the same sums
through 2D convolutions and matrix products, which XLA's CPU backend runs about ten times faster
(docs/evidence/speed.md has the measurements). The setting `model.convolution` goes down to here,
where the form is chosen. Arrays are channels-last: (B, D, H, W, C).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from isanet_jax.errors import ConfigError
from isanet_jax.network.convolution import folded, native
from isanet_jax.network.convolution.native import gradients_together as gradients_together
from isanet_jax.settings.table import CONVOLUTIONS


def is_folded(form: str) -> bool:
    """Resolves the name of a form (`model.convolution`); `auto` folds on CPU only.

    Raises:
        ConfigError: no such form.
    """
    if form not in CONVOLUTIONS:
        raise ConfigError(f"model.convolution is {form!r}; choose one of {', '.join(CONVOLUTIONS)}")
    return form == "folded" or (form == "auto" and jax.default_backend() == "cpu")


def conv3d(
    x: jax.Array | Sequence[jax.Array],
    kernel: jax.Array,
    form: str = "auto",
    *,
    stride: int | tuple[int, int, int] = 1,
    dilation: int = 1,
    groups: int = 1,
    pads_depth: bool = True,
) -> jax.Array:
    """Cross-correlation, zero-padded on both sides by (k - 1)/2 x dilation (PyTorch's "same").

    Args:
        x: (B, D, H, W, C); or several maps, whose channels follow each other in the kernel.
        kernel: (k, k, k, C / groups, O), k odd; or of a size of its own on each axis.
        form: which of the two equal forms, see `is_folded`.
        stride, dilation, groups: as in PyTorch's Conv3d; the dilation is the same on every axis.
        pads_depth: False where the padding of D is there already, as planes of another device.

    Returns:
        (B, D, H, W, O), each axis divided by the stride (rounded up).
    """
    maps = x if isinstance(x, (list, tuple)) else (x,)
    if not isinstance(stride, int) and len(set(stride)) == 1:
        stride = stride[0]
    options = {"stride": stride, "dilation": dilation, "groups": groups}
    if pads_depth:
        return _of(form).conv3d(maps, kernel, **options)
    return native.conv3d(maps, kernel, **options, pads_depth=False)


def strided_conv3d(x: jax.Array, kernel: jax.Array) -> jax.Array:
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


def transposed_conv3d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution whose stride is its kernel's size, as one matrix product.

    Args:
        x: (B, D, H, W, C).
        kernel: (s, t, u, C, O), as 2x2x2; voxel (sd + i, th + j, uw + k) is
            x[d, h, w] @ kernel[i, j, k].

    Returns:
        (B, sD, tH, uW, O).
    """
    out = x @ kernel.transpose(3, 0, 1, 2, 4).reshape(x.shape[-1], -1)
    b, d, h, w, _ = x.shape
    s, t, u = kernel.shape[:3]
    voxels = out.reshape(b, d, h, w, s, t, u, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return voxels.reshape(b, s * d, t * h, u * w, -1)


def max_pool(x: jax.Array) -> jax.Array:
    """2x2x2 max pooling with stride 2: (B, D, H, W, C) -> (B, D/2, H/2, W/2, C).

    By comparisons, which fuse with what stands around them, where the gradient of XLA's own
    operation is slow on all devices. Depth last, and the earlier voxel where two are equal:
    gradients then go to the first maximum in memory order, as that operation's do.
    """
    for axis in (3, 2, 1):
        even = lax.slice_in_dim(x, 0, None, 2, axis)
        odd = lax.slice_in_dim(x, 1, None, 2, axis)
        x = jnp.where(even >= odd, even, odd)
    return x


def upsample_conv3d(x: jax.Array, kernel: jax.Array, form: str = "auto") -> jax.Array:
    """Transposed 3x3x3 convolution with stride 2 whose output is exactly twice the size.

    The same as PyTorch's ConvTranspose3d(kernel 3, stride 2, padding 1, output_padding 1) with
    its kernel flipped along the three axes (here it is stored as a cross-correlation kernel).

    Args:
        x: (B, D, H, W, C).
        kernel: (3, 3, 3, C, O).
        form: which of the two equal forms, see `is_folded`.

    Returns:
        (B, 2D, 2H, 2W, O).
    """
    return _of(form).upsample_conv3d(x, kernel)


def _of(form):
    return folded if is_folded(form) else native
