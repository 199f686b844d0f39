"""The train step and the prediction, as pure functions that are compiled once."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from isanet_jax.distributed.mesh import state_shardings, whole_value
from isanet_jax.distributed.placement import on_each_device, on_parts, over_mesh
from isanet_jax.kinds import WIDE, CtWindow
from isanet_jax.losses import segmentation_loss
from isanet_jax.network import systems
from isanet_jax.network.guidance import drawn_maps, with_maps
from isanet_jax.network.whole_volume import mirrored
from isanet_jax.pipeline.augment import augment
from isanet_jax.pipeline.inputs import Inputs
from isanet_jax.pipeline.intensity import change_intensity
from isanet_jax.pipeline.normalise import normalise, normalised
from isanet_jax.runs.checkpoint import TrainState
from isanet_jax.settings.table import Loss

# Of a step whose volumes are split. XLA's GPU scheduler moves operations away from where memory is
# least in use, to overlap them with the exchange of planes: 4 % more memory with remat=blocks
# (docs/evidence/distributed.md). It is left out: volumes are split for memory.
_FOR_MEMORY = {"xla_disable_hlo_passes": "latency-hiding-scheduler"}


def not_finite(tree) -> list[str]:
    """Names of a state's arrays that hold a NaN or an infinity."""
    return [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if not np.isfinite(whole_value(leaf)).all()
    ]


def init_state(model_config, optimizer, seed: int) -> tuple[nnx.GraphDef, TrainState]:
    """Draws the parameters from `seed` and starts the optimiser."""
    key = jax.random.key(seed)
    graphdef, params = systems.create(model_config, key)
    # Adam and SGD start from zeros; running their `init` would compile for each shape.
    shapes = jax.eval_shape(optimizer.init, params)
    opt_state = jax.device_put(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes))
    state = TrainState(params, opt_state, jnp.zeros((), jnp.int32), jax.random.key_data(key))
    return graphdef, state


def abstract_state(model_config, optimizer) -> tuple[nnx.GraphDef, TrainState]:
    """`init_state` without its numbers: shapes and types, for compiling and for loading."""
    graphdef, params = systems.create_abstract(model_config)
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    step = jax.ShapeDtypeStruct((), jnp.int32)
    return graphdef, TrainState(params, jax.eval_shape(optimizer.init, params), step, key)


def make_train_step(
    graphdef, optimizer, mesh: Mesh, inputs: Inputs, *, loss: Loss, options: tuple = ()
) -> Callable:
    """Compiles (state, batch) -> (state, metrics); the state's memory is reused.

    Args:
        graphdef: the network's structure.
        optimizer: optax transformation.
        mesh: the batch is split over its `data` axis, its volumes' depth over `space`; the state
            lies as `isanet_jax.distributed.mesh.state_shardings` says.
        inputs: what a batch holds, see `isanet_jax.pipeline.dataset.training_data`.
        loss: the settings of it.
        options: of the compiler, see `isanet_jax.distributed.mesh.compiler_options`.

    Returns:
        The step. Its metrics are scalars: loss and its parts; and stop, where the batch has it:
        whether any element of it is True.
    """
    network = on_parts(partial(systems.apply, graphdef), mesh)

    def loss_fn(params, image, label, ignored):
        return segmentation_loss(network(params, image), label, loss, ignored)

    def guided_loss_fn(params, image, label, ignored, key):
        """The mean of the loss without clicks, and with some where the network errs without."""
        alone = network(params, with_maps(image, {}, inputs.guided_classes))
        maps = drawn_maps(key, jax.lax.stop_gradient(alone.logits), label).astype(image.dtype)
        shown = network(params, jnp.concatenate([image, maps], axis=-1))
        both = (segmentation_loss(out, label, loss, ignored) for out in (alone, shown))
        return jax.tree.map(lambda a, b: (a + b) / 2, *both)

    def step(state, batch):
        # Rotation reads a whole volume, which every device has, for the part that it keeps.
        augmented = augment(batch, inputs.shape)
        images, labels, ignored = augmented
        given = {"of_volume": inputs.of_volume, "ct_windows": inputs.ct_windows}
        if inputs.has_intensity:  # looks at whole volumes, too
            channels = normalised(images, inputs.images, **given)
            channels = on_each_device(change_intensity, mesh)(channels, batch["intensity"])
            image = jnp.stack([over_mesh(x, mesh) for x in channels], axis=-1)
        else:
            images = {name: over_mesh(x, mesh) for name, x in images.items()}
            image = normalise(images, inputs.images, **given)
        labels, ignored = jax.tree.map(partial(over_mesh, mesh=mesh), (labels, ignored))
        label = jnp.stack([labels[name] for name in inputs.classes], axis=-1)
        of_loss = loss_fn
        if inputs.guided_classes:
            key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
            of_loss = partial(guided_loss_fn, key=key)
        grad_fn = jax.value_and_grad(of_loss, has_aux=True)
        (loss_value, parts), grads = grad_fn(state.params, image, label, ignored)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = TrainState(params, opt_state, state.step + 1, state.key)
        metrics = {"loss": loss_value, **parts}
        if "stop" in batch:
            metrics["stop"] = jnp.any(batch["stop"])
        return jax.lax.with_sharding_constraint(state, state_shardings(state, mesh)), metrics

    replicated = NamedSharding(mesh, PartitionSpec())
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    # Of split volumes, the state lies where it is given: not all of it is replicated.
    of_state = replicated if mesh.shape["space"] == 1 else None
    return jax.jit(
        step,
        in_shardings=(of_state, over_data),
        out_shardings=(of_state, replicated),
        donate_argnums=0,
        compiler_options=dict(options) | (_FOR_MEMORY if mesh.shape["space"] > 1 else {}),
    )


def make_predict(
    graphdef,
    mesh: Mesh,
    kinds: tuple[tuple[str, str], ...],
    *,
    of_volume: bool = True,
    ct_windows: tuple[CtWindow, ...] = (WIDE,),
    mirror: bool = False,
    guided_classes: int = 0,
    options: tuple = (),
) -> Callable:
    """Compiles (params, images) -> probability (B, D, H, W, classes).

    The images are name -> (B, D, H, W), see `isanet_jax.pipeline.normalise.standardised`.

    Args:
        graphdef: the network's structure.
        mesh: volumes are spread over its `data` axis, of which B is a multiple, and a volume's
            depth is split over `space`.
        kinds: (name, kind) of the images, in the order of the network's channels.
        of_volume, ct_windows: see `isanet_jax.pipeline.normalise.normalise`.
        mirror: take the mean over the eight mirror images (nnU-Net's test-time augmentation).
        guided_classes: for how many classes the network takes clicks; `images` may have their maps
            (`isanet_jax.network.guidance.names`).
        options: of the compiler, see `isanet_jax.distributed.mesh.compiler_options`.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    network = on_parts(partial(systems.apply, graphdef), mesh)

    def predict(params, images):
        def probability(image):
            return jax.nn.sigmoid(network(params, image).logits)

        whole = mirrored(probability) if mirror else probability
        images = {name: over_mesh(x, mesh) for name, x in images.items()}
        image = normalise(images, dict(kinds), of_volume=of_volume, ct_windows=ct_windows)
        return whole(with_maps(image, images, guided_classes))

    return jax.jit(
        predict,
        in_shardings=(replicated, over_data),
        out_shardings=over_data,
        compiler_options=dict(options),
    )
