"""The devices as a mesh, and arrays placed on it."""

import contextlib

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from isanet_jax.errors import ConfigError

# (data, space) whose gradients tests/training/test_mesh.py holds against one device's.
PROVEN_SPLITS = ((1, 2), (1, 4), (1, 8), (2, 2), (2, 4))


def make_mesh(data: int, space: int) -> Mesh:
    """A mesh of `data` x `space` devices with these axis names.

    Raises:
        ConfigError: more devices than there are, or a split of volumes whose gradients have not
            been proven right; devices of other processes that would be left out.
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


def make_mesh_of(devices, data: int, space: int) -> Mesh:
    """`make_mesh` of given devices, which may be described ones."""
    if min(data, space) < 1 or data * space > len(devices):
        raise ConfigError(
            f"mesh.data is {data} and mesh.space {space}, and there are {len(devices)} devices"
        )
    if space > 1 and (data, space) not in PROVEN_SPLITS:
        proven = ", ".join(f"{d} x {s}" for d, s in PROVEN_SPLITS)
        raise ConfigError(
            f"mesh.data x mesh.space is {data} x {space}; gradients of split volumes have been "
            f"proven equal to one device's on {proven} only (docs/distributed.md)"
        )
    grid = np.array(devices[: data * space]).reshape(data, space)
    return Mesh(grid, ("data", "space"), axis_types=(AxisType.Auto,) * 2)


def compiler_options(config: dict, mesh: Mesh) -> tuple[tuple[str, bool], ...]:
    """What a config asks of the compiler for a mesh's devices, as pairs; nothing but for GPUs.

    Args:
        config: its `channels_last` and `deterministic` count; runs from before them lack both.
        mesh: of the devices.
    """
    if mesh.devices.flat[0].platform not in ("gpu", "cuda"):
        return ()
    return (
        # cuDNN's kernels for tensor cores are channels-last, and convert within each call else.
        ("xla_gpu_force_conv_nhwc", config.get("channels_last", True)),
        ("xla_gpu_deterministic_ops", config.get("deterministic", False)),
    )


def jit_on(mesh: Mesh, function, **options):
    """`jax.jit` of a function that is placed on a mesh.

    Where volumes are split, by JAX's older partitioner: the default one gives wrong gradients on
    some of these meshes (docs/distributed.md).
    """
    jitted = jax.jit(function, **options)
    return jitted if mesh.shape["space"] == 1 else _ByOlderPartitioner(jitted)


class _ByOlderPartitioner:
    """A jitted or lowered function whose steps to the compiled one use the older partitioner."""

    def __init__(self, wrapped):
        self._wrapped = wrapped

    def __getattr__(self, name):
        return getattr(self._wrapped, name)

    def __call__(self, *arguments):
        with _older_partitioner():
            return self._wrapped(*arguments)

    def lower(self, *arguments):
        """As `jax.jit`'s."""
        with _older_partitioner():
            return _ByOlderPartitioner(self._wrapped.lower(*arguments))

    def compile(self):
        """As a lowered function's."""
        with _older_partitioner():
            return self._wrapped.compile()


@contextlib.contextmanager
def _older_partitioner():
    before = jax.config.jax_use_shardy_partitioner
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        yield
    finally:
        jax.config.update("jax_use_shardy_partitioner", before)
