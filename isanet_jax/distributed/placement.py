"""Volumes whose depth is split over several devices, the mesh's `space` axis.

The network runs on each device's part (`on_parts`): a convolution asks the neighbouring devices for
the planes beyond its part, and a mean over a volume is one over the devices. Levels that are too
coarse to split are whole on every device. Why it is not left to XLA's partitioner:
docs/evidence/distributed.md.
"""

import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_SPACE = "space"  # the mesh's axis
_LEAST_PLANES = 2  # of a device: a 5^3 convolution then needs its neighbours' planes only


class _Split(NamedTuple):
    devices: int
    depth: int  # of the network's whole input
    width: int


_SPLIT: ContextVar[_Split | None] = ContextVar("split", default=None)


def on_parts(network: Callable, mesh: Mesh) -> Callable:
    """The function, run by each device on its part of the volumes; itself where none is split.

    Args:
        network: (params, image) -> arrays (B, D, H, W), for image (B, D, H, W, C); it is to use
            this module's functions wherever it looks along the depth.
        mesh: the batch is split over its `data` axis where it is a multiple, the depth over
            `space`.
    """
    if mesh.shape[_SPACE] == 1:
        return network

    def whole(params, image):
        batch, depth, _, width, _ = image.shape
        split = _Split(mesh.shape[_SPACE], depth, width)

        def part(params, image):
            with _splitting(split):
                return network(params, image)

        place = _place(batch, mesh)
        specs = {"in_specs": (PartitionSpec(), place), "out_specs": place}
        # check_vma: each device has its own copy of what is whole, and the gradient of the
        # parameters is the sum over the copies.
        return jax.shard_map(part, mesh=mesh, **specs, check_vma=False)(params, image)

    return whole


def on_each_device(function: Callable, mesh: Mesh) -> Callable:
    """A function of batches, run by each device on its own elements; itself on one device.

    Devices that share a volume each compute all of it.
    """
    if mesh.size == 1:
        return function
    place = PartitionSpec("data")
    return jax.shard_map(function, mesh=mesh, in_specs=place, out_specs=place, check_vma=False)


def over_mesh(x: jax.Array, mesh: Mesh) -> jax.Array:
    """Volumes (B, D, H, W) in the parts that `on_parts` takes; unchanged where none is split."""
    if mesh.shape[_SPACE] == 1:
        return x
    return lax.with_sharding_constraint(x, NamedSharding(mesh, _place(x.shape[0], mesh)))


def _place(batch, mesh):
    over_data = batch % mesh.shape["data"] == 0  # one volume to predict on is not
    return PartitionSpec("data" if over_data else None, _SPACE)


@contextlib.contextmanager
def _splitting(split):
    token = _SPLIT.set(split)
    try:
        yield
    finally:
        _SPLIT.reset(token)


def splits(depth: int, devices: int) -> bool:
    """Whether `depth` planes are split over `devices`: evenly, two or more each."""
    return depth % devices == 0 and depth // devices >= _LEAST_PLANES


def parts_of(x: jax.Array) -> int:
    """Over how many devices the depth of a feature map (B, D, H, W, C) lies; 1: it is whole here.

    A map is a part where its depth is less than its width says.
    """
    split = _SPLIT.get()
    if split is None or x.shape[1] * split.width == split.depth * x.shape[3]:
        return 1
    return split.devices


def own_part(x: jax.Array) -> jax.Array:
    """The device's part of a whole feature map; the map itself where its level is too coarse."""
    split = _SPLIT.get()
    if split is None or not splits(x.shape[1], split.devices):
        return x
    planes = x.shape[1] // split.devices
    return lax.dynamic_slice_in_dim(x, lax.axis_index(_SPACE) * planes, planes, 1)


def whole_if_half_is(x: jax.Array) -> jax.Array:
    """A feature map that is to be halved: whole, where the half of it is too coarse to split."""
    parts = parts_of(x)
    if parts == 1 or splits(x.shape[1] * parts // 2, parts):
        return x
    return lax.all_gather(x, _SPACE, axis=1, tiled=True)


def with_neighbours(x: jax.Array, before: int, after: int) -> jax.Array:
    """A part of a map with the planes of the neighbouring devices around it, zeros at the ends.

    Args:
        x: (B, D, H, W, C), split.
        before, after: planes, at most D.

    Returns:
        (B, before + D + after, H, W, C).
    """
    last = parts_of(x) - 1
    planes = [x]
    if before:
        onward = [(i, i + 1) for i in range(last)]
        planes.insert(0, lax.ppermute(x[:, -before:], _SPACE, onward))
    if after:
        back = [(i + 1, i) for i in range(last)]
        planes.append(lax.ppermute(x[:, :after], _SPACE, back))
    return jnp.concatenate(planes, 1)


def mean_of_parts(x: jax.Array, parts: int) -> jax.Array:
    """The mean over the devices of `parts_of`, of what each has from its part of a volume."""
    return x if parts == 1 else lax.pmean(x, _SPACE)


def sum_of_parts(x: jax.Array, parts: int) -> jax.Array:
    """The sum over the devices of `parts_of`, of what each has from its part of a volume."""
    return x if parts == 1 else lax.psum(x, _SPACE)


def largest_of_parts(x: jax.Array, parts: int) -> jax.Array:
    """The largest over the devices of `parts_of`; it has no gradient."""
    x = lax.stop_gradient(x)
    return x if parts == 1 else lax.pmax(x, _SPACE)
