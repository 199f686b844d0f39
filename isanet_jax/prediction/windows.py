"""Scans larger than the network's field: windows over the whole scan, at the case's spacing."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from isanet_jax.cases.case import Case
from isanet_jax.cases.grid import as_three, grid_affine
from isanet_jax.cases.images import resample_images, unlabelled_case
from isanet_jax.cases.preparation import Settings
from isanet_jax.network.whole_volume import stitched, window_starts
from isanet_jax.volume import Volume, bounds_mm, check_grid


def whole_grid(reference: Volume, settings: Settings) -> tuple[tuple[int, int, int], np.ndarray]:
    """The grid of the settings' spacing that covers a scan's field, at least the network's size.

    Returns:
        shape (D, H, W) and affine. Where the scan is no larger than the network's field, it is the
        grid of `isanet_jax.cases.grid.case_grid`.
    """
    low, high = bounds_mm(reference.data.shape, reference.affine)
    spacing = np.array(as_three(settings.spacing_mm), float)
    size = np.array(as_three(settings.size))[::-1]  # along the patient's axes
    counts = np.maximum(np.ceil((high - low) / spacing - 1e-3).astype(int), size)
    centre, half = (low + high) / 2, counts * spacing / 2
    shape = tuple(int(n) for n in counts[::-1])
    return shape, grid_affine(shape, centre - half, centre + half)


def predict_windows(
    probability: Callable,
    volumes: Mapping[str, Volume],
    settings: Settings,
    *,
    classes: int,
    batch: int,
    progress=None,
    where: dict | None = None,
    guide: Callable | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Probability over a whole scan: windows with half overlap and Gaussian weights.

    Every window is resampled from the scan on its own and normalised as a case of its own, as in
    training. One window, where the scan is no larger, gives what the network says of that case.

    Args:
        probability: list of `Case` without labels -> (n, D, H, W, classes).
        volumes: the scan's images, by name.
        settings: the network's size and spacing.
        classes: how many.
        batch: windows computed together.
        progress: see `isanet_jax.network.whole_volume.stitched`.
        where: `case` and `file`, for errors.
        guide: (case, affine of its grid) -> the case with maps of clicks; None: there are none.

    Raises:
        DataError: a grid larger than any scan's (see `isanet_jax.volume.check_grid`).

    Returns:
        probability (D, H, W, classes) float32 and its grid's affine. Memory is bounded by two
        volumes of that shape, the batch and the scan.
    """
    shape, affine = whole_grid(next(iter(volumes.values())), settings)
    check_grid(shape, affine, where or {})
    size = as_three(settings.size)

    count = math.prod(len(window_starts(n, p)) for n, p in zip(shape, size, strict=True))
    batch = min(batch, count)

    def predict(starts):
        cases = [_window(volumes, settings, affine, start, guide) for start in starts]
        cases += cases[-1:] * (batch - len(cases))  # of one shape: compiled once
        return probability(cases)[: len(starts)]

    found = stitched(predict, shape, size, classes, batch=batch, progress=progress)
    return found, affine


def _window(volumes, settings, affine, start, guide) -> Case:
    shifted = affine.copy()
    shifted[:3, 3] += affine[:3, :3] @ np.array(start)
    images = resample_images(volumes, settings, as_three(settings.size), shifted)
    case = unlabelled_case(images, settings)
    return case if guide is None else guide(case, shifted)
