"""The paper's two-branch network (section 2.4, Fig. 4), and the residual U-Net it is made of.

What stands at the attention's sites is an argument: ISA makes it ISA-Net, nothing makes it the
U-Net of Table 2.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from isanet_jax.distributed.placement import whole_if_half_is
from isanet_jax.network.blocks import Residual, UpsampleConv, output_convolution, to_float32
from isanet_jax.network.config import ModelConfig
from isanet_jax.network.convolution import gradients_together, max_pool
from isanet_jax.network.recompute import recompute, recompute_elementwise
from isanet_jax.network.system import Output, System, network_input


class EncoderLevel(nnx.Module):
    """Residual, Residual, attention (the paper's RIPM without its pooling)."""

    def __init__(self, config, in_features, out_features, attention, rngs):
        self.config = config
        form = config.convolution
        self.first = Residual(in_features, out_features, form=form, rngs=rngs)
        self.second = Residual(out_features, out_features, form=form, rngs=rngs)
        self.attention = attention and attention(out_features, config, rngs=rngs)

    def __call__(self, x):
        return recompute(self._blocks, self.config, "level")(x)

    def _blocks(self, x):
        # The two together: between them nothing is kept, and the attention needs more than both.
        x = recompute(lambda x: self.second(self.first(x)), self.config, "block")(x)
        return x if self.attention is None else recompute(self.attention, self.config, "block")(x)


class Encoder(nnx.Module):
    """An encoder of `channels` images: (B, D, H, W, channels) -> its feature maps, finest first."""

    def __init__(self, config, channels, attention, rngs):
        inputs = (channels, *config.widths[:-1])
        self.levels = nnx.List(
            EncoderLevel(
                config,
                inputs[level],
                config.widths[level],
                attention if config.encoder_attention or level == config.levels - 1 else None,
                rngs,
            )
            for level in range(config.levels)
        )
        self.config = config

    def __call__(self, x):
        features = []
        for index, level in enumerate(self.levels):
            if index:
                x = recompute_elementwise(max_pool, self.config)(whole_if_half_is(x))
            x = level(x)
            features.append(x)
        return features


class DecoderLevel(nnx.Module):
    """Transposed convolution, concatenation, Residual (two as the text says), attention: DRIM.

    `parts` is the number of further maps of `out_features` channels that are concatenated.
    """

    def __init__(self, config, in_features, out_features, parts, attention, *, rngs):
        self.config = config
        form = config.convolution
        self.up = UpsampleConv(in_features, out_features, form=form, bias=config.bias, rngs=rngs)
        self.residual = Residual((1 + parts) * out_features, out_features, form=form, rngs=rngs)
        has_second = config.reading == "text"
        self.second = (
            Residual(out_features, out_features, form=form, rngs=rngs) if has_second else None
        )
        self.attention = attention and attention(out_features, config, rngs=rngs)

    def __call__(self, x, up_weight, parts):
        # The weight stays a Python number, which XLA removes where it is 1.
        return recompute(partial(self._blocks, up_weight), self.config, "level")(x, parts)

    def _blocks(self, up_weight, x, parts):
        def join(x, parts):
            maps = gradients_together(up_weight * self.up(x), *parts)
            x = self.residual(maps)
            return x if self.second is None else self.second(x)

        x = recompute(join, self.config, "block")(x, parts)
        return x if self.attention is None else recompute(self.attention, self.config, "block")(x)


class Decoder(nnx.Module):
    """Levels L-1 .. 1; each joins the upsampled map with `parts` maps of its level."""

    def __init__(self, config, bottleneck, parts, attention, rngs):
        inputs = (*config.widths[1:-1], bottleneck)
        self.levels = nnx.List(
            DecoderLevel(config, inputs[level], config.widths[level], parts, attention, rngs=rngs)
            for level in range(config.levels - 1)
        )

    def __call__(self, bottleneck, up_weight, parts):
        """`parts[level]`: the maps to concatenate. Returns each level's output, finest first."""
        x, outputs = bottleneck, []
        for level in reversed(range(len(self.levels))):
            x = self.levels[level](x, up_weight, parts[level])
            outputs.insert(0, x)
        return outputs


class ResidualUNet(nnx.Module):
    """One encoder and one decoder without attention.

    (B, D, H, W, channels) -> (B, D, H, W, classes).
    """

    def __init__(self, config: ModelConfig, channels, rngs):
        self.encoder = Encoder(config, channels, None, rngs)
        self.decoder = Decoder(config, config.widths[-1], 1, None, rngs)
        self.head = output_convolution(config.width, config, rngs=rngs)

    def __call__(self, x):
        maps = self.encoder(x)
        decoded = self.decoder(maps[-1], 1.0, [[skip] for skip in maps[:-1]])[0]
        return to_float32(self.head(decoded))


class TwoBranchNet(nnx.Module):
    """An encoder and a decoder for each image, which fuse each into the one before it.

    With CT and PET, as in the paper: the decoder of PET first, whose maps that of CT takes in level
    by level. With more images, the last one's decoder is the first, and takes in nothing.

    `attention` is a module of isanet_jax/network/attention, or None.
    """

    def __init__(self, config: ModelConfig, attention, *, rngs: nnx.Rngs):
        self.config = config
        self.encoders = nnx.Dict(
            {name: Encoder(config, 1, attention, rngs) for name in config.modalities}
        )
        deepest, last = config.widths[-1], config.modalities[-1]
        if config.decoder == "shared":
            count = len(config.modalities)
            shared = Decoder(config, count * deepest, count, attention, rngs)
            self.decoders = nnx.Dict(shared=shared)
        else:
            self.decoders = nnx.Dict(
                {
                    name: Decoder(config, deepest, 1 if name == last else 2, attention, rngs)
                    for name in reversed(config.modalities)
                }
            )
        self.head = output_convolution(config.width, config, bias=config.bias, rngs=rngs)

    def __call__(self, image: jax.Array) -> Output:
        """`image`: (B, D, H, W, images) float32, normalised."""
        image = network_input(image, self.config)
        features = {
            name: self.encoders[name](image[..., index, None])
            for index, name in enumerate(self.config.modalities)
        }
        return Output(to_float32(self.head(self._decode(features))))

    def _decode(self, features):
        # A factor of exactly 1.0 is a Python number: XLA removes the multiplication.
        weights = dict(zip(self.config.images, self.config.fusion_weights, strict=True))
        if self.config.decoder == "shared":
            weighted = [[weights[name] * x for x in maps] for name, maps in features.items()]
            bottleneck = jnp.concatenate([maps[-1] for maps in weighted], axis=-1)
            parts = [list(level) for level in zip(*(maps[:-1] for maps in weighted), strict=True)]
            return self.decoders["shared"](bottleneck, 1.0, parts)[0]
        *others, last = features
        *skips, deepest = features[last]
        decoded = self.decoders[last](deepest, 1.0, [[skip] for skip in skips])
        for name in reversed(others):
            *skips, deepest = features[name]
            own, other = weights[name], weights[last]
            parts = [[own * skip, other * x] for skip, x in zip(skips, decoded, strict=True)]
            decoded, last = self.decoders[name](deepest, own, parts), name
        return decoded[0]


def two_branch(
    description: str, attention, *, reads=("encoder_attention",), can_split=False
) -> System:
    """The two-branch network with an attention module, or None, at its sites.

    Args:
        description: one line.
        attention: a module of isanet_jax/network/attention, or None.
        reads: the settings that the module reads, and that decide where it stands.
        can_split: see `System`.
    """
    make = partial(TwoBranchNet, attention=attention)
    reads = ("decoder", "fusion_weights", "reading", *reads)
    return System(description, make, reads=reads, can_split=can_split)


SYSTEMS = {
    "unet": two_branch("ISA-Net's backbone without attention", None, reads=(), can_split=True)
}
