"""The train step and the prediction, as pure functions that are compiled once."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from isanet_jax.distributed.mesh import state_shardings, whole_value
from isanet_jax.distributed.placement import on_parts, over_mesh
from isanet_jax.network import systems
from isanet_jax.network.whole_volume import mirrored, windowed
from isanet_jax.pipeline.augment import augment, crop_patch, normalise
from isanet_jax.training.losses import segmentation_loss

# Of a step whose volumes are split. XLA's GPU scheduler moves operations away from where memory is
# least in use, to overlap them with the exchange of planes: 4 % more memory with remat=blocks
# (docs/distributed.md). It is left out: volumes are split for memory.
_FOR_MEMORY = {"xla_disable_hlo_passes": "latency-hiding-scheduler"}


class TrainState(NamedTuple):
    """Everything that a step changes, and the key the parameters were drawn from.

    `key` is the raw data of a `jax.random.key`: all randomness of the run follows from it and
    from the data iterator's seed.
    """

    params: dict
    opt_state: optax.OptState
    step: jax.Array
    key: jax.Array


def not_finite(tree) -> list[str]:
    """Names of a state's arrays that hold a NaN or an infinity."""
    return [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if not np.isfinite(whole_value(leaf)).all()
    ]


def init_state(model_config, optimizer, seed: int) -> tuple[nnx.GraphDef, TrainState]:
    """Draws the parameters from `seed` and starts the optimiser."""
    key = jax.random.key(seed)
    graphdef, params = systems.create(model_config, key)
    # Adam and SGD start from zeros; running their `init` would compile for each shape.
    shapes = jax.eval_shape(optimizer.init, params)
    opt_state = jax.device_put(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes))
    state = TrainState(params, opt_state, jnp.zeros((), jnp.int32), jax.random.key_data(key))
    return graphdef, state


def abstract_state(model_config, optimizer) -> tuple[nnx.GraphDef, TrainState]:
    """`init_state` without its numbers: shapes and types, for compiling and for loading."""
    graphdef, params = systems.create_abstract(model_config)
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    step = jax.ShapeDtypeStruct((), jnp.int32)
    return graphdef, TrainState(params, jax.eval_shape(optimizer.init, params), step, key)


def make_train_step(
    graphdef, optimizer, mesh: Mesh, *, loss: dict, patch: int = 0, options: tuple = ()
) -> Callable:
    """Compiles (state, batch) -> (state, metrics); the state's memory is reused.

    Args:
        graphdef: the network's structure.
        optimizer: optax transformation.
        mesh: the batch is split over its `data` axis, its volumes' depth over `space`; the state
            lies as `isanet_jax.distributed.mesh.state_shardings` says.
        loss: settings of `isanet_jax.training.losses.segmentation_loss`.
        patch: edge of the patch that is cut from each volume; 0: the whole volume.
        options: of the compiler, see `isanet_jax.distributed.mesh.compiler_options`.

    Returns:
        The step. Its metrics are scalars: loss, dice_loss, focal_loss; and stop, where the batch
        has it: whether any element of it is True.
    """
    network = on_parts(partial(systems.apply, graphdef), mesh)

    def loss_fn(params, image, label):
        return segmentation_loss(network(params, image), label[..., None], **loss)

    def step(state, batch):
        # Rotation reads a whole volume, which every device has, for the part that it keeps.
        ct, pet, label = (over_mesh(x, mesh) for x in augment(batch))
        image = normalise(ct, pet)
        if patch:
            image, label = crop_patch(
                image, label, patch, place=batch["patch_place"], pick=batch["patch_pick"]
            )
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss_value, parts), grads = grad_fn(state.params, image, label)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = TrainState(params, opt_state, state.step + 1, state.key)
        metrics = {"loss": loss_value, **parts}
        if "stop" in batch:
            metrics["stop"] = jnp.any(batch["stop"])
        return jax.lax.with_sharding_constraint(state, state_shardings(state, mesh)), metrics

    replicated = NamedSharding(mesh, PartitionSpec())
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    # Of split volumes, the state lies where it is given: not all of it is replicated.
    of_state = replicated if mesh.shape["space"] == 1 else None
    return jax.jit(
        step,
        in_shardings=(of_state, over_data),
        out_shardings=(of_state, replicated),
        donate_argnums=0,
        compiler_options=dict(options) | (_FOR_MEMORY if mesh.shape["space"] > 1 else {}),
    )


def make_predict(
    graphdef, mesh: Mesh, *, patch: int = 0, mirror: bool = False, options: tuple = ()
) -> Callable:
    """Compiles (params, ct_hu, pet_suv) -> tumour probability, all volumes (B, D, H, W).

    Args:
        graphdef: the network's structure.
        mesh: volumes are spread over its `data` axis, of which B is a multiple, and a volume's
            depth is split over `space`.
        patch: edge of the windows that the network sees; 0: the whole volume at once.
        mirror: take the mean over the eight mirror images (nnU-Net's test-time augmentation).
        options: of the compiler, see `isanet_jax.distributed.mesh.compiler_options`.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    shardings = (replicated, over_data, over_data)

    network = on_parts(partial(systems.apply, graphdef), mesh)

    def predict(params, ct_hu, pet_suv):
        def probability(image):
            return jax.nn.sigmoid(network(params, image).logits[..., 0])

        whole = windowed(probability, patch) if patch else probability
        whole = mirrored(whole) if mirror else whole
        return whole(normalise(over_mesh(ct_hu, mesh), over_mesh(pet_suv, mesh)))

    return jax.jit(
        predict,
        in_shardings=shardings,
        out_shardings=over_data,
        compiler_options=dict(options),
    )
