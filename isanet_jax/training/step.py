"""The train step and the prediction, as pure functions that are compiled once."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from isanet_jax.distributed.placement import place, volumes_over
from isanet_jax.errors import ConfigError
from isanet_jax.network import systems
from isanet_jax.network.whole_volume import mirrored, windowed
from isanet_jax.pipeline.augment import augment, crop_patch, normalise
from isanet_jax.training.losses import segmentation_loss

OPTIMIZERS = ("adam", "sgd")
# (data, space) whose gradients tests/training/test_mesh.py holds against one device's.
PROVEN_SPLITS = ((1, 2), (1, 4), (1, 8), (2, 2), (2, 4))
# Of a step whose volumes are split. XLA's GPU scheduler moves operations away from where memory is
# least in use, to overlap them with the exchange of planes: a third more memory with
# remat=blocks (docs/distributed.md). It is left out.
_FOR_MEMORY = {"xla_disable_hlo_passes": "latency-hiding-scheduler"}


class TrainState(NamedTuple):
    """Everything that a step changes, and the key the parameters were drawn from.

    `key` is the raw data of a `jax.random.key`: all randomness of the run follows from it and
    from the data iterator's seed.
    """

    params: nnx.State
    opt_state: optax.OptState
    step: jax.Array
    key: jax.Array


def make_mesh(data: int, space: int) -> Mesh:
    """A mesh of `data` x `space` devices with these axis names.

    Raises:
        ConfigError: more devices than there are, or a split of volumes whose gradients have not
            been proven right; devices of other processes that would be left out.
    """
    mesh = mesh_of(jax.devices(), data, space)
    if jax.process_count() > 1 and mesh.size < jax.device_count():
        raise ConfigError(
            f"mesh.data is {data} and mesh.space {space}, and the {jax.process_count()} processes "
            f"have {jax.device_count()} devices: use all, as in --config.mesh.data="
            f"{jax.device_count() // space}"
        )
    batch_share(mesh)
    return mesh


def batch_share(mesh: Mesh) -> tuple[int, int]:
    """Which part of each batch this process reads: (its number, number of equal parts).

    Processes that split a volume between them read the same part.

    Raises:
        ConfigError: a process's devices would hold parts of rows of the batch.
    """
    rows_of = {
        process: [
            i for i, row in enumerate(mesh.devices) if process in {d.process_index for d in row}
        ]
        for process in {d.process_index for d in mesh.devices.flat}
    }
    own = rows_of[jax.process_index()]
    if any(len(rows) != len(own) or rows[0] % len(own) for rows in rows_of.values()):
        raise ConfigError(
            f"mesh.data x mesh.space is {mesh.shape['data']} x {mesh.shape['space']} over "
            f"{len(rows_of)} processes: each process's devices must split the same number of whole "
            "volumes, or the processes whole multiples of them"
        )
    return own[0] // len(own), len(mesh.devices) // len(own)


def place_batch(batch: dict, mesh: Mesh) -> dict[str, jax.Array]:
    """The batch over the mesh's devices, of which `batch` is this process's part."""
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    return {k: jax.make_array_from_process_local_data(over_data, v) for k, v in batch.items()}


def local_rows(array: jax.Array) -> np.ndarray:
    """The rows of a batch over a mesh that this process's devices hold, in order."""
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


def local_value(array) -> np.ndarray:
    """An array of the state, which every device holds whole, as NumPy's."""
    return np.asarray(array.addressable_data(0) if isinstance(array, jax.Array) else array)


def not_finite(tree) -> list[str]:
    """Names of a state's arrays that hold a NaN or an infinity."""
    return [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if not np.isfinite(local_value(leaf)).all()
    ]


def mesh_of(devices, data: int, space: int) -> Mesh:
    """`make_mesh` of given devices, which may be described ones.

    With `space` above 1, JAX is told to use its older partitioner, from here on: the default one
    gives wrong gradients on some of these meshes (docs/distributed.md).
    """
    if min(data, space) < 1 or data * space > len(devices):
        raise ConfigError(
            f"mesh.data is {data} and mesh.space {space}, and there are {len(devices)} devices"
        )
    if space > 1:
        if (data, space) not in PROVEN_SPLITS:
            proven = ", ".join(f"{d} x {s}" for d, s in PROVEN_SPLITS)
            raise ConfigError(
                f"mesh.data x mesh.space is {data} x {space}; gradients of split volumes have been "
                f"proven equal to one device's on {proven} only (docs/distributed.md)"
            )
        jax.config.update("jax_use_shardy_partitioner", False)
    grid = np.array(devices[: data * space]).reshape(data, space)
    return Mesh(grid, ("data", "space"), axis_types=(AxisType.Auto,) * 2)


