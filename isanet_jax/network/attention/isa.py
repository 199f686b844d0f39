"""Improved spatial attention (paper sections 2.2-2.3)."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from isanet_jax.distributed.placement import parts_of
from isanet_jax.errors import ConfigError
from isanet_jax.network.attention.se import ChannelGate
from isanet_jax.network.backbone import two_branch
from isanet_jax.network.blocks import Conv, ConvBlock, softmax_over_volume
from isanet_jax.network.config import ModelConfig
from isanet_jax.network.instance_norm import to_float32
from isanet_jax.network.recompute import recompute_elementwise


def fuse(q: jax.Array, k: jax.Array, fusion: str) -> jax.Array:
    """Eq. 5, query and key joined into U, all (B, D, H, W, C); U is float32 at least.

    The softmax that follows takes differences of U, which bfloat16 would round to whole numbers.
    `matmul` is the H x W matrix product of each channel's depth slices, `matmul_scaled` the same
    over sqrt(W), `product` element-wise.

    Raises:
        ConfigError: a matrix product of slices that are not square.
    """
    if fusion == "product":
        return to_float32(q) * to_float32(k)
    _check_square(q.shape[2:4], fusion)
    width = q.shape[3]
    precise = jnp.promote_types(q.dtype, jnp.float32)
    # Channels before space, as they lie on a GPU: then the batched product moves nothing.
    q, k = (jnp.moveaxis(a, -1, 1) for a in (q, k))
    fused = jnp.moveaxis(jnp.matmul(q, k, preferred_element_type=precise), 1, -1)
    return fused / width**0.5 if fusion == "matmul_scaled" else fused


def _check_square(slices, fusion):
    height, width = slices
    if height != width:
        raise ConfigError(
            f"model.fusion {fusion!r} multiplies square slices, and these are {height} x {width} "
            "(H x W); use model.fusion 'product', or a patch or size with H = W"
        )


class ISA(nnx.Module):
    """Improved spatial attention (Eqs. 4-8); the output has the input's shape.

    `weight_scale` "sum" lets the weights of a channel sum to 1 over the volume (as printed),
    "mean" multiplies them by the number of voxels. "sigmoid" is not of the paper: each weight is
    the logistic function of its own U, between one half and 1.
    """

    def __init__(self, channels, config: ModelConfig, *, rngs):
        if config.fusion != "product":  # before anything is compiled
            _check_square(config.shape[1:], config.fusion)
        form = config.convolution
        self.channel_gate = ChannelGate(channels, 2 * channels, rngs=rngs)  # Eqs. 2-3
        self.query = ConvBlock(channels, channels, 3, form=form, rngs=rngs)
        self.key = ConvBlock(channels, channels, 5, form=form, rngs=rngs)
        self.value = ConvBlock(channels, channels, 1, form=form, rngs=rngs)
        self.output = Conv(2 * channels, channels, 1, form=form, bias=config.bias, rngs=rngs)
        self.config = config

    def __call__(self, x):
        attended = self.channel_gate(x)
        # What is kept for the gradients are the convolutions and U: all else follows from them.
        query, key, value = (c.conv(attended) for c in (self.query, self.key, self.value))
        fused = recompute_elementwise(self._fuse, self.config)(query, key)
        output = recompute_elementwise(self._weight, self.config)(fused, value, x)
        return jax.nn.relu(output) if self.config.reading == "text" else output

    def _fuse(self, query, key):
        return fuse(self.query.norm(query), self.key.norm(key), self.config.fusion)

    def _weight(self, fused, value, x):
        # float32 whatever the compute dtype: a sum over millions of voxels.
        is_gate = self.config.weight_scale == "sigmoid"
        weight = jax.nn.sigmoid(fused) if is_gate else softmax_over_volume(fused)
        if self.config.weight_scale == "mean":
            weight = weight * (parts_of(value) * math.prod(value.shape[1:4]))
        return self.output([weight.astype(x.dtype) * self.value.norm(value), x])


_READS = ("encoder_attention", "fusion", "weight_scale")
SYSTEMS = {"isa": two_branch("ISA-Net (Huang 2022)", ISA, reads=_READS, can_split=True)}
