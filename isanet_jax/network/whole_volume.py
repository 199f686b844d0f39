"""From a network on patches to a prediction of whole volumes, and its mean over mirror images.

Windows are placed and averaged on the host: it holds volumes of any shape, the device a batch.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def window_starts(size: int, patch: int) -> list[int]:
    """Starts of windows that cover `size` voxels, evenly placed, overlapping by half or more."""
    count = -(-2 * (size - patch) // patch) + 1
    return [round(i * (size - patch) / max(count - 1, 1)) for i in range(count)]


def gaussian_weights(shape) -> np.ndarray:
    """nnU-Net's weights of a window of p voxels along each axis: sigma p/8, 1 at p // 2, never 0.

    Args:
        shape: (3,) of the window.

    Returns:
        float32 of that shape.
    """
    lines = [np.exp(-0.5 * np.square((np.arange(p) - p // 2) / (p / 8))) for p in shape]
    return (lines[0][:, None, None] * lines[1][:, None] * lines[2]).astype(np.float32)


def mirrored(probability: Callable) -> Callable:
    """The mean over the eight mirror images of what (B, D, H, W, images) -> (.., classes) sees."""

    def whole(image):
        def add(total, flips):
            def flip(x):
                for axis in range(3):
                    x = jnp.where(flips[axis], jnp.flip(x, axis + 1), x)
                return x

            return total + flip(probability(flip(image))), None

        flips = jnp.asarray(list(itertools.product((False, True), repeat=3)))
        shape = jax.eval_shape(probability, image).shape
        total, _ = lax.scan(add, jnp.zeros(shape, jnp.float32), flips)
        return total / len(flips)

    return whole


def stitched(
    predict: Callable, shape, window, classes: int, *, batch: int = 1, is_needed=None, progress=None
) -> np.ndarray:
    """Sliding windows with half overlap, averaged with Gaussian weights.

    Args:
        predict: list of (3,) starts -> (n, *window, classes) probability of the windows there.
        shape: (D, H, W) of the volume, at least the window's.
        window: (3,).
        classes: how many.
        batch: windows predicted together; the last ones may be fewer.
        is_needed: start -> whether its window is predicted; what is not stays 0. None: all are.
        progress: called with the number of batches and an iterable of them; returns the iterable.

    Returns:
        (D, H, W, classes) float32. Memory is bounded by a volume of that shape, a window's planes
        and a batch.
    """
    ranges = [window_starts(n, p) for n, p in zip(shape, window, strict=True)]
    places = list(itertools.product(*ranges))
    # A window alone has no weights, so that it is what the network says of that volume.
    weights = gaussian_weights(window) if len(places) > 1 else np.ones(window, np.float32)
    total = np.zeros((*shape, classes), np.float32)
    weight = np.zeros((window[0], *shape[1:], 1), np.float32)  # of the planes from `first` on
    first = 0

    def finish(end):
        """Divides the planes before one, which no later window reaches."""
        nonlocal first
        count = min(end - first, window[0])
        part, of = total[first : first + count], weight[:count]
        np.divide(part, of, out=part, where=of > 0)
        weight[: window[0] - count] = weight[count:]
        weight[window[0] - count :] = 0
        first = end

    starts = [start for start in places if is_needed is None or is_needed(start)]
    groups = [starts[i : i + batch] for i in range(0, len(starts), batch)]
    for group in progress(len(groups), groups) if progress else groups:
        for start, found in zip(group, predict(group), strict=True):
            if start[0] > first:  # starts come from the feet to the head
                finish(start[0])
            box = window_at(start, window)
            total[box] += found * weights[..., None]
            weight[:, *box[1:]] += weights[..., None]
    finish(shape[0])
    return total


def window_at(start, window) -> tuple[slice, ...]:
    """The slices of a window: (3,) start and shape."""
    return tuple(slice(int(a), int(a) + p) for a, p in zip(start, window, strict=True))


def over_windows(
    predict: Callable, images, outside, window, classes: int, *, body=None, mirror=False, **options
) -> np.ndarray:
    """The probability of a case of any shape, by windows over it.

    Args:
        predict: images, name -> (n, *window) -> (n, *window, classes).
        images: name -> (D, H, W); where they are smaller than the window, in its middle.
        outside: name -> value beyond the images.
        window: (3,).
        classes: how many.
        body: (D, H, W) bool; windows without any of it are not predicted: 0 there. None: all are.
        mirror: take the mean over the case's eight mirror images.
        options: `batch` and `progress`, see `stitched`.

    Returns:
        (D, H, W, classes) float32.
    """
    if mirror:
        total = None
        for flips in itertools.product((False, True), repeat=3):
            axes = np.flatnonzero(flips).tolist()
            flipped = {name: np.flip(x, axes) for name, x in images.items()}
            there = None if body is None else np.flip(body, axes)
            found = over_windows(predict, flipped, outside, window, classes, body=there, **options)
            found = np.flip(found, axes)
            total = found if total is None else np.add(total, found, out=total)
        return np.divide(total, 8, out=total)
    shape = next(iter(images.values())).shape
    room = [max(p - n, 0) for n, p in zip(shape, window, strict=True)]
    margins = [((r + 1) // 2, r // 2) for r in room]  # as `isanet_jax.pipeline` places patches
    if any(room):
        images = {
            name: np.pad(x, margins, constant_values=outside[name]) for name, x in images.items()
        }
        body = body if body is None else np.pad(body, margins)
    padded = next(iter(images.values())).shape

    def at(starts):
        boxes = [window_at(start, window) for start in starts]
        return predict({name: np.stack([x[box] for box in boxes]) for name, x in images.items()})

    def is_needed(start):
        return body[window_at(start, window)].any()

    needed = None if body is None else is_needed
    found = stitched(at, padded, window, classes, is_needed=needed, **options)
    return found[tuple(slice(a, a + n) for (a, _), n in zip(margins, shape, strict=True))]
