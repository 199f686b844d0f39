"""Compiles the train step and the prediction of a config for a target, and says what they need.

GPUs need not be there: the CUDA plugin of JAX compiles for a described card (see
docs/evidence/speed.md). Such a compile has no autotuning and does not count the convolution
library's workspaces.
"""

import contextlib
import importlib.util
import time

import jax
import numpy as np
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from isanet_jax.distributed.mesh import compiler_options, make_mesh, make_mesh_of, state_shardings
from isanet_jax.errors import ConfigError
from isanet_jax.machine import GPU_MEMORY_SHARE
from isanet_jax.network import systems
from isanet_jax.pipeline.inputs import batch_shapes, make_inputs
from isanet_jax.planning.operations import operations, roofline_seconds
from isanet_jax.planning.targets import GPUS, Gpu
from isanet_jax.settings import Config, changed
from isanet_jax.training.cost import StepCost, analyse_cost, count_flops, device_bytes
from isanet_jax.training.optimizer import make_optimizer, make_schedule
from isanet_jax.training.step import abstract_state, make_predict, make_train_step

INSTALL = f"pip install jax-cuda12-plugin=={jax.__version__}"


def has_gpu_compiler() -> bool:
    """Whether the CUDA plugin is installed; a GPU or its driver is not needed."""
    return importlib.util.find_spec("jax_cuda12_plugin") is not None


def target_mesh(target: str, data: int, space: int = 1) -> Mesh:
    """A mesh of `data` x `space` devices of the target, real (`cpu`) or described.

    Raises:
        ConfigError: an unknown target, or no compiler for it.
    """
    if target == "cpu":
        return make_mesh(data, space)
    if target not in GPUS:
        raise ConfigError(f"--target {target}: choose from cpu, {', '.join(GPUS)}")
    if not has_gpu_compiler():
        raise ConfigError(f"{target} needs JAX's CUDA compiler (182 MB, no GPU): {INSTALL}")
    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=GPUS[target].config_proto(),
        topology=f"1x1x{data * space}",
    )
    return make_mesh_of(topology.devices, data, space)


class Plan:
    """A config, ready to be compiled for one target.

    Attributes:
        text: of what was compiled last for a GPU, as XLA's compiler has made it.

    Args:
        config: the settings, checked.
        target: `cpu` or a name of `isanet_jax.planning.targets.GPUS`.
    """

    def __init__(self, config: Config, target: str):
        if config.model.convolution == "auto":
            form = "folded" if target == "cpu" else "native"
            config = changed(config, {"model.convolution": form})
        self.config, self.text = config, ""
        self.gpu: Gpu | None = GPUS.get(target)
        self.inputs = make_inputs(self.config)
        self.mesh = target_mesh(target, config.mesh.data, config.mesh.space)
        schedule = make_schedule(config.optimizer, config.train.epochs, 1)
        self.optimizer = make_optimizer(config.optimizer, schedule)
        self.graphdef, self._state = abstract_state(systems.of_config(config), self.optimizer)
        self.parameters = systems.count_parameters(self._state.params)

    @property
    def usable_bytes(self) -> int:
        """Memory of a device of the target that a computation may use."""
        if self.gpu is None:
            return device_bytes(jax.devices()[0])
        return int(GPU_MEMORY_SHARE * self.gpu.memory_bytes)

    def train_step(self, batch: int) -> StepCost:
        """What the real train step needs of each device, for a global batch."""
        arrays = batch_shapes(batch, self.inputs)

        def lower(mesh, arrays):
            step = make_train_step(
                self.graphdef,
                self.optimizer,
                mesh,
                self.inputs,
                loss=self.config.loss,
                options=compiler_options(self.config, mesh),
            )
            state = _shaped(self._state, state_shardings(self._state, mesh))
            return step.lower(state, arrays)

        return self._cost(lower, arrays)

    def prediction(self) -> StepCost:
        """What the real prediction of one volume needs, or of one window."""
        volume = jax.ShapeDtypeStruct((1, *self.config.data.input_shape), np.float32)
        images = dict.fromkeys(self.inputs.images, volume)
        # One volume: over the devices that share it.
        one = Mesh(self.mesh.devices[:1], self.mesh.axis_names, axis_types=self.mesh.axis_types)

        def lower(mesh, images):
            predict = make_predict(
                self.graphdef,
                mesh,
                tuple(self.inputs.images.items()),
                of_volume=self.inputs.of_volume,
                mirror=self.config.mirrors_input,
                guided_classes=self.inputs.guided_classes,
                options=compiler_options(self.config, mesh),
            )
            return predict.lower(_placed(self._state.params, mesh), images)

        return self._cost(lower, images, mesh=one)

    def _cost(self, lower, batched, mesh=None):
        mesh = mesh or self.mesh
        here = make_mesh(1, 1)
        flops = count_flops(lower(here, _placed(batched, here)))
        lowered = lower(mesh, _placed(batched, mesh, "data"))
        with contextlib.nullcontext() if self.gpu is None else _not_kept():
            compiled = lowered.compile()
        cost = analyse_cost(compiled, flops)
        if self.gpu is None:
            return cost
        self.text = compiled.as_text()
        return cost._replace(operations=operations(self.text))

    def fastest_seconds(self, cost: StepCost, devices: int) -> float:
        """The roofline's lower bound of a call's time: nothing but its operations, or its reads.

        For the CPU, the rate is that of a matrix product on this machine, measured now.
        """
        if self.gpu is None:
            return cost.flops / matrix_product_rate()
        rate = 1e12 * self.gpu.tflops[self.config.model.dtype] * devices
        return max(cost.flops / rate, cost.argument_bytes / self.gpu.bandwidth)

    def roofline(self, cost: StepCost) -> dict[str, float]:
        """Kind of operation -> seconds at the card's published rates, see `roofline_seconds`.

        A device's part of a call on several; the exchange between them is not in it. Nothing for
        the CPU.
        """
        if self.gpu is None:
            return {}
        rate = 1e12 * self.gpu.tflops[self.config.model.dtype]
        return roofline_seconds(cost.operations, rate, self.gpu.bandwidth)


@contextlib.contextmanager
def _not_kept():
    """Leaves JAX's cache of compiled functions alone: one for a card that is not attached can be
    written to it, and then not be read.
    """
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # what was settled at the first compilation
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _placed(tree, mesh, *axes):
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return _shaped(tree, jax.tree.map(lambda _: sharding, tree))


def _shaped(tree, shardings):
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree, shardings
    )


def matrix_product_rate() -> float:
    """Operations per second of a float32 matrix product of 2048^2 on this machine's CPU."""
    x = jax.numpy.ones((2048, 2048))
    product = jax.jit(lambda a: a @ a)
    product(x).block_until_ready()
    started = time.perf_counter()
    for _ in range(3):
        product(x).block_until_ready()
    return 3 * 2 * 2048**3 / (time.perf_counter() - started)
