"""Augmentation and normalisation on the device, inside the compiled step (paper section 3.2)."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from isanet_jax.cases.grid import AIR_HU


def mixup(a: jax.Array, b: jax.Array, weight: jax.Array) -> jax.Array:
    """Eq. 18: (1 - weight) a + weight b; a, b (B, D, H, W), weight (B,)."""
    weight = weight[:, None, None, None]
    return (1 - weight) * a.astype(jnp.float32) + weight * b.astype(jnp.float32)


def rotate(x: jax.Array, matrix: jax.Array, *, order: int, fill: float) -> jax.Array:
    """Rotates each volume about its centre.

    Args:
        x: (B, D, H, W) float32.
        matrix: (B, 3, 3), see `isanet_jax.pipeline.dataset.rotation_matrix`.
        order: 1 linear, 0 nearest.
        fill: value outside.

    Returns:
        (B, D, H, W) float32.
    """
    shape = x.shape[1:]
    centre = jnp.array([(n - 1) / 2 for n in shape], jnp.float32)
    offsets = jnp.indices(shape, jnp.float32) - centre[:, None, None, None]

    def one(volume, m):
        coordinates = jnp.einsum("ij,jdhw->idhw", m, offsets, precision="highest")
        coordinates += centre[:, None, None, None]
        return map_coordinates(volume, coordinates, order, mode="constant", cval=fill)

    return jax.vmap(one)(x, matrix)


def mirror(x: jax.Array, axes: jax.Array) -> jax.Array:
    """Flips each volume along the axes that are True: x (B, D, H, W), axes (B, 3) bool."""
    for axis in range(3):
        chosen = axes[:, axis, None, None, None]
        x = jnp.where(chosen, jnp.flip(x, axis + 1), x)
    return x


def augment(batch: dict) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mixes, rotates and mirrors a batch of `training_data`, image and label alike.

    Mixup comes first: rotating the mixture is rotating both parts by the same angles, at half
    the cost.

    Returns:
        ct (HU), pet (SUV), label (0, 0.5 or 1): (B, D, H, W) float32.
    """
    volumes = []
    for name, order, fill in (("ct", 1, AIR_HU), ("pet", 1, 0.0), ("label", 0, 0.0)):
        mixed = mixup(batch[name], batch[f"partner_{name}"], batch["partner_weight"])
        rotated = rotate(mixed, batch["rotation"], order=order, fill=fill)
        volumes.append(mirror(rotated, batch["mirror"]))
    return tuple(volumes)


def normalise(ct_hu: jax.Array, pet_suv: jax.Array) -> jax.Array:
    """The network's input (Eqs. 16-17).

    CT is clipped to [-1024, 1024] HU and divided by 1024; PET has its volume's mean subtracted
    and is divided by its standard deviation.

    Args:
        ct_hu, pet_suv: (B, D, H, W).

    Returns:
        (B, D, H, W, 2) float32; channels (CT, PET).
    """
    ct = jnp.clip(ct_hu.astype(jnp.float32), -1024.0, 1024.0) / 1024.0
    pet = pet_suv.astype(jnp.float32)
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
