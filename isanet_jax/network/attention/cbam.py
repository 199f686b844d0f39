"""Convolutional block attention module (Woo et al. 2018), in 3D."""

import jax
import jax.numpy as jnp
from flax import nnx

from isanet_jax.network.attention.se import reduced
from isanet_jax.network.backbone import two_branch
from isanet_jax.network.blocks import (
    MLP,
    SPACE,
    Conv,
    InstanceNorm,
    global_mean,
    scale_channels,
)
from isanet_jax.network.config import ModelConfig


class CBAM(nnx.Module):
    """A channel gate, then a spatial gate.

    Channels: one perceptron (r = 16, at least 4 units) on the means and on the maxima, summed.
    Space: convolution 7^3 without bias of (maximum, mean) over the channels, then instance norm.
    """

    def __init__(self, channels, config: ModelConfig, *, rngs):
        self.perceptron = MLP(channels, reduced(channels), channels, rngs=rngs)
        self.conv = Conv(2, 1, 7, form=config.convolution, rngs=rngs)
        self.norm = InstanceNorm(1)

    def __call__(self, x):
        largest = x.max(SPACE).astype(jnp.float32)
        gate = self.perceptron(global_mean(x)) + self.perceptron(largest)
        x = scale_channels(x, jax.nn.sigmoid(gate))
        pooled = jnp.concatenate([x.max(-1, keepdims=True), x.mean(-1, keepdims=True)], -1)
        return x * jax.nn.sigmoid(self.norm(self.conv(pooled)))


SYSTEMS = {"cbam": two_branch("the backbone with CBAM", CBAM)}
