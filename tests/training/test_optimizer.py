"""Optimisers against their formulas."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from isanet_jax.settings.table import Optimizer
from isanet_jax.training.optimizer import averaged, make_optimizer


def trained(optimizer, steps, gradient=lambda w: w):
    """(weights after each step, state): of w = (1, -2), by its own value as the gradient."""
    params = {"w": jnp.array([1.0, -2.0])}
    state, seen = optimizer.init(params), []
    for _ in range(steps):
        updates, state = optimizer.update({"w": gradient(params["w"])}, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(np.asarray(params["w"]))
    return seen, params, state


def test_the_average_of_weights_is_exponential_and_changes_no_step():
    decay = 0.7
    plain, _, _ = trained(make_optimizer(Optimizer(), lambda _: 0.1), 6)
    seen, params, state = trained(make_optimizer(Optimizer(average=decay), lambda _: 0.1), 6)
    np.testing.assert_array_equal(seen, plain)
    weights = decay ** np.arange(len(seen))[::-1]
    expected = np.average(seen, 0, weights)
    np.testing.assert_allclose(averaged(params, state, decay)["w"], expected, rtol=1e-6)
    assert averaged(params, state, 0.0) is params


def test_adamw_takes_the_decay_off_the_weights_and_not_into_the_moments():
    still = {"gradient": jnp.zeros_like, "steps": 1}
    (one,), _, _ = trained(
        make_optimizer(Optimizer(name="adamw", weight_decay=0.5), lambda _: 0.1), **still
    )
    np.testing.assert_allclose(one, np.array([1.0, -2.0]) * (1 - 0.1 * 0.5), rtol=1e-6)
    # Of Adam it is a part of the gradient, whose size does not count.
    (one,), _, _ = trained(make_optimizer(Optimizer(weight_decay=0.5), lambda _: 0.1), **still)
    assert one == pytest.approx([0.9, -1.9], abs=1e-4)