def make_optimizer(
    schedule: optax.Schedule,
    *,
    name="adam",
    b1=0.9,
    b2=0.99,
    momentum=0.99,
    weight_decay=0.0,
    clip_norm=0.0,
) -> optax.GradientTransformation:
    """Adam as in the paper, or nnU-Net's SGD with Nesterov momentum.

    Args:
        schedule: step -> learning rate.
        name: see `OPTIMIZERS`.
        b1, b2: Adam's momentum factors.
        momentum: of SGD.
        weight_decay: L2 penalty, added to the gradient; 0: none.
        clip_norm: largest norm of the whole gradient; 0: not clipped.
    """
    parts = []
    if clip_norm:
        parts.append(optax.clip_by_global_norm(clip_norm))
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay))
    if name == "sgd":
        parts.append(optax.sgd(schedule, momentum=momentum, nesterov=True))
    else:
        parts.append(optax.adam(schedule, b1=b1, b2=b2))
    return optax.chain(*parts)


def init_state(model_config, optimizer, seed: int) -> tuple[nnx.GraphDef, TrainState]:
    """Draws the parameters from `seed` and starts the optimiser."""
    key = jax.random.key(seed)
    graphdef, params = systems.create(model_config, key)
    # Adam and SGD start from zeros; running their `init` would compile for each shape.
    shapes = jax.eval_shape(optimizer.init, params)
    opt_state = jax.device_put(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes))
    state = TrainState(params, opt_state, jnp.zeros((), jnp.int32), jax.random.key_data(key))
    return graphdef, state


def make_train_step(graphdef, optimizer, mesh: Mesh, *, loss: dict, patch: int = 0) -> Callable:
    """Compiles (state, batch) -> (state, metrics); the state's memory is reused.

    Args:
        graphdef: the network's structure.
        optimizer: optax transformation.
        mesh: the batch is split over its `data` axis, its volumes' depth over `space`, the state
            is replicated.
        loss: settings of `isanet_jax.training.losses.segmentation_loss`.
        patch: edge of the patch that is cut from each volume; 0: the whole volume.

    Returns:
        The step. Its metrics are scalars: loss, dice_loss, focal_loss; and stop, where the batch
        has it: whether any element of it is True.
    """

    def loss_fn(params, image, label):
        return segmentation_loss(systems.apply(graphdef, params, image), label, **loss)

    def step(state, batch):
        with volumes_over(mesh):
            return placed_step(state, batch)

    def placed_step(state, batch):
        # Rotation reads a whole volume, which every device has, for the part that it keeps.
        ct, pet, label = map(place, augment(batch))
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
        return state, metrics

    replicated = NamedSharding(mesh, PartitionSpec())
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    return jax.jit(
        step,
        in_shardings=(replicated, over_data),
        out_shardings=(replicated, replicated),
        donate_argnums=0,
        compiler_options=_FOR_MEMORY if mesh.shape["space"] > 1 else None,
    )


def make_predict(graphdef, mesh: Mesh, *, patch: int = 0, mirror: bool = False) -> Callable:
    """Compiles (params, ct_hu, pet_suv) -> tumour probability, all volumes (B, D, H, W).

    Args:
        graphdef: the network's structure.
        mesh: volumes are spread over its `data` axis, of which B is a multiple, and a volume's
            depth is split over `space`.
        patch: edge of the windows that the network sees; 0: the whole volume at once.
        mirror: take the mean over the eight mirror images (nnU-Net's test-time augmentation).
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    shardings = (replicated, over_data, over_data)

    @functools.partial(jax.jit, in_shardings=shardings, out_shardings=over_data)
    def predict(params, ct_hu, pet_suv):
        with volumes_over(mesh):
            return whole_prediction(params, place(ct_hu), place(pet_suv))

    def whole_prediction(params, ct_hu, pet_suv):
        def probability(image):
            return jax.nn.sigmoid(systems.apply(graphdef, params, image).logits)

        whole = windowed(probability, patch) if patch else probability
        whole = mirrored(whole) if mirror else whole
        return whole(normalise(ct_hu, pet_suv))

    return predict
