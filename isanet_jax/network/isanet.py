"""ISA-Net's wiring (paper section 2.4, Fig. 4)."""

import jax
import jax.numpy as jnp
from flax import nnx

from isanet_jax.errors import ConfigError
from isanet_jax.network.blocks import ISA, Conv, Residual, UpsampleConv
from isanet_jax.network.config import MODALITIES, ModelConfig
from isanet_jax.network.convolution import is_folded, max_pool


def _attention(config, channels, rngs):
    """ISA, or None where the config has no attention."""
    if config.attention == "none":
        return None
    return ISA(
        channels,
        fusion=config.fusion,
        weight_scale=config.weight_scale,
        folded=is_folded(config.convolution),
        rngs=rngs,
    )


class EncoderLevel(nnx.Module):
    """Residual, Residual, attention (the paper's RIPM without its pooling)."""

    def __init__(self, config, inputs, outputs, with_attention, rngs):
        folded = is_folded(config.convolution)
        self.first = Residual(inputs, outputs, folded=folded, rngs=rngs)
        self.second = Residual(outputs, outputs, folded=folded, rngs=rngs)
        self.attention = _attention(config, outputs, rngs) if with_attention else None

    def __call__(self, x):
        x = self.second(self.first(x))
        return x if self.attention is None else self.attention(x)


class Encoder(nnx.Module):
    """One modality's encoder: (B, D, H, W, 1) -> its feature maps, finest first."""

    def __init__(self, config, rngs):
        inputs = (1, *config.widths[:-1])
        self.levels = nnx.List(
            EncoderLevel(
                config,
                inputs[level],
                config.widths[level],
                config.encoder_attention or level == config.levels - 1,
                rngs,
            )
            for level in range(config.levels)
        )
        self.folded = is_folded(config.convolution)

    def __call__(self, x):
        features = []
        for index, level in enumerate(self.levels):
            x = level(max_pool(x, self.folded) if index else x)
            features.append(x)
        return features


class DecoderLevel(nnx.Module):
    """Transposed convolution, concatenation, Residual, attention (the paper's DRIM).

    `parts` is the number of further maps of `outputs` channels that are concatenated.
    """

    def __init__(self, config, inputs, outputs, parts, rngs):
        folded = is_folded(config.convolution)
        self.up = UpsampleConv(inputs, outputs, folded=folded, rngs=rngs)
        self.residual = Residual((1 + parts) * outputs, outputs, folded=folded, rngs=rngs)
        self.attention = _attention(config, outputs, rngs)

    def __call__(self, x, up_weight, parts):
        x = self.residual(jnp.concatenate([up_weight * self.up(x), *parts], axis=-1))
        return x if self.attention is None else self.attention(x)


class Decoder(nnx.Module):
    """Levels L-1 .. 1; each joins the upsampled map with `parts` maps of its level."""

    def __init__(self, config, bottleneck, parts, rngs):
        inputs = (*config.widths[1:-1], bottleneck)
        self.levels = nnx.List(
            DecoderLevel(config, inputs[level], config.widths[level], parts, rngs)
            for level in range(config.levels - 1)
        )

    def __call__(self, bottleneck, up_weight, parts):
        """`parts[level]`: the maps to concatenate. Returns each level's output, finest first."""
        x, outputs = bottleneck, []
        for level in reversed(range(len(self.levels))):
            x = self.levels[level](x, up_weight, parts[level])
            outputs.insert(0, x)
        return outputs


class ISANet(nnx.Module):
    """Two encoders, and decoders that fuse PET into CT level by level.

    Raises:
        ConfigError: on a call with an input of another size than `config.size`.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoders = nnx.Dict({name: Encoder(config, rngs) for name in config.modalities})
        deepest = config.widths[-1]
        if config.decoder == "shared":
            self.decoders = nnx.Dict(shared=Decoder(config, 2 * deepest, 2, rngs))
        elif config.modalities == MODALITIES:
            self.decoders = nnx.Dict(
                pet=Decoder(config, deepest, 1, rngs), ct=Decoder(config, deepest, 2, rngs)
            )
        else:
            only = config.modalities[0]
            self.decoders = nnx.Dict({only: Decoder(config, deepest, 1, rngs)})
        folded = is_folded(config.convolution)
        self.head = Conv(config.width, 1, 1, folded=folded, bias=True, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        """Logits of the tumour.

        Args:
            image: (B, D, H, W, 2) float32; channels (CT, PET), normalised.

        Returns:
            (B, D, H, W) float32.
        """
        size = self.config.size
        if image.ndim != 5 or image.shape[1:] != (size, size, size, len(MODALITIES)):
            raise ConfigError(
                f"the network was built for (B, {size}, {size}, {size}, 2) and got {image.shape}"
            )
        image = image.astype(self.config.dtype)
        channel = MODALITIES.index
        features = {
            name: self.encoders[name](image[..., channel(name), None])
            for name in self.config.modalities
        }
        decoded = self._decode(features)
        return self.head(decoded)[..., 0].astype(jnp.float32)

    def _decode(self, features):
        if len(features) == 1:
            ((name, maps),) = features.items()
            return self.decoders[name](maps[-1], 1.0, [[skip] for skip in maps[:-1]])[0]
        # A factor of exactly 1.0 is a Python number: XLA removes the multiplication.
        weight_ct, weight_pet = self.config.fusion_weights
        ct = [weight_ct * x for x in features["ct"]]
        if self.config.decoder == "shared":
            pet = [weight_pet * x for x in features["pet"]]
            bottleneck = jnp.concatenate([ct[-1], pet[-1]], axis=-1)
            parts = [list(pair) for pair in zip(ct[:-1], pet[:-1], strict=True)]
            return self.decoders["shared"](bottleneck, 1.0, parts)[0]
        pet = features["pet"]
        pet_maps = self.decoders["pet"](pet[-1], 1.0, [[skip] for skip in pet[:-1]])
        parts = [
            [skip, weight_pet * pet_map] for skip, pet_map in zip(ct[:-1], pet_maps, strict=True)
        ]
        return self.decoders["ct"](features["ct"][-1], weight_ct, parts)[0]


def create(config: ModelConfig, key: jax.Array) -> tuple[nnx.GraphDef, nnx.State]:
    """Builds the network: its static structure and its parameters, drawn from `key`."""
    return nnx.split(ISANet(config, rngs=nnx.Rngs(params=key)), nnx.Param)


def apply(graphdef: nnx.GraphDef, params: nnx.State, image: jax.Array) -> jax.Array:
    """Logits (B, D, H, W) of `image` (B, D, H, W, 2): a pure function of its arguments."""
    return nnx.merge(graphdef, params)(image)


def count_parameters(params: nnx.State) -> int:
    """Number of scalars in `params`."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
