"""The train step and the prediction, as pure functions that are compiled once."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from isanet_jax.errors import ConfigError
from isanet_jax.network import isanet
from isanet_jax.pipeline.augment import augment, normalise
from isanet_jax.training.losses import dice_loss, focal_loss


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
        ConfigError: more devices than there are, or a split of the volume (see
            docs/decisions.md: not proven right yet).
    """
    if space != 1:
        raise ConfigError(
            f"mesh.space is {space}; splitting a volume over devices is not supported yet, use 1"
        )
    if not 1 <= data <= len(jax.devices()):
        raise ConfigError(f"mesh.data is {data} and this machine has {len(jax.devices())} devices")
    devices = np.array(jax.devices()[:data]).reshape(data, 1)
    return Mesh(devices, ("data", "space"), axis_types=(AxisType.Auto,) * 2)


def make_optimizer(schedule: optax.Schedule, *, b1: float, b2: float):
    """Adam as in the paper."""
    return optax.adam(schedule, b1=b1, b2=b2)


def init_state(model_config, optimizer, seed: int) -> tuple[nnx.GraphDef, TrainState]:
    """Draws the parameters from `seed` and starts the optimiser."""
    key = jax.random.key(seed)
    graphdef, params = isanet.create(model_config, key)
    state = TrainState(
        params, optimizer.init(params), jnp.zeros((), jnp.int32), jax.random.key_data(key)
    )
    return graphdef, state


def make_train_step(graphdef, optimizer, mesh: Mesh, *, dice_squared, alpha, gamma) -> Callable:
    """Compiles (state, batch) -> (state, metrics); the state's memory is reused.

    Args:
        graphdef: the network's structure.
        optimizer: optax transformation.
        mesh: the batch is split over its `data` axis, the state is replicated.
        dice_squared, alpha, gamma: see `isanet_jax.training.losses`.

    Returns:
        The step. Its metrics are scalars: loss, dice_loss, focal_loss.
    """

    def loss_fn(params, image, label):
        logits = isanet.apply(graphdef, params, image)
        dice = dice_loss(logits, label, squared=dice_squared)
        focal = focal_loss(logits, label, alpha=alpha, gamma=gamma)
        return dice + focal, {"dice_loss": dice, "focal_loss": focal}

    def step(state, batch):
        ct, pet, label = augment(batch)
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, parts), grads = grad_fn(state.params, normalise(ct, pet), label)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = TrainState(params, opt_state, state.step + 1, state.key)
        return state, {"loss": loss, **parts}

    replicated = NamedSharding(mesh, PartitionSpec())
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    return jax.jit(
        step,
        in_shardings=(replicated, over_data),
        out_shardings=(replicated, replicated),
        donate_argnums=0,
    )


def make_predict(graphdef) -> Callable:
    """Compiles (params, ct_hu, pet_suv) -> tumour probability, all volumes (B, D, H, W)."""

    @jax.jit
    def predict(params, ct_hu, pet_suv):
        return jax.nn.sigmoid(isanet.apply(graphdef, params, normalise(ct_hu, pet_suv)))

    return predict
