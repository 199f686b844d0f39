"""Convolution and upsampling by XLA's own 3D operations: right on GPU and TPU."""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

_DIMENSIONS_3D = ("NDHWC", "DHWIO", "NDHWC")


@jax.custom_vjp
def gradients_together(*arrays):
    """The arrays; their gradients are all computed before any of them is used.

    Otherwise XLA may put some off to the end of the step, and keep what they need until then.
    """
    return arrays


gradients_together.defvjp(
    lambda *arrays: (arrays, None), lambda _, gradients: jax.lax.optimization_barrier(gradients)
)


def conv3d(maps, kernel, *, stride, dilation, groups, pads_depth=True) -> jax.Array:
    """See `isanet_jax.network.convolution.conv3d`.

    Of several maps, it is the sum of their convolutions: their concatenation, which would be the
    largest array of a step, is never made.
    """
    if groups > 1 and len(maps) > 1:
        maps = [jnp.concatenate(maps, -1)]
    *maps, kernel = gradients_together(*maps, kernel)
    ends = list(itertools.accumulate(x.shape[-1] for x in maps[:-1]))
    kernels = jnp.split(kernel, ends, 3)
    outputs = [
        _conv3d(x, k, stride, dilation, groups, pads_depth=pads_depth)
        for x, k in zip(maps, kernels, strict=True)
    ]
    return functools.reduce(jnp.add, outputs)


@jax.custom_vjp
def product(x, kernel):
    """A 1x1x1 convolution as a matrix product, into which XLA takes what stands around it.

    Args:
        x: (B, D, H, W, C).
        kernel: (C, O).
    """
    return x @ kernel


def _product_backward(kept, gradient):
    """The kernel's gradient slice by slice, where a slice has more voxels than channels.

    For one sum over all voxels, XLA pads both maps on GPUs, and transposes them on CPUs.
    """
    x, kernel = kept
    voxels = x.shape[2] * x.shape[3]
    slices = (a.reshape(-1, voxels, a.shape[4]) for a in (x, gradient))
    if voxels < max(kernel.shape):
        slices = (a.reshape(1, -1, a.shape[2]) for a in slices)
    precise = jnp.promote_types(x.dtype, jnp.float32)
    of_kernel = jnp.einsum("svc,svo->sco", *slices, preferred_element_type=precise).sum(0)
    return gradient @ kernel.T, of_kernel.astype(kernel.dtype)


product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_backward)


def _conv3d(x, kernel, stride, dilation, groups, *, pads_depth):
    if kernel.shape[:3] == (1, 1, 1) and stride == groups == 1:
        return product(x, kernel[0, 0, 0])
    if dilation > 1 and stride == 1 and pads_depth:
        return _dilated(x, kernel, dilation, groups)
    return _plain(x, kernel, stride, dilation, groups, pads_depth=pads_depth)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dilated(x, kernel, dilation, groups):
    return _plain(x, kernel, 1, dilation, groups)


def _dilated_backward(dilation, groups, kept, gradient):
    """The kernel's gradient as that of a plain convolution of every `dilation`-th voxel.

    A voxel sees only those that are whole dilations away. JAX's own rule gives a strided
    convolution whose window is as large as the volume.
    """
    x, kernel = kept
    (of_x,) = jax.vjp(lambda x: _plain(x, kernel, 1, dilation, groups), x)[1](gradient)
    values, wanted = (_every(a, dilation) for a in (x, gradient))
    (of_kernel,) = jax.vjp(lambda k: _plain(values, k, 1, 1, groups), kernel)[1](wanted)
    return of_x, of_kernel


_dilated.defvjp(
    lambda x, kernel, dilation, groups: (_dilated(x, kernel, dilation, groups), (x, kernel)),
    _dilated_backward,
)


def _every(x, step):
    """Each of the step^3 grids of every step-th voxel as a sample of its own, padded with zeros."""
    x = jnp.pad(x, ((0, 0), *[(0, -n % step) for n in x.shape[1:4]], (0, 0)))
    b, d, h, w, c = x.shape
    x = x.reshape(b, d // step, step, h // step, step, w // step, step, c)
    return x.transpose(0, 2, 4, 6, 1, 3, 5, 7).reshape(-1, d // step, h // step, w // step, c)


def _plain(x, kernel, stride, dilation, groups, *, pads_depth=True):
    before = [size // 2 * dilation for size in kernel.shape[:3]]
    if not pads_depth:
        before[0] = 0
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * 3 if isinstance(stride, int) else stride,
        [(n, n) for n in before],
        rhs_dilation=(dilation,) * 3,
        dimension_numbers=_DIMENSIONS_3D,
        feature_group_count=groups,
    )


def upsample_conv3d(x, kernel) -> jax.Array:
    """See `isanet_jax.network.convolution.upsample_conv3d`."""
    return _upsample(x, kernel)


@jax.custom_vjp
def _upsample(x, kernel):
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1, 1),
        ((1, 2),) * 3,
        lhs_dilation=(2, 2, 2),
        dimension_numbers=_DIMENSIONS_3D,
    )


def _upsample_forward(x, kernel):
    return _upsample(x, kernel), (x, kernel)


def _upsample_backward(saved, gradient):
    """Computes the gradients as those of the stride-2 convolution whose transpose this is.

    <g, up(x, k)> = <down(g, k'), x>, with k' the flipped kernel. JAX's own rule writes the kernel's
    gradient as a forward convolution whose window is as large as the volume, which GPUs run 32
    times slower (openxla/xla#34273); that of `down`'s kernel is cuDNN's backward-filter call.
    """
    x, kernel = saved

    def down(kernel):
        return lax.conv_general_dilated(
            gradient,
            jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4),
            (2, 2, 2),
            ((1, 1),) * 3,
            dimension_numbers=_DIMENSIONS_3D,
        )

    of_x, pull = jax.vjp(down, kernel)
    return of_x, *pull(x)


_upsample.defvjp(_upsample_forward, _upsample_backward)
