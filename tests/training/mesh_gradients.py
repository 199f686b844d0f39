"""Gradients of the real train step on meshes of devices, against one device's, in float64.

Run by test_mesh.py in a process of its own: eight made-up devices, no optimisation by LLVM.
"""

import json
import sys

import jax
import numpy as np
import optax

jax.config.update("jax_enable_x64", True)

from isanet_jax.distributed.mesh import make_mesh
from isanet_jax.network.config import ModelConfig
from isanet_jax.pipeline.dataset import Inputs, rotation_matrix
from isanet_jax.training.step import init_state, make_train_step

LOSS = {"dice_squared": False, "dice_smooth": 1e-3, "alpha": 0.5, "gamma": 2.0, "focal_weight": 1.0}


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


def gradients(name, data, space, size, batch, remat):
    """(loss, gradients) of one step: with this optimiser, parameters lose their gradient."""
    mesh = make_mesh(data, space)
    levels = 3 if size <= 24 else 5
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
    step = make_train_step(graphdef, optimizer, mesh, inputs, loss=LOSS)
    state, metrics = step(state, batch_of(batch, size))
    after = jax.device_get(state.params)
    return float(metrics["loss"]), jax.tree.leaves(jax.tree.map(np.subtract, before, after))


def main():
    """Prints [loss difference, gradient difference], relative, for each `name DxS size remat`."""
    expected = {}
    for words in sys.argv[1:]:
        name, mesh, size, remat = words.split(",")
        data, space = map(int, mesh.split("x"))
        key = (name, data, size)
        if key not in expected:
            expected[key] = gradients(name, 1, 1, int(size), data, "none")
        loss, found = gradients(name, data, space, int(size), data, remat)
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
