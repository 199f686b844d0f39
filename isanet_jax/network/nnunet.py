"""The 3D nnU-Net (Isensee et al. 2021), and Xie and Peng's with their two kinds of attention."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from isanet_jax.network.attention.scse import SCSE
from isanet_jax.network.blocks import (
    Conv,
    InstanceNorm,
    Output,
    System,
    TransposedConv,
    network_input,
    recompute,
)
from isanet_jax.network.config import ModelConfig
from isanet_jax.network.se_norm import SENorm

_MAX_GROWTH = 10  # the widest level has 320 channels where the first has 32


def nnunet_levels(size: int) -> int:
    """nnU-Net's number of levels for a cubic patch: halved while even and at least 8, at most 6."""
    levels = 1
    while size % 2 == 0 and size >= 8 and levels < 6:
        size, levels = size // 2, levels + 1
    return levels


class _Stage(nnx.Module):
    """Two (convolution 3^3 -> norm -> LeakyReLU 0.01), then the attention, if any."""

    def __init__(self, inputs, outputs, *, stride, config, norm, bias, attention, rngs):
        make = {"form": config.convolution, "bias": bias, "rngs": rngs}
        self.convs = nnx.List(
            [Conv(inputs, outputs, 3, stride=stride, **make), Conv(outputs, outputs, 3, **make)]
        )
        self.norms = nnx.List([norm(outputs, rngs), norm(outputs, rngs)])
        self.attention = attention and attention(outputs, config, rngs=rngs)

    def __call__(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.leaky_relu(norm(conv(x)), 0.01)
        return x if self.attention is None else self.attention(x)


class NNUNet(nnx.Module):
    """Strided convolutions down, transposed convolutions up, two convolutions per stage.

    With `config.deep_supervision`, every decoder level but the coarsest is supervised, with half
    the weight of the level above.

    Args:
        norm: (channels, rngs) -> module.
        bias: whether the stages' convolutions have one; instance norm would remove it.
        up_bias: whether the transposed ones have.
        attention: module of isanet_jax/network/attention after each stage, or None.
    """

    def __init__(
        self, config: ModelConfig, norm, attention, *, bias=False, up_bias=False, rngs: nnx.Rngs
    ):
        self.config = config
        widths = [config.width * min(2**level, _MAX_GROWTH) for level in range(config.levels)]
        make = {"config": config, "norm": norm, "bias": bias, "attention": attention, "rngs": rngs}
        inputs = (len(config.modalities), *widths[:-1])
        self.encoder = nnx.List(
            _Stage(a, b, stride=2 if level else 1, **make)
            for level, (a, b) in enumerate(zip(inputs, widths, strict=True))
        )
        self.up = nnx.List(
            TransposedConv(b, a, bias=up_bias, rngs=rngs) for a, b in itertools.pairwise(widths)
        )
        self.decoder = nnx.List(_Stage(2 * w, w, stride=1, **make) for w in widths[:-1])
        supervised = max(config.levels - 2, 1) if config.deep_supervision else 1
        form = config.convolution
        self.heads = nnx.List(
            Conv(w, config.classes, 1, form=form, bias=True, rngs=rngs) for w in widths[:supervised]
        )

    def __call__(self, image: jax.Array) -> Output:
        """`image`: (B, D, H, W, images) float32, normalised."""
        x = network_input(image, self.config)
        skips = []
        for stage in self.encoder:
            x = recompute(stage, self.config, "block", "level")(x)
            skips.append(x)
        skips.pop()
        logits = [None] * len(self.heads)
        for level in reversed(range(len(skips))):
            joined = jnp.concatenate([self.up[level](x), skips[level]], axis=-1)
            x = recompute(self.decoder[level], self.config, "block", "level")(joined)
            if level < len(self.heads):
                logits[level] = self.heads[level](x).astype(jnp.float32)
        coarser = tuple((0.5**level, out) for level, out in enumerate(logits) if level)
        return Output(logits[0], coarser)


def nnunet(config: ModelConfig, *, rngs: nnx.Rngs) -> NNUNet:
    """nnU-Net's own network (its `PlainConvUNet`)."""
    make_norm = lambda channels, rngs: InstanceNorm(channels)  # noqa: E731
    return NNUNet(config, make_norm, None, bias=True, up_bias=True, rngs=rngs)


def xie2020(config: ModelConfig, *, rngs: nnx.Rngs) -> NNUNet:
    """nnU-Net with scSE after each stage (HECKTOR 2020, third)."""
    return NNUNet(config, lambda channels, rngs: InstanceNorm(channels), SCSE, rngs=rngs)


def xie2021(config: ModelConfig, *, rngs: nnx.Rngs) -> NNUNet:
    """nnU-Net with SE-Norm in place of instance norm (HECKTOR 2021, first).

    SE-Norm looks at the mean that a bias shifts: nnU-Net's biases stay (version 2).
    """
    make_norm = lambda channels, rngs: SENorm(channels, rngs=rngs)  # noqa: E731
    return NNUNet(config, make_norm, None, bias=True, rngs=rngs)


_OWN = {"reads": ("deep_supervision",), "width": 32, "levels": nnunet_levels}
SYSTEMS = {
    "nnunet": System("nnU-Net's plain network", nnunet, **_OWN),
    "xie2020": System("nnU-Net with scSE, HECKTOR 2020", xie2020, **_OWN),
    "xie2021": System("nnU-Net with SE-Norm, HECKTOR 2021", xie2021, **_OWN, version=2),
}
