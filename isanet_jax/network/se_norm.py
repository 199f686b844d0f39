"""Squeeze-and-excitation normalisation (Iantsen et al. 2020), of iantsen2020 and xie2021."""

import jax
import jax.numpy as jnp
from flax import nnx

from isanet_jax.network.blocks import MLP, global_mean, instance_norm


class SENorm(nnx.Module):
    """gamma x instance norm (without affine) + beta, both from the input's global mean.

    gamma = sigmoid, beta = tanh of two perceptrons C -> C/2 -> C, which start as the original's.
    """

    def __init__(self, channels, *, rngs):
        hidden = max(channels // 2, 1)
        self.gamma = MLP(channels, hidden, channels, uniform=True, rngs=rngs)
        self.beta = MLP(channels, hidden, channels, uniform=True, rngs=rngs)

    def __call__(self, x):
        pooled = global_mean(x)
        gamma = jax.nn.sigmoid(self.gamma(pooled))[:, None, None, None, :]
        beta = jnp.tanh(self.beta(pooled))[:, None, None, None, :]
        return instance_norm(x, gamma, beta)
