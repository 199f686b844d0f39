"""Less memory for more computation: what the backward pass computes again."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from isanet_jax.network.config import ModelConfig
from isanet_jax.network.convolution import (
    is_folded,
)

CONVOLUTION = "convolution"  # name of the values that remat "convolutions" keeps


def recompute(function: Callable, config: ModelConfig, *scopes: str) -> Callable:
    """The function, made to keep its inputs only and compute its inner values again for gradients.

    Args:
        function: of arrays; may use a module's parameters.
        config: `remat` says whether, and what else is kept.
        scopes: `block`, `level` or both, what the function is.
    """
    if config.remat in {f"{scope}s" for scope in scopes}:
        # The forms of the convolutions for CPUs, whose compiler merges what is computed twice.
        on_cpu = is_folded(config.convolution)
        return _recompute_on_cpu(function) if on_cpu else jax.checkpoint(function)
    if config.remat == "convolutions" and "block" in scopes:
        policy = jax.checkpoint_policies.save_only_these_names(CONVOLUTION)
        return jax.checkpoint(function, policy=policy)
    return function


def recompute_elementwise(function: Callable, config: ModelConfig) -> Callable:
    """Does what `recompute` does, wherever anything is recomputed: for cheap inner values.

    On CPUs, whose compiler would merge the two computations, the function itself.
    """
    if config.remat == "none" or is_folded(config.convolution):
        return function
    return jax.checkpoint(function)


def _recompute_on_cpu(function):
    """`jax.checkpoint` for XLA's CPU compiler, which removes the barriers that it relies on.

    What is computed again starts from inputs times a one that depends on the gradient and that the
    compiler cannot see through: so it can neither merge it with the first computation nor begin
    early. (In a branch of its own it would not merge it either, but convolutions are slow there.)
    """

    def run(*arguments):
        converted, constants = jax.closure_convert(function, *arguments)
        return _kept(converted, tuple(constants), arguments)

    return run


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kept(function, constants, arguments):
    return function(*arguments, *constants)


def _kept_forward(function, constants, arguments):
    return function(*arguments, *constants), (constants, arguments)


def _kept_backward(function, kept, gradient):
    constants, arguments = kept
    first = jax.tree.leaves(gradient)[0].ravel()[0].astype(jnp.float32)
    bits = jax.lax.population_count(jax.lax.bitcast_convert_type(first, jnp.int32))
    one = (bits <= 32).astype(jnp.float32)  # always
    arguments = jax.tree.map(lambda x: x * one.astype(x.dtype), arguments)
    _, pull = jax.vjp(lambda c, a: function(*a, *c), constants, arguments)
    return pull(gradient)


_kept.defvjp(_kept_forward, _kept_backward)
