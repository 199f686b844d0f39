"""An et al. 2021: a coarse-to-fine cascade of three residual U-Nets (HECKTOR 2021, second).

The three are one function of the image and train together, each from its own loss: no gradient
crosses from one to the next. At 144^3 and 1 mm, the first sees the volume at 2 mm, the others a
box of 96^3 at 1 mm around what the first has found.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from isanet_jax.network.backbone import ResidualUNet
from isanet_jax.network.blocks import halved
from isanet_jax.network.config import ModelConfig
from isanet_jax.network.system import Output, System, network_input

# The first network is to miss nothing: its box holds whatever is not clearly background.
BOX_THRESHOLD = 0.2
OUTSIDE_LOGIT = -10.0


def box_size(size: int, step: int) -> int:
    """Edge of the box: two thirds of the volume's, rounded to a multiple of `step` voxels."""
    return min(max(round(2 * size / (3 * step)), 1) * step, size)


def box_start(mask: jax.Array, box: Sequence[int], shape: Sequence[int]) -> jax.Array:
    """Where the box begins that is centred on each mask's centre of mass, within the volume.

    The mean, not the middle between the mask's ends (version 1): one false voxel far off would
    move the box away from the tumour.

    Args:
        mask: (B, d, h, w) bool, on a grid as wide as the volume; may be coarser. Empty: the
            box is in the middle.
        box, shape: voxels of the box and of the volume (D, H, W).

    Returns:
        (B, 3) int32, in the volume's voxels.
    """
    starts = []
    for axis, edge, size in zip((1, 2, 3), box, shape, strict=True):
        length = mask.shape[axis]
        line = mask.sum(tuple(i for i in (1, 2, 3) if i != axis), dtype=jnp.float32)
        count = line.sum(1)
        mean = (line * (jnp.arange(length) + 0.5)).sum(1) / jnp.maximum(count, 1)
        centre = jnp.where(count > 0, mean, length / 2) * (size // length)
        # A thousandth against rounding errors: a mask of whole voxels has a centre at halves.
        start = jnp.floor(centre - edge / 2 + 1e-3).astype(jnp.int32)
        starts.append(jnp.clip(start, 0, size - edge))
    return jnp.stack(starts, 1)


def crop(x: jax.Array, start: jax.Array, box: Sequence[int]) -> jax.Array:
    """(B, D, H, W, C) -> (B, *box, C), each sample from its own start (B, 3)."""
    shape = (*box, x.shape[-1])
    return jax.vmap(lambda v, s: lax.dynamic_slice(v, (*s, 0), shape))(x, start)


def paste(x: jax.Array, start: jax.Array, shape: Sequence[int], fill: float) -> jax.Array:
    """The inverse of `crop`, to (B, *shape, C): `fill` outside the box."""
    empty = jnp.full((*shape, x.shape[-1]), fill, x.dtype)
    return jax.vmap(lambda v, s: lax.dynamic_update_slice(empty, v, (*s, 0)))(x, start)


class Cascade(nnx.Module):
    """Coarse network on the halved volume -> box -> fine network -> refining network.

    The refining network sees the fine one's probabilities as further images. `config.levels` counts
    the volume's own resolution, which the coarse network does not see: each of the three has one
    level less.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        half = tuple(size // 2 for size in config.shape)
        parts = dataclasses.replace(config, levels=config.levels - 1, size=half)
        inputs = len(config.modalities)
        self.coarse = ResidualUNet(parts, inputs, rngs)
        self.fine = ResidualUNet(parts, inputs, rngs)
        self.refine = ResidualUNet(parts, inputs + config.classes, rngs)
        self.box = tuple(box_size(size, 2 ** (config.levels - 2)) for size in config.shape)

    def __call__(self, image: jax.Array) -> Output:
        """`image`: (B, D, H, W, images) float32, normalised."""
        image = network_input(image, self.config)
        d, h, w = image.shape[1:4]
        coarse = self.coarse(halved(image))
        is_tumour = (jax.nn.sigmoid(lax.stop_gradient(coarse)) >= BOX_THRESHOLD).any(-1)
        start = box_start(is_tumour, self.box, (d, h, w))
        inside = crop(image, start, self.box)
        fine = self.fine(inside)
        mask = jax.nn.sigmoid(lax.stop_gradient(fine)).astype(inside.dtype)
        refined = self.refine(jnp.concatenate([inside, mask], axis=-1))
        fine, refined = (paste(x, start, (d, h, w), OUTSIDE_LOGIT) for x in (fine, refined))
        return Output(refined, ((1.0, fine), (1.0, coarse)))


SYSTEMS = {
    "an2021": System(
        "cascade of three residual U-Nets, HECKTOR 2021", Cascade, least_levels=3, version=2
    )
}
