"""Squeeze and excitation (Hu et al. 2018)."""

import jax
from flax import nnx

from isanet_jax.network.backbone import two_branch
from isanet_jax.network.blocks import MLP, global_mean, scale_channels
from isanet_jax.network.config import ModelConfig


def reduced(channels: int, ratio: int = 16) -> int:
    """Hidden units of a gate: channels / ratio, at least 4."""
    return max(channels // ratio, 4)


class ChannelGate(nnx.Module):
    """Channels scaled by sigmoid(FC(relu(FC(global mean)))), C -> hidden -> C."""

    def __init__(self, channels, hidden, *, rngs):
        self.perceptron = MLP(channels, hidden, channels, rngs=rngs)

    def __call__(self, x):
        return scale_channels(x, jax.nn.sigmoid(self.perceptron(global_mean(x))))


class SE(nnx.Module):
    """The channel gate with r = 16 and at least 4 hidden units."""

    def __init__(self, channels, config: ModelConfig, *, rngs):
        self.gate = ChannelGate(channels, reduced(channels), rngs=rngs)

    def __call__(self, x):
        return self.gate(x)


SYSTEMS = {"se": two_branch("the backbone with squeeze-excitation", SE)}
