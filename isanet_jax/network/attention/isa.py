"""Improved spatial attention (paper sections 2.2-2.3)."""

import jax
import jax.numpy as jnp
from flax import nnx

from isanet_jax.errors import ConfigError
from isanet_jax.network.attention.se import ChannelGate
from isanet_jax.network.backbone import two_branch
from isanet_jax.network.blocks import SPACE, Conv, ConvBlock, to_float32
from isanet_jax.network.config import ModelConfig


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
    height, width = q.shape[2:4]
    if height != width:
        raise ConfigError(
            f"model.fusion {fusion!r} multiplies square slices, and these are {height} x {width}; "
            "use model.fusion 'product' or a cubic size"
        )
    precise = jnp.promote_types(q.dtype, jnp.float32)
    fused = jnp.einsum("bdhic,bdiwc->bdhwc", q, k, preferred_element_type=precise)
    return fused / width**0.5 if fusion == "matmul_scaled" else fused


class ISA(nnx.Module):
    """Improved spatial attention (Eqs. 4-8); the output has the input's shape.

    `weight_scale` "sum" lets the weights of a channel sum to 1 over the volume (as printed),
    "mean" multiplies them by the number of voxels.
    """

    def __init__(self, channels, config: ModelConfig, *, rngs):
        form = config.convolution
        self.channel_gate = ChannelGate(channels, 2 * channels, rngs=rngs)  # Eqs. 2-3
        self.query = ConvBlock(channels, channels, 3, form=form, rngs=rngs)
        self.key = ConvBlock(channels, channels, 5, form=form, rngs=rngs)
        self.value = ConvBlock(channels, channels, 1, form=form, rngs=rngs)
        self.output = Conv(2 * channels, channels, 1, form=form, bias=config.bias, rngs=rngs)
        self.fusion, self.weight_scale = config.fusion, config.weight_scale
        self.reading = config.reading

    def __call__(self, x):
        attended = self.channel_gate(x)
        fused = fuse(self.query(attended), self.key(attended), self.fusion)
        # float32 whatever the compute dtype: a sum over millions of voxels.
        weight = jax.nn.softmax(fused, axis=SPACE)
        if self.weight_scale == "mean":
            weight = weight * (x.shape[1] * x.shape[2] * x.shape[3])
        weighted = weight.astype(x.dtype) * self.value(attended)
        output = self.output(jnp.concatenate([weighted, x], axis=-1))
        return jax.nn.relu(output) if self.reading == "text" else output


_READS = ("encoder_attention", "fusion", "weight_scale")
SYSTEMS = {"isa": two_branch("ISA-Net (Huang 2022)", ISA, reads=_READS)}
