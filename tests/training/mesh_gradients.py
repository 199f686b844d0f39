"""Gradients of the real train step on meshes of devices, against one device's, in float64.

Run by test_mesh.py in a process of its own: eight made-up devices, no optimisation by LLVM.
"""

import json
import sys

import jax
import numpy as np
import optax

jax.config.update("jax_enable_x64", True)

from flax import nnx

from isanet_jax.distributed.mesh import make_mesh
from isanet_jax.distributed.placement import whole_if_half_is
from isanet_jax.network.attention.isa import ISA
from isanet_jax.network.blocks import ConvBlock, UpsampleConv, output_convolution
from isanet_jax.network.config import ModelConfig
from isanet_jax.network.convolution import max_pool
from isanet_jax.network.system import Output, System, network_input
from isanet_jax.network.systems import SYSTEMS
from isanet_jax.pipeline.draw import rotation_matrix
from isanet_jax.pipeline.inputs import Inputs
from isanet_jax.settings.table import Loss
from isanet_jax.training.step import init_state, make_train_step


class Attended(nnx.Module):
    """Two levels and one ISA module: each part of ISA-Net that sees other devices' planes, once."""

    def __init__(self, config, *, rngs):
        self.config, form = config, config.convolution
        fine, coarse = config.widths[:2]
        self.first = ConvBlock(len(config.modalities), fine, 3, form=form, rngs=rngs)
        self.below = ConvBlock(fine, coarse, 3, form=form, rngs=rngs)
        self.up = UpsampleConv(coarse, fine, form=form, rngs=rngs)
        self.join = ConvBlock(2 * fine, fine, 1, form=form, rngs=rngs)
        self.attention = ISA(fine, config, rngs=rngs)
        self.head = output_convolution(fine, config, rngs=rngs)

    def __call__(self, image):
        skip = self.first(network_input(image, self.config))
        x = self.up(self.below(max_pool(whole_if_half_is(skip))))
        return Output(self.head(self.attention(self.join([x, skip]))))


SYSTEMS["attended"] = System("one ISA module", Attended, can_split=True)


def batch_of(count, size):
    """Volumes with structure at every level; the first is rotated."""
    generator = np.random.default_rng(0)
    coarse = generator.normal(size=(3, count, 4, 4, 4))
    ct, pet, label = coarse.repeat(size // 4, 2).repeat(size // 4, 3).repeat(size // 4, 4)
    noise = generator.normal(size=(2, count, size, size, size))
    angles = [[20, -10, 5], *[[0, 0, 0]] * (count - 1)]
    return {
        "images": {"ct": 300 * ct + 50 * noise[0], "pet": np.abs(3 * pet + noise[1])},
        "labels": {"tumour": 2 * (label > 0.7).astype(np.uint8)},
        "outside": {"ct": np.full(count, -1024.0), "pet": np.zeros(count)},
        "rotation": np.stack([rotation_matrix(a, (1, 1, 1)) for a in angles]).astype(float),
        "mirror": np.array([[True, False, True]] * count),
        "centre": np.full((count, 3), (size - 1) / 2),
        "case": np.zeros(count, np.int32),
        "partner": np.zeros(count, np.int32),
    }


def gradients(name, data, space, size, levels, batch, remat):
    """(loss, gradients) of one step: with this optimiser, parameters lose their gradient."""
    mesh = make_mesh(data, space)
    model = ModelConfig(
        name=name,
        size=size,
        width=2,
        levels=levels,
        convolution="native",
        dtype="float64",
        remat=remat,
    )
    optimizer = optax.sgd(1.0)
    graphdef, state = init_state(model, optimizer, 0)
    state = state._replace(params=jax.tree.map(lambda x: x.astype("float64"), state.params))
    before = jax.device_get(state.params)
    shape = (size,) * 3
    inputs = Inputs({"ct": "ct", "pet": "pet"}, ("tumour",), shape, shape)
    step = make_train_step(graphdef, optimizer, mesh, inputs, loss=Loss())
    state, metrics = step(state, batch_of(batch, size))
    after = jax.device_get(state.params)
    return float(metrics["loss"]), jax.tree.leaves(jax.tree.map(np.subtract, before, after))


def main():
    """Prints [case, loss difference, gradient difference, largest of one], relative, of each case.

    A case is `system,DATAxSPACE,size,levels,batch,remat`.
    """
    expected = {}
    for words in sys.argv[1:]:
        name, mesh, *numbers, remat = words.split(",")
        data, space = map(int, mesh.split("x"))
        key = (name, *map(int, numbers))
        if key not in expected:
            expected[key] = gradients(name, 1, 1, *key[1:], "none")
        loss, found = gradients(name, data, space, *key[1:], remat)
        wanted_loss, wanted = expected[key]
        error = sum(np.square(a - b).sum() for a, b in zip(found, wanted, strict=True))
        scale = sum(np.square(b).sum() for b in wanted)
        # Each parameter on its own, too: a wrong one could hide behind larger ones.
        worst = max(
            np.abs(a - b).max() / (np.abs(b).max() + 1e-6 * np.sqrt(scale))
            for a, b in zip(found, wanted, strict=True)
        )
        figures = [abs(loss / wanted_loss - 1), float(np.sqrt(error / scale)), float(worst)]
        print(json.dumps([words, *figures]), flush=True)


if __name__ == "__main__":
    main()
