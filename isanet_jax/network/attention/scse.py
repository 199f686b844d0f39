"""Concurrent spatial and channel squeeze and excitation (Roy et al. 2018)."""

import jax
import jax.numpy as jnp
from flax import nnx

from isanet_jax.network.attention.se import ChannelGate
from isanet_jax.network.blocks import Conv
from isanet_jax.network.config import ModelConfig


class SCSE(nnx.Module):
    """The larger of x scaled per channel (r = 2) and x scaled per voxel (1^3 convolution)."""

    def __init__(self, channels, config: ModelConfig, *, rngs):
        self.channel = ChannelGate(channels, max(channels // 2, 1), rngs=rngs)
        self.space = Conv(channels, 1, 1, form=config.convolution, bias=True, rngs=rngs)

    def __call__(self, x):
        return jnp.maximum(self.channel(x), x * jax.nn.sigmoid(self.space(x)))
