"""Where feature maps lie when one volume is split over several devices.

A volume's depth is split over the mesh's `space` axis; XLA's partitioner adds the exchange of
border planes to each convolution. Levels that are too coarse to split are kept whole on every
device. Why each feature map is placed by name, and by which partitioner: docs/distributed.md.
"""

import contextlib
from contextvars import ContextVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_MESH: ContextVar[Mesh | None] = ContextVar("mesh", default=None)
_LEAST_PLANES = 2  # of a device: a 5^3 convolution then needs its neighbours' planes only


@contextlib.contextmanager
def volumes_over(mesh: Mesh):
    """Context, while a function is traced: feature maps are placed on this mesh."""
    token = _MESH.set(mesh)
    try:
        yield
    finally:
        _MESH.reset(token)


def volumes_are_split() -> bool:
    """Whether the function being traced is for volumes that lie on several devices."""
    mesh = _MESH.get()
    return mesh is not None and mesh.shape["space"] > 1


def splits(depth: int, devices: int) -> bool:
    """Whether `depth` planes are split over `devices`: evenly, two or more each."""
    return depth % devices == 0 and depth // devices >= _LEAST_PLANES


def shard_volume(x: jax.Array) -> jax.Array:
    """A feature map (B, D, H, W[, C]) where it belongs; unchanged without a split mesh."""
    if not volumes_are_split():
        return x
    mesh = _MESH.get()
    batch = "data" if x.shape[0] % mesh.shape["data"] == 0 else None  # one volume to predict on
    depth = "space" if splits(x.shape[1], mesh.shape["space"]) else None
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(batch, depth)))
