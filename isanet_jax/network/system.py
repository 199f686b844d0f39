"""What a system is: declared, given an image, and giving logits."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from isanet_jax.distributed.placement import (
    parts_of,
)
from isanet_jax.errors import ConfigError
from isanet_jax.network.config import ModelConfig


class System(NamedTuple):
    """A system that can be trained; a file's `SYSTEMS` maps the names of its systems to these.

    Attributes:
        description: one line.
        make: constructor (config, *, rngs) of a module (B, D, H, W, images) -> Output.
        width: its own channels of level 1.
        levels: its input's voxels along an axis -> its own number of levels.
        least_levels: fewer cannot work.
        reads: settings of `ModelConfig` that it reads besides those that all do.
        can_split: whether its volumes may be split over devices (`mesh.space`).
        version: raised where the same parameters come to mean something else; checkpoints of
            another version are refused.
    """

    description: str
    make: Callable[..., nnx.Module]
    width: int = 16
    levels: Callable[[int], int] = lambda size: 5
    least_levels: int = 2
    reads: tuple[str, ...] = ()
    can_split: bool = False
    version: int = 1


class Output(NamedTuple):
    """What a system returns: the logits of the classes, and those that only its loss sees.

    Attributes:
        logits: (B, D, H, W, classes) float32.
        auxiliary: (weight, logits) pairs of deep supervision or of a cascade's earlier networks;
            their volumes may be coarser than the image by a whole factor. `logits` weighs 1.
    """

    logits: jax.Array
    auxiliary: tuple[tuple[float, jax.Array], ...] = ()


def network_input(image: jax.Array, config: ModelConfig) -> jax.Array:
    """The config's modalities of the images, in its dtype.

    Args:
        image: (B, D, H, W, images).
        config: of the network.

    Returns:
        (B, D, H, W, modalities).

    Raises:
        ConfigError: images of another size than `config.size`, or of another number.
    """
    depth, height, width = config.shape
    wanted = (depth // parts_of(image), height, width, len(config.images))
    if image.ndim != 5 or image.shape[1:] != wanted:
        raise ConfigError(
            f"the network was built for (B, {depth}, {height}, {width}, {wanted[-1]}) and got "
            f"{image.shape}"
        )
    seen = [config.images.index(name) for name in config.modalities]
    if seen == list(range(seen[0], seen[-1] + 1)):
        return image[..., seen[0] : seen[-1] + 1].astype(config.dtype)
    return jnp.stack([image[..., index] for index in seen], -1).astype(config.dtype)
