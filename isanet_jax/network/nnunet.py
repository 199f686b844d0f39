"""The 3D nnU-Net (Isensee et al. 2021), and Xie and Peng's with their two kinds of attention."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from isanet_jax.network.attention.scse import SCSE
from isanet_jax.network.blocks import (
    Conv,
    InstanceNorm,
    TransposedConv,
    averaged,
    output_convolution,
)
from isanet_jax.network.config import ModelConfig
from isanet_jax.network.recompute import recompute
from isanet_jax.network.se_norm import SENorm
from isanet_jax.network.system import Output, System, network_input

_BLOCKS = (1, 3, 4, 6, 6, 6)  # residual ones of each level
_MAX_GROWTH = 10  # the widest level has 320 channels where the first has 32


def nnunet_levels(size: int) -> int:
    """nnU-Net's number of levels for a cubic patch: halved while even and at least 8, at most 6."""
    levels = 1
    while size % 2 == 0 and size >= 8 and levels < 6:
        size, levels = size // 2, levels + 1
    return levels


class _Stage(nnx.Module):
    """(Convolution -> norm -> LeakyReLU 0.01), twice or `count` times, then the attention.

    At `level`, whose kernels it has; from the level above, by a stride, where it `goes_down`.
    """

    def __init__(
        self, inputs, outputs, level, *, goes_down, config, norm, bias, attention, rngs, count=2
    ):
        make = {"form": config.convolution, "bias": bias, "rngs": rngs}
        size, stride = config.level_kernels[level], config.level_strides[level] if goes_down else 1
        first = Conv(inputs, outputs, size, stride=stride, **make)
        others = [Conv(outputs, outputs, size, **make) for _ in range(count - 1)]
        self.convs = nnx.List([first, *others])
        self.norms = nnx.List([norm(outputs, rngs) for _ in range(count)])
        self.attention = attention and attention(outputs, config, rngs=rngs)

    def __call__(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.leaky_relu(norm(conv(x)), 0.01)
        return x if self.attention is None else self.attention(x)


class _ResidualBlock(nnx.Module):
    """Two convolutions with norm and LeakyReLU, and a path past them (nnU-Net's `BasicBlockD`).

    The path is averaged where the block has a stride, and a convolution 1^3 with norm where it
    changes the channels (He et al. 2019, ResNet-D).
    """

    def __init__(self, inputs, outputs, level, *, goes_down, config, norm, bias, rngs):
        make = {"form": config.convolution, "rngs": rngs}
        size, stride = (
            config.level_kernels[level],
            config.level_strides[level] if goes_down else (1, 1, 1),
        )
        self.convs = nnx.List(
            [
                Conv(inputs, outputs, size, stride=stride, bias=bias, **make),
                Conv(outputs, outputs, size, bias=bias, **make),
            ]
        )
        self.norms = nnx.List([norm(outputs, rngs), norm(outputs, rngs)])
        changes = inputs != outputs
        self.skip = Conv(inputs, outputs, 1, bias=False, **make) if changes else None
        self.skip_norm = norm(outputs, rngs) if changes else None
        self.stride = stride

    def __call__(self, x):
        past = x if self.stride == (1, 1, 1) else averaged(x, self.stride)
        if self.skip is not None:
            past = self.skip_norm(self.skip(past))
        x = jax.nn.leaky_relu(self.norms[0](self.convs[0](x)), 0.01)
        return jax.nn.leaky_relu(self.norms[1](self.convs[1](x)) + past, 0.01)


class NNUNet(nnx.Module):
    """Strided convolutions down, transposed convolutions up, two convolutions per stage.

    Each level has its own strides and kernels, where the config says so.

    With `blocks`, nnU-Net's residual encoder: a convolution before the first stage, residual blocks
    in each, and one convolution a stage in the decoder.

    With `config.deep_supervision`, every decoder level but the coarsest is supervised, with half
    the weight of the level above.

    Args:
        norm: (channels, rngs) -> module.
        bias: whether the stages' convolutions have one; instance norm would remove it.
        up_bias: whether the transposed ones have.
        blocks: residual blocks of each level of the encoder; None: two plain convolutions.
        attention: module of isanet_jax/network/attention after each stage, or None.
    """

    def __init__(
        self,
        config: ModelConfig,
        norm,
        attention,
        *,
        bias=False,
        up_bias=False,
        blocks=None,
        rngs: nnx.Rngs,
    ):
        self.config = config
        widths = [config.width * min(2**level, _MAX_GROWTH) for level in range(config.levels)]
        make = {"config": config, "norm": norm, "bias": bias, "attention": attention, "rngs": rngs}
        inputs = (len(config.modalities), *widths[:-1])
        if blocks is None:
            self.stem = None
            self.encoder = nnx.List(
                _Stage(a, b, level, goes_down=True, **make)
                for level, (a, b) in enumerate(zip(inputs, widths, strict=True))
            )
        else:
            self.stem = _Stage(inputs[0], widths[0], 0, goes_down=False, count=1, **make)
            make_block = {name: make[name] for name in ("config", "norm", "bias", "rngs")}
            self.encoder = nnx.List(
                nnx.List(
                    _ResidualBlock(
                        a if number == 0 else b, b, level, goes_down=number == 0, **make_block
                    )
                    for number in range(count)
                )
                for level, (a, b, count) in enumerate(
                    zip((widths[0], *widths[:-1]), widths, blocks, strict=True)
                )
            )
        self.up = nnx.List(
            TransposedConv(b, a, stride=stride, bias=up_bias, rngs=rngs)
            for (a, b), stride in zip(
                itertools.pairwise(widths), config.level_strides[1:], strict=True
            )
        )
        count = 2 if blocks is None else 1
        self.decoder = nnx.List(
            _Stage(2 * w, w, level, goes_down=False, count=count, **make)
            for level, w in enumerate(widths[:-1])
        )
        supervised = max(config.levels - 2, 1) if config.deep_supervision else 1
        self.heads = nnx.List(output_convolution(w, config, rngs=rngs) for w in widths[:supervised])

    def __call__(self, image: jax.Array) -> Output:
        """`image`: (B, D, H, W, images) float32, normalised."""
        x = network_input(image, self.config)
        x = x if self.stem is None else self.stem(x)
        skips = []
        for stage in self.encoder:
            for part in [stage] if self.stem is None else stage:
                x = recompute(part, self.config, "block", "level")(x)
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


def _instance_norm(channels, rngs):
    return InstanceNorm(channels)


def nnunet(config: ModelConfig, *, rngs: nnx.Rngs) -> NNUNet:
    """nnU-Net's own network (its `PlainConvUNet`)."""
    return NNUNet(config, _instance_norm, None, bias=True, up_bias=True, rngs=rngs)


def nnunet_resenc(config: ModelConfig, *, rngs: nnx.Rngs) -> NNUNet:
    """nnU-Net's network with a residual encoder (its `ResidualEncoderUNet`)."""
    blocks = [*_BLOCKS, *[_BLOCKS[-1]] * config.levels][: config.levels]
    make = {"bias": True, "up_bias": True, "blocks": blocks, "rngs": rngs}
    return NNUNet(config, _instance_norm, None, **make)


def xie2020(config: ModelConfig, *, rngs: nnx.Rngs) -> NNUNet:
    """nnU-Net with scSE after each stage (HECKTOR 2020, third)."""
    return NNUNet(config, _instance_norm, SCSE, rngs=rngs)


def xie2021(config: ModelConfig, *, rngs: nnx.Rngs) -> NNUNet:
    """nnU-Net with SE-Norm in place of instance norm (HECKTOR 2021, first).

    SE-Norm looks at the mean that a bias shifts: nnU-Net's biases stay (version 2).
    """
    make_norm = lambda channels, rngs: SENorm(channels, rngs=rngs)  # noqa: E731
    return NNUNet(config, make_norm, None, bias=True, rngs=rngs)


_OWN = {
    "reads": ("deep_supervision", "strides", "kernels"),
    "width": 32,
    "levels": nnunet_levels,
}
SYSTEMS = {
    "nnunet": System("nnU-Net's plain network", nnunet, **_OWN),
    "nnunet_resenc": System("nnU-Net's network with residual encoder", nnunet_resenc, **_OWN),
    "xie2020": System("nnU-Net with scSE, HECKTOR 2020", xie2020, **_OWN),
    "xie2021": System("nnU-Net with SE-Norm, HECKTOR 2021", xie2021, **_OWN, version=2),
}
