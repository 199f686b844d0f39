"""Selective kernels (Li et al. 2019)."""

import jax
import jax.numpy as jnp
from flax import nnx

from isanet_jax.errors import ConfigError
from isanet_jax.network.attention.se import reduced
from isanet_jax.network.backbone import two_branch
from isanet_jax.network.blocks import MLP, ConvBlock, global_mean, scale_channels
from isanet_jax.network.config import ModelConfig

_GROUPS = 4  # of the authors' 3D version


class SK(nnx.Module):
    """Two 3^3 grouped convolution blocks, dilation 1 and 2, weighed against each other per channel.

    The weights are a softmax over the branches of a perceptron (C -> max(C/4, 4) -> 2C) on the
    global mean of their sum.

    Raises:
        ConfigError: channels that the groups do not divide.
    """

    def __init__(self, channels, config: ModelConfig, *, rngs):
        if channels % _GROUPS:
            raise ConfigError(
                f"model.width is {config.width}; sk's grouped convolutions need a multiple of "
                f"{_GROUPS}"
            )
        self.branches = nnx.List(
            ConvBlock(
                channels, channels, 3, form=config.convolution, dilation=dilation,
                groups=_GROUPS, rngs=rngs,
            )
            for dilation in (1, 2)
        )  # fmt: skip
        self.perceptron = MLP(channels, reduced(channels, 4), 2 * channels, rngs=rngs)

    def __call__(self, x):
        maps = [branch(x) for branch in self.branches]
        scores = self.perceptron(global_mean(sum(maps)))
        weights = jax.nn.softmax(jnp.stack(jnp.split(scores, 2, -1)), axis=0)
        return sum(scale_channels(m, w) for m, w in zip(maps, weights, strict=True))


SYSTEMS = {"sk": two_branch("the backbone with selective kernels", SK)}
