"""Iantsen et al. 2020: U-Net with residual layers and SE normalisation (HECKTOR 2020, first)."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from isanet_jax.network.blocks import Conv, UpsampleConv, output_convolution
from isanet_jax.network.config import ModelConfig
from isanet_jax.network.convolution import max_pool
from isanet_jax.network.instance_norm import SPACE
from isanet_jax.network.recompute import recompute
from isanet_jax.network.se_norm import SENorm
from isanet_jax.network.system import Output, System, network_input


class _Block(nnx.Module):
    """Convolution with bias -> ReLU -> SE-Norm."""

    def __init__(self, in_features, out_features, size, *, form, rngs):
        self.conv = Conv(in_features, out_features, size, form=form, bias=True, rngs=rngs)
        self.norm = SENorm(out_features, rngs=rngs)

    def __call__(self, x):
        return self.norm(jax.nn.relu(self.conv(x)))


class _Residual(nnx.Module):
    """A block plus its input, through a 1^3 block where the channels change."""

    def __init__(self, in_features, out_features, size, *, form, rngs):
        self.body = _Block(in_features, out_features, size, form=form, rngs=rngs)
        changes = in_features != out_features
        self.shortcut = (
            _Block(in_features, out_features, 1, form=form, rngs=rngs) if changes else None
        )

    def __call__(self, x):
        return self.body(x) + (x if self.shortcut is None else self.shortcut(x))


class Iantsen2020(nnx.Module):
    """Residual encoder, plain decoder, and paths from its inner levels to the finest one.

    A path is a 1^3 block to `width` channels, brought to full size by trilinear interpolation; the
    paths are added between the two blocks of the decoder's finest level.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        make = {"form": config.convolution, "rngs": rngs}
        widths = config.widths
        inputs = len(config.modalities)
        first = nnx.List(
            [
                _Residual(inputs, widths[0], 7, **make),
                _Residual(widths[0], widths[0], 3, **make),
            ]
        )
        deeper = [
            nnx.List(_Residual(c, outputs, 3, **make) for c in (above, outputs, outputs))
            for above, outputs in itertools.pairwise(widths)
        ]
        self.encoder = nnx.List([first, *deeper])
        self.up = nnx.List(
            UpsampleConv(below, w, **make) for w, below in itertools.pairwise(widths)
        )
        self.decoder = nnx.List(
            nnx.List([_Block(2 * w, w, 3, **make), _Block(w, w, 3, **make)]) for w in widths[:-1]
        )
        self.paths = nnx.List(_Block(w, widths[0], 1, **make) for w in widths[1:-1])
        self.head = output_convolution(widths[0], config, rngs=rngs)

    def __call__(self, image: jax.Array) -> Output:
        """`image`: (B, D, H, W, images) float32, normalised."""
        x = network_input(image, self.config)
        skips = []
        for level, stage in enumerate(self.encoder):
            x = max_pool(x) if level else x
            for block in stage:
                x = recompute(block, self.config, "block", "level")(x)
            skips.append(x)
        skips.pop()
        paths = []
        for level in reversed(range(len(skips))):
            x = jnp.concatenate([self.up[level](x), skips[level]], axis=-1)
            x = recompute(self.decoder[level][0], self.config, "block", "level")(x)
            if level:
                x = recompute(self.decoder[level][1], self.config, "block", "level")(x)
                paths.append(enlarge(self.paths[level - 1](x), 2**level))
        x = self.decoder[0][1](sum(paths, x))
        return Output(self.head(x).astype(jnp.float32))


def enlarge(x: jax.Array, factor: int) -> jax.Array:
    """Trilinear interpolation to `factor` (even) times the size, voxel edges aligned.

    Sums of neighbours in place of `jax.image.resize`'s matrix products, for some of which XLA's
    compiler for GPUs finds no way.
    """
    for axis in SPACE:
        last = x.shape[axis] - 1
        before = jnp.concatenate(
            [lax.slice_in_dim(x, 0, 1, axis=axis), lax.slice_in_dim(x, 0, last, axis=axis)], axis
        )
        after = jnp.concatenate(
            [lax.slice_in_dim(x, 1, None, axis=axis), lax.slice_in_dim(x, last, None, axis=axis)],
            axis,
        )
        shares = [(step + 0.5) / factor - 0.5 for step in range(factor)]  # of the neighbour
        steps = [x + abs(share) * ((before if share < 0 else after) - x) for share in shares]
        shape = [*x.shape]
        shape[axis] *= factor
        x = jnp.stack(steps, axis + 1).reshape(shape)
    return x


SYSTEMS = {
    "iantsen2020": System("residual U-Net with SE-Norm, HECKTOR 2020", Iantsen2020, width=24)
}
