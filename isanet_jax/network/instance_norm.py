"""Instance norm, with the ReLU that may follow, in the fewest passes over a feature map."""

from functools import partial

import jax
import jax.numpy as jnp

from isanet_jax.distributed.placement import mean_of_parts, parts_of

SPACE = (1, 2, 3)  # the axes of a volume in (B, D, H, W, C)
_EPSILON = 1e-5
_SOME = 8  # voxels along each axis


def to_float32(x: jax.Array) -> jax.Array:
    """In float32, or float64 where it is: for what bfloat16 is too coarse for."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def instance_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, relu: bool = False) -> jax.Array:
    """Mean 0, variance 1 per sample and channel over the volume, then x scale + bias (and ReLU).

    Ulyanov et al. 2016, with the biased variance and 1e-5 added to it; computed in float32. x is
    read once for its two sums and once for the result; the gradient reads x and the result's
    gradient as often, and x is all that is kept for it: with JAX's own rules it was four
    feature maps, and twice the passes (docs/evidence/speed.md).

    Args:
        x: (B, D, H, W, C).
        scale, bias: (C,), or (B, 1, 1, 1, C).
        relu: whether a ReLU follows.

    Returns:
        (B, D, H, W, C), in x's dtype.
    """
    return _instance_norm(x, scale, bias, relu, parts_of(x))


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _instance_norm(x, scale, bias, relu, parts):
    return _forward(x, scale, bias, relu, parts)[0]


def _forward(x, scale, bias, relu, parts):
    def mean_of(values):
        return mean_of_parts(values.mean(SPACE, keepdims=True), parts)

    values = to_float32(x)
    # Sums of differences from a mean of some voxels: the squares of large values would cancel.
    some = tuple(slice(None, None, max(n // _SOME, 1)) for n in x.shape[1:4])
    pivot = mean_of(values[:, *some])
    shift = mean_of(values - pivot)
    variance = mean_of(jnp.square(values - pivot)) - jnp.square(shift)
    mean, rate = pivot + shift, jax.lax.rsqrt(jnp.maximum(variance, 0) + _EPSILON)
    out = (values - mean) * (rate * scale) + bias
    out = jax.nn.relu(out) if relu else out
    return out.astype(x.dtype), (x, mean, rate, scale, bias)


def _backward(relu, parts, kept, gradient):
    x, mean, rate, scale, bias = kept

    def normal_and_gradient(x):
        normal = (to_float32(x) - mean) * rate
        through = to_float32(gradient)
        return normal, jnp.where(normal * scale + bias > 0, through, 0) if relu else through

    normal, through = normal_and_gradient(x)
    of_bias = through.sum(SPACE, keepdims=True)
    of_scale = (through * normal).sum(SPACE, keepdims=True)
    # Again from x: XLA would keep the ReLU's mask between the two passes.
    normal, through = normal_and_gradient(jax.lax.optimization_barrier(x))
    voxels = x.shape[1] * x.shape[2] * x.shape[3]
    mean_through = mean_of_parts(of_bias / voxels, parts)
    mean_along = mean_of_parts(of_scale / voxels, parts)
    of_x = rate * scale * (through - mean_through - normal * mean_along)
    of_scale, of_bias = (_like(g, a) for g, a in ((of_scale, scale), (of_bias, bias)))
    return of_x.astype(x.dtype), of_scale, of_bias


def _like(gradient, argument):
    """A gradient per sample and channel, as the argument has it."""
    whole = gradient if argument.ndim > 1 else gradient.sum((0, *SPACE))
    return whole.astype(argument.dtype)


_instance_norm.defvjp(_forward, _backward)
