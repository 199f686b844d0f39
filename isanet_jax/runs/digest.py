"""Digests of what a checkpoint holds."""

import hashlib
import json

import jax
import numpy as np

from isanet_jax.distributed.mesh import whole_value


def digest_of(tree) -> str:
    """SHA-256 of names, types, shapes and bytes of a tree's arrays."""
    digest = hashlib.sha256()
    for name, leaf in sorted(named_leaves(tree), key=lambda named: named[0]):
        array = np.ascontiguousarray(whole_value(leaf))
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8).data if array.ndim else array.tobytes())
    return digest.hexdigest()


def digest_of_text(description) -> str:
    """SHA-256 of a description as JSON."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def named_leaves(tree):
    """(name, leaf) of every array, names the same for a network's state and Orbax's metadata."""
    return [
        (".".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", None))))
                  for k in path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]  # fmt: skip


def shapes_of(tree) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a tree's arrays."""
    return {name: tuple(leaf.shape) for name, leaf in named_leaves(tree)}
