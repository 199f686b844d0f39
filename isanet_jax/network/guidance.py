"""A reader's clicks as further images: two for each class, "here" and "not here".

A click is a Gaussian around its voxel, the highest of them where several meet. In training, clicks
are drawn from the network's own errors, within the compiled step; each sample is learnt from
without clicks, too, so that the network without them is as good as one that knows none.

A network answers a click at its place; that the mask is too small, or too large, around it, is told
to the answer by `lift_of`.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SIGMA = 2.0  # voxels
MOST = 10  # clicks that are drawn for a sample
_DEPTH = 3  # times that an error's 3³ neighbours are averaged: its inner part counts most
_APART = 2.0  # voxels around a click in which no other is drawn
PREFIX = "guidance"
LIFT = "lift"  # begins the names of `lift_of`'s arrays among a case's images
# Of `lift_of`: logits at a click; the Gaussian's sigma in distances from the click to the mask's
# surface; the largest of these. With 1.5 times as much docs/evidence/clicks.md hardly changes.
LIFTS = {"logit": 2.0, "width": 3.0, "furthest_mm": 15.0}


def names(classes: int) -> tuple[str, ...]:
    """Of the maps, as arrays of a batch are called: class by class, here and not here."""
    return tuple(f"{PREFIX}{number}" for number in range(2 * classes))


def maps_of(
    shape: Sequence[int], clicks: Mapping[str, tuple[Sequence, Sequence]], classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """The maps of given clicks: name (`names`) -> (D, H, W) float32.

    Args:
        shape: (D, H, W) of the grid.
        clicks: class -> (voxels that it is at, voxels that it is not at), (n, 3) each.
        classes: in the network's order.
    """
    maps = []
    for name in classes:
        for points in clicks.get(name, ((), ())):
            total = np.zeros(shape, np.float32)
            for point in np.asarray(points, float).reshape(-1, 3):
                axes = [
                    np.exp(-0.5 * np.square((np.arange(n) - at) / SIGMA))
                    for n, at in zip(shape, point, strict=True)
                ]
                total = np.maximum(total, np.einsum("i,j,k->ijk", *axes).astype(np.float32))
            maps.append(total)
    return dict(zip(names(len(classes)), maps, strict=True))


def lift_of(
    mask: np.ndarray, here: Sequence, away: Sequence, spacing_mm: Sequence[float]
) -> np.ndarray:
    """What clicks add to the logits of a class, (D, H, W) float32.

    A Gaussian around each, the wider the further it lies from the surface of the mask that the
    network made without clicks: that far the mask is wrong there, at least.

    Args:
        mask: (D, H, W) bool, without clicks.
        here, away: (n, 3) voxels where the class is, and where it is not.
        spacing_mm: (3,) of the grid.
    """
    spacing_mm = np.asarray(spacing_mm, float)
    total = np.zeros(mask.shape, np.float32)
    for points, wanted, sign in ((here, True, 1), (away, False, -1)):
        for point in np.asarray(points, float).reshape(-1, 3):
            width_mm = LIFTS["width"] * _distance_mm(mask, point, wanted, spacing_mm)
            axes = [
                np.exp(-0.5 * np.square((np.arange(n) - at) * mm / width_mm), dtype=np.float32)
                for n, at, mm in zip(mask.shape, point, spacing_mm, strict=True)
            ]
            total += np.einsum("i,j,k->ijk", *axes) * np.float32(sign * LIFTS["logit"])
    return total


def _distance_mm(mask, point, wanted, spacing_mm):
    """From a click to the nearest voxel of the mask that is as it wants, a voxel at least."""
    furthest = LIFTS["furthest_mm"]
    reach = np.ceil(furthest / spacing_mm).astype(int)
    at = np.rint(point).astype(int)
    low, high = np.clip(at - reach, 0, None), np.clip(at + reach + 1, 0, mask.shape)
    near = np.argwhere(mask[tuple(map(slice, low, high))] == wanted) + low - point
    found = np.linalg.norm(near * spacing_mm, axis=1).min(initial=furthest)
    return max(found, float(spacing_mm.mean()))


def lifted(probability: np.ndarray, lift: np.ndarray) -> np.ndarray:
    """Probabilities with what clicks add to their logits, the same shape, float32."""
    odds = np.exp(-lift)
    return probability / (probability + (1 - probability) * odds)


def with_maps(image: jax.Array, images: Mapping[str, jax.Array], classes: int) -> jax.Array:
    """The network's input with the maps that are given, else with none: zeros.

    Args:
        image: (B, D, H, W, channels).
        images: may have the maps by `names`, (B, D, H, W).
        classes: how many; 0: the network knows no clicks.
    """
    if not classes:
        return image
    none = jnp.zeros(image.shape[:-1], image.dtype)
    maps = [images.get(name, none).astype(image.dtype) for name in names(classes)]
    return jnp.concatenate([image, jnp.stack(maps, -1)], axis=-1)


def drawn_maps(key: jax.Array, logits: jax.Array, label: jax.Array) -> jax.Array:
    """Maps of clicks that are drawn where the network errs without any.

    A click lies in an error's inner part, the likelier the deeper: its place is the highest of
    the error's depth, weighted by noise (Gumbel). In a miss it says "here", else "not here".

    Args:
        key: of this step.
        logits: (B, D, H, W, classes) of the network without clicks.
        label: the same shape, 1 where the class is.

    Returns:
        (B, D, H, W, 2 classes) float32.
    """
    batch, classes = label.shape[0], label.shape[-1]
    keys = jax.random.split(key, (batch, classes))
    wrong = (logits > 0) != (label > 0.5)
    one = jax.vmap(jax.vmap(_drawn, in_axes=(0, -1, -1), out_axes=-1))  # (B, D, H, W, 2, classes)
    maps = one(keys, wrong, label > 0.5)
    return jnp.swapaxes(maps, -1, -2).reshape(*label.shape[:-1], 2 * classes)


def _drawn(key, wrong, label):
    """(D, H, W, 2) of one sample and class."""
    of_count, of_noise = jax.random.split(key)
    count = jax.random.randint(of_count, (), 1, MOST + 1)
    depth = wrong.astype(jnp.float32)
    for _ in range(_DEPTH):
        depth = _averaged(depth)
    noise = jax.random.gumbel(of_noise, wrong.shape)
    score = jnp.where(wrong, 4 * jnp.log(depth + 1e-6) + noise, -jnp.inf)
    grid = [jnp.arange(n, dtype=jnp.float32) for n in wrong.shape]

    def add(step, carry):
        maps, score = carry
        best = jnp.argmax(score)
        place = jnp.stack(jnp.unravel_index(best, wrong.shape)).astype(jnp.float32)
        squared = [jnp.square(g - p) for g, p in zip(grid, place, strict=True)]
        far = squared[0][:, None, None] + squared[1][None, :, None] + squared[2][None, None]
        is_used = (step < count) & jnp.isfinite(score.ravel()[best])
        ball = jnp.where(is_used, jnp.exp(-0.5 * far / SIGMA**2), 0.0)
        is_here = label.ravel()[best]
        here = jnp.maximum(maps[..., 0], jnp.where(is_here, ball, 0.0))
        away = jnp.maximum(maps[..., 1], jnp.where(is_here, 0.0, ball))
        score = jnp.where(far <= _APART**2, -jnp.inf, score)
        return jnp.stack([here, away], -1), score

    empty = jnp.zeros((*wrong.shape, 2), jnp.float32)
    return lax.fori_loop(0, MOST, add, (empty, score))[0]


def _averaged(x):
    """The mean over each voxel's 3³ neighbours; 0 outside."""
    for axis in range(3):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(3)]
        padded = jnp.pad(x, pad)
        n = x.shape[axis]
        x = sum(lax.slice_in_dim(padded, k, k + n, axis=axis) for k in range(3)) / 3
    return x
