"""3D convolution on CPUs by the Toom-Cook algorithm along the depth.

A slice of the output is a sum over k slices of the input, each convolved in 2D. Toom-Cook gets m
neighbouring slices out of m + k - 1 2D convolutions in place of m k: of combinations of the input
slices, with combinations of the kernel's, combined to the output again. It is the one-dimensional
case of what is known as Winograd convolution (Lavin and Gray 2016). With m = 4 results differ from
the plain sum by a few 1e-6 of their size in float32.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_DIMENSIONS_2D = ("NHWC", "HWIO", "NHWC")
_FEW_CHANNELS = 8  # below the width of a vector register


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv3d_by_points(x, kernel, outputs):
    """3D convolution with kernel k^3, zero-padded, stride 1.

    Args:
        x: (B, D, H, W, C), not bfloat16.
        kernel: (k, k, k, C, O), k odd.
        outputs: m, the slices computed together; divides D. (m + k - 1) / m 2D convolutions take
            the place of k: for m = 4 and k = 5, two of five.

    Returns:
        (B, D, H, W, O).
    """
    size = kernel.shape[0]
    to_outputs, of_kernel, of_inputs = toom_cook(outputs, size)
    points = outputs + size - 1
    batch, depth, height, width, channels = x.shape
    tiles, half = depth // outputs, size // 2
    # Slice i of every tile's window; a window reaches into the next tiles.
    more = -(-(size - 1) // outputs) * outputs
    padded = jnp.pad(x.reshape(batch, depth, -1), ((0, 0), (half, more - half), (0, 0))).reshape(
        batch, -1, outputs, height * width * channels
    )
    window = [padded[:, i // outputs :, i % outputs][:, :tiles] for i in range(points)]
    kernels = jnp.einsum("ps,shwco->phwco", of_kernel.astype(kernel.dtype), kernel)
    products = [
        _conv2d(
            _combine(of_inputs[point], window).reshape(-1, height, width, channels), kernels[point]
        ).reshape(batch, tiles, -1)
        for point in range(points)
    ]
    slices = [_combine(to_outputs[index], products) for index in range(outputs)]
    return jnp.stack(slices, 2).reshape(batch, depth, height, width, -1)


def _forward(x, kernel, outputs):
    return conv3d_by_points(x, kernel, outputs), (x, kernel)


def _backward(outputs, saved, gradient):
    x, kernel = saved
    size = kernel.shape[0]
    batch, depth, height, width, _ = x.shape
    to_outputs, of_kernel, of_inputs = toom_cook(outputs, size)
    points, tiles, half = outputs + size - 1, depth // outputs, size // 2
    of_x = conv3d_by_points(gradient, jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4), outputs)
    # The same transforms as matrices over the whole depth: a matrix product's result is stored,
    # where sums of slices would be computed again by each of the loops that then transpose them.
    windows = np.zeros((points, tiles, depth + size - 1), np.float32)
    of_windows = np.zeros((points, tiles, depth), np.float32)
    for tile in range(tiles):
        start = tile * outputs
        windows[:, tile, start : start + points] = of_inputs
        of_windows[:, tile, start : start + outputs] = to_outputs.T
    windows = windows[:, :, half : half + depth]
    kernels = []
    for point in range(points):
        values, wanted = (
            jnp.tensordot(
                matrix[point].astype(a.dtype), a.reshape(batch, depth, -1), ((1,), (1,))
            ).reshape(tiles * batch, height, width, -1)
            for matrix, a in ((windows, x), (of_windows, gradient))
        )
        empty = jnp.zeros((*kernel.shape[1:],), kernel.dtype)
        kernels.append(jax.vjp(lambda k, v=values: _conv2d(v, k), empty)[1](wanted)[0])
    stacked = jnp.stack(kernels)
    return of_x, jnp.einsum("ps,phwco->shwco", of_kernel.astype(kernel.dtype), stacked)


conv3d_by_points.defvjp(_forward, _backward)


def _combine(factors, arrays):
    """The sum of factors x arrays, without the terms that are zero."""
    terms = [a if f == 1 else float(f) * a for f, a in zip(factors, arrays, strict=True) if f]
    return functools.reduce(jnp.add, terms)


def _conv2d(x, kernel):
    """2D convolution, zero-padded; pairs of voxels along W are joined where channels are few."""
    size = kernel.shape[0]
    half = size // 2
    pairs = 2 if kernel.shape[2] <= _FEW_CHANNELS >= kernel.shape[3] and x.shape[2] % 2 == 0 else 1
    if pairs == 1:
        return lax.conv_general_dilated(
            x, kernel, (1, 1), ((half, half),) * 2, dimension_numbers=_DIMENSIONS_2D
        )
    count, height, width, channels = x.shape
    reach = (half + 1) // 2  # pairs on either side that a pair's outputs see
    taps = 4 * reach + 2
    first = 2 * reach - half  # tap of the first output's first input
    joined = jnp.stack(
        [
            jnp.pad(kernel, ((0, 0), (first + o, taps - size - first - o), (0, 0), (0, 0)))
            for o in range(2)
        ],
        axis=3,
    )
    out = lax.conv_general_dilated(
        x.reshape(count, height, width // 2, 2 * channels),
        joined.reshape(size, taps // 2, 2 * channels, -1),
        (1, 1),
        ((half, half), (reach, reach)),
        dimension_numbers=_DIMENSIONS_2D,
    )
    return out.reshape(count, height, width, -1)


@functools.cache
def toom_cook(outputs: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices A (m, n), G (n, r), B (n, n) with y = A ((G g) * (B x)) the correlation of x and g.

    n = m + r - 1 products in place of m r: the Toom-Cook algorithm at the points 0, 1, -1, 2, -2,
    1/2, -1/2 and infinity (Winograd 1980; Lavin and Gray 2016, "F(m, r)").

    Args:
        outputs: m, of y.
        taps: r, of g; x has n values.
    """
    n = outputs + taps - 1
    points = np.array([0, 1, -1, 2, -2, 0.5, -0.5][: n - 1])

    def vandermonde(columns):
        finite = points[:, None] ** np.arange(columns)
        return np.concatenate([finite, np.eye(columns)[-1:]])

    # Interpolation of the product of two polynomials, transposed: a correlation.
    of_inputs = np.linalg.inv(vandermonde(n)).T
    of_inputs[np.abs(of_inputs) < 1e-12] = 0
    # Each point's values are of the size of x: the scale goes to the kernel, which is small.
    scale = np.abs(of_inputs).max(1, keepdims=True)
    return vandermonde(outputs).T, vandermonde(taps) * scale, of_inputs / scale
