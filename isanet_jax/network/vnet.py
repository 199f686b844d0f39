"""V-Net (Milletari et al. 2016), in its authors' later variant with fewer convolutions."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from isanet_jax.network.blocks import (
    Conv,
    InstanceNorm,
    StridedConv,
    TransposedConv,
    output_convolution,
)
from isanet_jax.network.config import ModelConfig
from isanet_jax.network.recompute import recompute
from isanet_jax.network.system import Output, System, network_input

# Convolutions per stage, finest first; a fifth level and more have two.
_DOWN, _UP = (1, 2, 3, 2), (1, 1, 2, 2)


class _Normed(nnx.Module):
    """A convolution without bias -> instance norm.

    Instance norm for the original's batch norm: the batch is one volume. It removes any bias.
    """

    def __init__(self, conv, channels):
        self.conv = conv
        self.norm = InstanceNorm(channels)

    def __call__(self, x):
        return self.norm(self.conv(x))


class _Activated(_Normed):
    """The same -> ELU."""

    def __call__(self, x):
        return jax.nn.elu(super().__call__(x))


def _stage(channels, count, form, rngs):
    return nnx.List(
        _Activated(Conv(channels, channels, 5, form=form, rngs=rngs), channels)
        for _ in range(count)
    )


class VNet(nnx.Module):
    """Encoder and decoder of 5^3 convolutions with a residual sum per stage.

    The first stage adds the input, repeated to `width` channels, to its convolution before the
    activation (version 2; version 1 activated the convolution before the sum, too).
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        form = config.convolution
        inputs = len(config.modalities)
        widths = config.widths
        down = (*_DOWN, *[2] * config.levels)[: config.levels - 1]
        up = (*_UP, *[2] * config.levels)[: config.levels - 1]
        wide = [2 * w for w in widths[:-1]]  # upward stages: the level's width and its skip's
        below = (*wide[1:], widths[-1])
        self.first = _Normed(Conv(inputs, widths[0], 5, form=form, rngs=rngs), widths[0])
        self.halve = nnx.List(
            _Activated(StridedConv(a, b, rngs=rngs), b) for a, b in itertools.pairwise(widths)
        )
        self.down = nnx.List(
            _stage(w, n, form, rngs) for w, n in zip(widths[1:], down, strict=True)
        )
        self.double = nnx.List(
            _Activated(TransposedConv(a, b // 2, rngs=rngs), b // 2)
            for a, b in zip(below, wide, strict=True)
        )
        self.up = nnx.List(_stage(w, n, form, rngs) for w, n in zip(wide, up, strict=True))
        outputs = config.classes + 1  # V-Net's own: with the background
        self.last = _Activated(Conv(wide[0], outputs, 5, form=form, rngs=rngs), outputs)
        self.head = output_convolution(outputs, config, rngs=rngs)

    def __call__(self, image: jax.Array) -> Output:
        """`image`: (B, D, H, W, images) float32, normalised."""
        image = network_input(image, self.config)
        width = self.config.width
        repeated = jnp.tile(image, -(-width // image.shape[-1]))[..., :width]
        x = jax.nn.elu(self.first(image) + repeated)
        skips = []
        for halve, stage in zip(self.halve, self.down, strict=True):
            skips.append(x)
            x = self._residual(halve(x), stage)
        for level in reversed(range(len(skips))):
            joined = jnp.concatenate([self.double[level](x), skips[level]], axis=-1)
            x = self._residual(joined, self.up[level])
        return Output(self.head(self.last(x)).astype(jnp.float32))

    def _residual(self, x, stage):
        def blocks(x):
            out = x
            for conv in stage:
                out = conv(out)
            return jax.nn.elu(x + out)

        return recompute(blocks, self.config, "block", "level")(x)


SYSTEMS = {"vnet": System("V-Net (Milletari 2016)", VNet, version=2)}
