"""Augmentation and normalisation on the device, inside the compiled step (paper section 3.2)."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp


def rotate(
    x: jax.Array, matrix: jax.Array, centre: jax.Array, shape, *, order: int, fill: jax.Array
) -> jax.Array:
    """Takes each volume to a grid rotated (or mirrored) about a point of it.

    Args:
        x: (B, D, H, W) float32; of order 0, any type.
        matrix: (B, 3, 3), see `isanet_jax.pipeline.dataset.rotation_matrix`.
        centre: (B, 3) voxels of x, where the centre of the grid lies.
        shape: (3,) of the grid.
        order: 1 linear, 0 nearest.
        fill: (B,) value outside, of the type of x.

    Returns:
        (B, *shape) of the type of x.
    """
    resample = _linear if order else _nearest

    def one(volume, m, c, value):
        return resample(volume, _source_coordinates(shape, m, c), value)

    if len(x) == 1:  # a single volume is not mapped: on CPU a mapped gather is slower
        return one(x[0], matrix[0], centre[0], fill[0])[None]
    return jax.vmap(one)(x, matrix, centre, fill)


def _source_coordinates(shape, matrix, centre):
    """Where each voxel of the rotated grid lies in the source: three arrays of `shape`, voxels."""
    middle = [(n - 1) / 2 for n in shape]
    d, h, w = (jnp.arange(n, dtype=matrix.dtype) - c for n, c in zip(shape, middle, strict=True))
    return [
        row[0] * d[:, None, None] + row[1] * h[:, None] + row[2] * w + c
        for row, c in zip(matrix, centre, strict=True)
    ]


# The same as jax.scipy.ndimage.map_coordinates, which takes forty times as long on CPU: it checks
# the bounds of each neighbour that it reads.


def _linear(volume, coordinates, fill):
    """Trilinear values at coordinates; the voxels around the volume hold the fill."""
    strides = (volume.shape[1] * volume.shape[2], volume.shape[2], 1)
    sides, inside = [], 1.0
    for position, length in zip(coordinates, volume.shape, strict=True):
        below = jnp.floor(position)
        fraction = position - below
        # Of a voxel beyond the volume another is read, with no weight: no padded copy is made.
        neighbours = ((below, 1 - fraction), (below + 1, fraction))
        kept = [(jnp.clip(voxel, 0, length - 1), voxel, weight) for voxel, weight in neighbours]
        sides.append([(k.astype(jnp.int32), jnp.where(k == v, w, 0)) for k, v, w in kept])
        inside *= sum(weight for _, weight in sides[-1])
    flat, value = jnp.ravel(volume), fill * (1 - inside)
    for corner in itertools.product(*sides):
        index = sum(voxel * stride for (voxel, _), stride in zip(corner, strides, strict=True))
        weight = math.prod(weight for _, weight in corner)
        value += weight * flat.at[index].get(mode="promise_in_bounds")
    return value


def _nearest(volume, coordinates, fill):
    """Values of the voxels nearest to coordinates (halves round up); the fill outside."""
    strides = (volume.shape[1] * volume.shape[2], volume.shape[2], 1)
    index, inside = 0, True
    for position, length, stride in zip(coordinates, volume.shape, strides, strict=True):
        nearest = jnp.floor(position + 0.5)
        kept = jnp.clip(nearest, 0, length - 1)
        index += stride * kept.astype(jnp.int32)
        inside &= nearest == kept
    return jnp.where(inside, volume.ravel().at[index].get(mode="promise_in_bounds"), fill)


def mirror(volumes, start: jax.Array, shape, axes: jax.Array):
    """Cuts a part out of volumes, and flips it along the axes that are True.

    Each of the eight ways is a function of its own, so that a volume is read and written once.

    Args:
        volumes: tree of (1, D, H, W).
        start: (3,) int32, of the part.
        shape: (3,) of the part.
        axes: (3,) bool.

    Returns:
        Tree of (1, *shape).
    """

    def way(flipped):
        def of_volume(x):
            if x.shape[1:] != tuple(shape):
                x = jax.lax.dynamic_slice(x, (0, *start), (1, *shape))
            return jnp.flip(x, [axis + 1 for axis in range(3) if flipped[axis]])

        return functools.partial(jax.tree.map, of_volume)

    ways = [way(flipped) for flipped in itertools.product((False, True), repeat=3)]
    return jax.lax.switch(axes @ jnp.array([4, 2, 1]), ways, volumes)


def augment(batch: dict, shape) -> tuple[dict, dict, jax.Array | None]:
    """Rotates, scales and mirrors a batch of `training_data`, images and labels alike.

    Images but the first are moved against it, where the batch says how.

    A rotated volume is mirrored by the rotation's matrix, so that it is read and written once.

    Args:
        batch: see `isanet_jax.pipeline.dataset.training_data`.
        shape: (3,) of what is made of each element: the volume, or the patch around `centre`.

    Returns:
        images: name -> (B, *shape) float32; labels: class -> (B, *shape) float32, 0, 0.5 or 1;
        ignored: (B, *shape), above 0 where nothing is known, or None.
    """
    signs = jnp.where(batch["mirror"], -1.0, 1.0)
    matrix = batch["rotation"] * signs[:, None, :]  # what is at o in the image was at M S o
    volumes = {"images": batch["images"], "labels": batch["labels"]}
    if "ignored" in batch:
        volumes["ignored"] = batch["ignored"]
    zeros = jnp.zeros(len(matrix), jnp.uint8)
    centre = batch["centre"]

    moved, shift = batch.get("misalignment", {}), batch.get("shift", {})

    def rotated(volumes):
        def label(x):
            return rotate(x, matrix, centre, shape, order=0, fill=zeros)

        images = {}
        for name, x in volumes["images"].items():
            place = matrix, centre
            if name in moved:
                place = moved[name] @ matrix, centre + shift[name]
            images[name] = rotate(x, *place, shape, order=1, fill=batch["outside"][name])
        return jax.tree.map(label, volumes) | {"images": images}

    def mirrored(volumes):
        # What is read has room for a rotation: the patch lies around its centre.
        start = jnp.round(centre[0] - (jnp.array(shape) - 1) / 2).astype(jnp.int32)
        return mirror(volumes, start, shape, batch["mirror"][0])

    if len(matrix) > 1:  # the batch may lie on several devices: all do the same
        found = rotated(volumes)
    else:
        turns = jnp.any(batch["rotation"] != jnp.eye(3))
        for name in moved:
            turns |= jnp.any(moved[name] != jnp.eye(3)) | jnp.any(shift[name] != 0)
        found = jax.lax.cond(turns, rotated, mirrored, volumes)
    labels = {name: twice.astype(matrix.dtype) * 0.5 for name, twice in found["labels"].items()}
    return found["images"], labels, found.get("ignored")
