"""First values of parameters, drawn by NumPy."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx


class ShapesOnly:
    """In place of `nnx.Rngs`: makes a system whose parameters take no time and no memory."""


def drawn(rngs: nnx.Rngs, shape, draw: Callable):
    """`draw` (a NumPy generator -> float32 array) of `shape`, seeded by the next key of `rngs`.

    Drawn by NumPy: compiling jax.random for the network's hundred different shapes takes longer
    (37 s on two cores) than compiling the train step. Parameters become JAX's all at once, in
    `isanet_jax.network.systems.create`: one by one, each shape would be compiled for. Where the
    key is traced (`nnx.eval_shape`, `jax.jit`), nothing is drawn before the function runs; of
    `ShapesOnly`, nothing is drawn at all.
    """

    def run(key):
        return draw(np.random.default_rng(np.asarray(key)))

    if isinstance(rngs, ShapesOnly):
        return np.broadcast_to(np.float32(0), shape)
    key = jax.random.key_data(rngs.params())
    if isinstance(key, jax.core.Tracer):
        return jax.pure_callback(run, jax.ShapeDtypeStruct(shape, np.float32), key)
    return run(key)


def normal(rngs, shape, deviation):
    """Draws from N(0, deviation^2)."""

    def draw(generator):
        return generator.standard_normal(shape, np.float32) * np.float32(deviation)

    return drawn(rngs, shape, draw)


def uniform(rngs, shape, bound):
    """Draws uniformly between -bound and bound."""
    return drawn(rngs, shape, lambda g: g.uniform(-bound, bound, shape).astype(np.float32))


def he_normal(rngs, shape):
    """He et al. 2015, fan-in: variance 2 / (taps x input channels)."""
    return normal(rngs, shape, (2.0 / np.prod(shape[:-1])) ** 0.5)
