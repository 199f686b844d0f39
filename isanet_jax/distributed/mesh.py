"""The devices as a mesh, and arrays placed on it."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from isanet_jax.errors import ConfigError
from isanet_jax.settings.table import Config

ONEDNN = "xla_cpu_experimental_onednn_custom_call"
_MANY_STEPS = 1000  # that save more than compiling takes (docs/evidence/speed.md)


@functools.cache
def has_onednn() -> bool:
    """Whether XLA hands convolutions on this CPU to oneDNN: from JAX 0.12 on, on some processors.

    It is tried, as an option that the compiler does not know ends a program when it is a flag.
    """
    if jax.__version_info__ < (0, 12) or jax.default_backend() != "cpu":
        return False
    x, kernel = jnp.zeros((1, 4, 4, 4, 8)), jnp.zeros((3, 3, 3, 8, 8))
    dimensions = ("NDHWC", "DHWIO", "NDHWC")

    def convolution(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1, 1), "SAME", None, None, dimensions)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = jax.jit(convolution, compiler_options={ONEDNN: True}).lower(x, kernel).compile()
        return "onednn" in made.as_text()
    except (jax.errors.JaxRuntimeError, ValueError):
        return False


def make_mesh(data: int, space: int) -> Mesh:
    """A mesh of `data` x `space` devices with these axis names.

    Raises:
        ConfigError: more devices than there are; devices of other processes that would be left
            out.
    """
    mesh = make_mesh_of(jax.devices(), data, space)
    if jax.process_count() > 1 and mesh.size < jax.device_count():
        raise ConfigError(
            f"mesh.data is {data} and mesh.space {space}, and the {jax.process_count()} processes "
            f"have {jax.device_count()} devices: use all, as in --config.mesh.data="
            f"{jax.device_count() // space}"
        )
    batch_part(mesh)
    return mesh


def devices_for(config: Config) -> tuple[int, int]:
    """The mesh (data, space) of all devices that predicts with a run of this config."""
    devices, space = jax.device_count(), config.mesh.space
    if 1 < space <= devices:  # its volumes may not fit one device
        return devices // space, space
    return devices, 1


def batch_part(mesh: Mesh) -> tuple[int, int]:
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


def place_batch(batch: dict, mesh: Mesh) -> dict:
    """The batch (nested dicts) over the mesh's devices; `batch` is this process's part of it."""
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(over_data, np.asarray(x)), batch
    )


def fill_up(arrays: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """The rows of a batch, the last one repeated until there are `size`: one shape is compiled."""
    count = len(next(iter(arrays.values())))
    if count >= size:
        return arrays
    rows = [*range(count), *[count - 1] * (size - count)]
    return {name: x[rows] for name, x in arrays.items()}


def local_rows(array: jax.Array) -> np.ndarray:
    """The rows of a batch over a mesh that this process's devices hold, in order."""
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


def state_shardings(state, mesh: Mesh):
    """Where a `TrainState` lies: whole on every device, but for the optimiser's of split volumes.

    Of its moments, each of the devices that share a volume has a part of the output channels, and
    updates the parameters of these: two thirds of a state, which would be on each device else.
    """
    parts = mesh.shape["space"]
    whole = NamedSharding(mesh, PartitionSpec())

    def of_moment(x):
        if parts == 1 or x.ndim == 0 or x.shape[-1] % parts:
            return whole
        return NamedSharding(mesh, PartitionSpec(*[None] * (x.ndim - 1), "space"))

    everywhere = jax.tree.map(lambda _: whole, state)
    return everywhere._replace(opt_state=jax.tree.map(of_moment, state.opt_state))


def whole_value(array) -> np.ndarray:
    """An array of the state as NumPy's.

    All processes are to ask for it together: of another's devices, it takes the part from there.
    """
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array)
    if array.is_fully_replicated:
        return np.asarray(array.addressable_data(0))
    return multihost_utils.process_allgather(array, tiled=True)


def make_mesh_of(devices, data: int, space: int) -> Mesh:
    """`make_mesh` of given devices, which may be described ones."""
    if min(data, space) < 1 or data * space > len(devices):
        raise ConfigError(
            f"mesh.data is {data} and mesh.space {space}, and there are {len(devices)} devices"
        )
    grid = np.array(devices[: data * space]).reshape(data, space)
    return Mesh(grid, ("data", "space"), axis_types=(AxisType.Auto,) * 2)


def compiler_options(config: Config, mesh: Mesh, *, steps: int = 0) -> tuple[tuple[str, bool], ...]:
    """What a config asks of the compiler for a mesh's devices, as pairs.

    Args:
        config: its `channels_last` and `deterministic` count.
        mesh: of the devices.
        steps: that a training computes with the program; 0: it is none. On CPUs, oneDNN computes
            the convolutions of a long one: such a program cannot be kept in the cache of compiled
            functions (JAX 0.12), so that each start compiles it anew.
    """
    if mesh.devices.flat[0].platform == "cpu":
        if steps < _MANY_STEPS or not has_onednn():
            return ()
        warnings.filterwarnings("ignore", "Error writing persistent .*bad_alloc", UserWarning)
        return ((ONEDNN, True),)
    if mesh.devices.flat[0].platform not in ("gpu", "cuda"):
        return ()
    return (
        # cuDNN's kernels for tensor cores are channels-last, and convert within each call else.
        ("xla_gpu_force_conv_nhwc", config.channels_last),
        ("xla_gpu_deterministic_ops", config.deterministic),
    )
