"""Augmentation and normalisation on the device, inside the compiled step (paper section 3.2)."""

import itertools

import jax
import jax.numpy as jnp

from isanet_jax.cases.grid import AIR_HU


def rotate(x: jax.Array, matrix: jax.Array, *, order: int, fill: float) -> jax.Array:
    """Takes each volume to a grid rotated (or mirrored) about its centre.

    Args:
        x: (B, D, H, W) float32.
        matrix: (B, 3, 3), see `isanet_jax.pipeline.dataset.rotation_matrix`.
        order: 1 linear, 0 nearest.
        fill: value outside.

    Returns:
        (B, D, H, W) float32.
    """
    resample = _linear if order else _nearest

    def one(volume, m):
        return resample(volume, _source_coordinates(volume.shape, m), fill)

    # A single volume is not mapped: on CPU a mapped gather is slower.
    return one(x[0], matrix[0])[None] if len(x) == 1 else jax.vmap(one)(x, matrix)


def _source_coordinates(shape, matrix):
    """Where each voxel of the rotated grid lies in the source: three arrays of `shape`, voxels."""
    centre = [(n - 1) / 2 for n in shape]
    d, h, w = (jnp.arange(n, dtype=matrix.dtype) - c for n, c in zip(shape, centre, strict=True))
    return [
        row[0] * d[:, None, None] + row[1] * h[:, None] + row[2] * w + c
        for row, c in zip(matrix, centre, strict=True)
    ]


# The same as jax.scipy.ndimage.map_coordinates, which takes forty times as long on CPU: it checks
# the bounds of each neighbour that it reads.


def _linear(volume, coordinates, fill):
    """Trilinear values at coordinates; the voxels around the volume hold the fill."""
    shape = volume.shape
    padded = jnp.pad(volume, 1, constant_values=fill).ravel()
    strides = ((shape[1] + 2) * (shape[2] + 2), shape[2] + 2, 1)
    index, fractions = 0, []
    for position, length, stride in zip(coordinates, shape, strides, strict=True):
        values = jnp.clip(position, -1.0, float(length))
        below = jnp.clip(jnp.floor(values), -1, length - 1)  # there is a neighbour above
        index += stride * (below.astype(jnp.int32) + 1)
        fractions.append(values - below)
    values = [
        padded.at[
            index + sum(side * stride for side, stride in zip(corner, strides, strict=True))
        ].get(mode="promise_in_bounds")
        for corner in itertools.product((0, 1), repeat=3)
    ]
    for fraction in fractions:  # along D first, whose two sides are the list's halves
        half = len(values) // 2
        pairs = zip(values[:half], values[half:], strict=True)
        values = [low + fraction * (high - low) for low, high in pairs]
    return values[0]


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


def mirror(x: jax.Array, axes: jax.Array) -> jax.Array:
    """Flips each volume along the axes that are True: x (B, D, H, W), axes (B, 3) bool."""
    for axis in range(3):
        chosen = axes[:, axis, None, None, None]
        x = jnp.where(chosen, jnp.flip(x, axis + 1), x)
    return x


def augment(batch: dict) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rotates and mirrors a batch of `training_data`, image and label alike.

    A rotated volume is mirrored by the rotation's matrix, so that it is read and written once.

    Returns:
        ct (HU), pet (SUV), label (0, 0.5 or 1): (B, D, H, W) float32.
    """
    signs = jnp.where(batch["mirror"], -1.0, 1.0)
    matrix = batch["rotation"] * signs[:, None, :]  # what is at o in the image was at M S o
    volumes = [batch[name] for name in ("ct", "pet", "label")]

    def rotated(volumes):
        settings = ((1, AIR_HU), (1, 0.0), (0, 0.0))
        return [
            rotate(volume, matrix, order=order, fill=fill)
            for volume, (order, fill) in zip(volumes, settings, strict=True)
        ]

    def mirrored(volumes):
        return [mirror(volume, batch["mirror"]) for volume in volumes]

    if len(matrix) > 1:  # the batch may lie on several devices: all do the same
        return tuple(rotated(volumes))
    turns = jnp.any(batch["rotation"] != jnp.eye(3))
    return tuple(jax.lax.cond(turns, rotated, mirrored, volumes))


def normalise(ct_hu: jax.Array, pet_suv: jax.Array) -> jax.Array:
    """The network's input (Eqs. 16-17).

    CT is clipped to [-1024, 1024] HU and divided by 1024; PET has its volume's mean subtracted
    and is divided by its standard deviation.

    Args:
        ct_hu, pet_suv: (B, D, H, W).

    Returns:
        (B, D, H, W, 2) float32; channels (CT, PET).
    """
    ct, pet = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (ct_hu, pet_suv))
    ct = jnp.clip(ct, -1024.0, 1024.0) / 1024.0
    centred = pet - pet.mean((1, 2, 3), keepdims=True)
    variance = jnp.square(centred).mean((1, 2, 3), keepdims=True)
    return jnp.stack([ct, centred * jax.lax.rsqrt(variance + 1e-5)], axis=-1)


def crop_patch(
    image: jax.Array, label: jax.Array, patch: int, *, place: jax.Array, pick: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cuts a patch from each volume, anywhere or around a voxel of the tumour.

    Args:
        image, label: (B, D, H, W, C) and (B, D, H, W).
        patch: edge of the patch, voxels.
        place: (B, 3) in [0, 1), where the patch lies between the volume's ends.
        pick: (B,), below 0: use `place`; in [0, 1): centre on that share of the tumour's voxels
            in memory order, as far as the patch stays in the volume. Without tumour: `place`.

    Returns:
        (B, p, p, p, C) and (B, p, p, p).
    """
    shape = jnp.array(label.shape[1:])

    def one(image, label, place, pick):
        start = jnp.floor(place * (shape - patch + 1)).astype(jnp.int32)
        counts = jnp.cumsum((label > 0).ravel())
        chosen = jnp.searchsorted(counts, jnp.floor(pick * counts[-1]) + 1)
        voxel = jnp.stack(jnp.unravel_index(chosen, label.shape)).astype(jnp.int32)
        around = jnp.clip(voxel - patch // 2, 0, shape - patch)
        start = jnp.where((pick >= 0) & (counts[-1] > 0), around, start)
        size = (patch,) * 3
        return (
            jax.lax.dynamic_slice(image, (*start, 0), (*size, image.shape[-1])),
            jax.lax.dynamic_slice(label, tuple(start), size),
        )

    return jax.vmap(one)(image, label, place, pick)
