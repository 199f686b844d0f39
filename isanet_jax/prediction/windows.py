"""Scans larger than the network's field: windows over the whole scan, at the case's spacing."""

import itertools
from collections.abc import Callable

import numpy as np

from isanet_jax.cases.grid import grid_affine
from isanet_jax.cases.prepare import Settings, resample_images
from isanet_jax.network.whole_volume import gaussian_weights, window_starts
from isanet_jax.volume import Volume, bounds_mm, check_grid


def whole_grid(ct: Volume, settings: Settings) -> tuple[tuple[int, int, int], np.ndarray]:
    """The grid of the settings' spacing that covers a CT's field, at least the network's size.

    Returns:
        shape (D, H, W) and affine. Where the CT is no larger than the network's field, it is the
        grid of `isanet_jax.cases.grid.case_grid`.
    """
    low, high = bounds_mm(ct.data.shape, ct.affine)
    extent = (high - low)[::-1]  # along D, H, W
    counts = np.maximum(np.ceil(extent / settings.spacing_mm - 1e-3).astype(int), settings.size)
    centre = (low + high) / 2
    half = counts[::-1] * settings.spacing_mm / 2
    return tuple(int(n) for n in counts), grid_affine(counts, centre - half, centre + half)


def predict_windows(
    probability: Callable,
    ct: Volume,
    pet: Volume,
    settings: Settings,
    *,
    batch: int,
    progress,
    where: dict | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Tumour probability over a whole CT: windows with half overlap and Gaussian weights.

    Every window is resampled from the scan on its own and normalised as a case of its own, as in
    training. One window, where the CT is no larger, gives what the network says of that case.

    Args:
        probability: (B, D, H, W) HU and SUV -> (B, D, H, W) probability.
        ct, pet: the scan.
        settings: the network's size and spacing.
        batch: windows computed together.
        progress: called with the number of batches and an iterable of them; returns the iterable.
        where: `case` and `file`, for errors.

    Raises:
        DataError: a grid larger than any scan's (see `isanet_jax.volume.check_grid`).

    Returns:
        probability (D, H, W) float32 and its grid's affine. Memory is bounded by two volumes of
        that shape, the batch and the scan.
    """
    shape, affine = whole_grid(ct, settings)
    check_grid(shape, affine, where or {})
    size = settings.size
    places = list(itertools.product(*(window_starts(n, size) for n in shape)))
    weights = gaussian_weights(size) if len(places) > 1 else np.ones((size,) * 3, np.float32)
    total, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    batch = min(batch, len(places))
    groups = [places[i : i + batch] for i in range(0, len(places), batch)]
    for group in progress(len(groups), groups):
        images = [_window(ct, pet, affine, place, size) for place in group]
        images += images[-1:] * (batch - len(group))  # of one shape: compiled once
        predicted = probability(*(np.stack(channel) for channel in zip(*images, strict=True)))
        for place, window in zip(group, predicted, strict=False):
            box = tuple(slice(start, start + size) for start in place)
            total[box] += window * weights
            weight[box] += weights
    return np.divide(total, weight, out=total), affine


def _window(ct, pet, affine, place, size):
    shifted = affine.copy()
    shifted[:3, 3] += affine[:3, :3] @ np.array(place)
    return resample_images(ct, pet, (size,) * 3, shifted)
