"""What a compiled function needs of its device: operations, memory, library calls."""

import gc
import math
import re
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from isanet_jax.machine import memory_bytes
from isanet_jax.pipeline.inputs import Inputs, batch_shapes

_BYTES = {
    **{"f64": 8, "s64": 8, "u64": 8, "c64": 8, "f32": 4, "s32": 4, "u32": 4},
    **{"bf16": 2, "f16": 2, "s16": 2, "u16": 2, "pred": 1, "s8": 1, "u8": 1},
}
_ARRAY = re.compile(rf"\b({'|'.join(_BYTES)})\[([\d,]*)\]")
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class StepCost(NamedTuple):
    """The cost of one call, on each device.

    Attributes:
        flops: of the whole batch, before optimisation; recomputation counts.
        peak_bytes: largest memory in use at a time.
        argument_bytes, temporary_bytes: of it, what goes in and what is computed on the way.
        convolutions: calls of the GPU's convolution library (cuDNN).
        collectives: kind -> `count`, `bytes` (of all results on a device) and `largest` (of one).
        operations: of `isanet_jax.planning.operations.operations`, where they were read.
    """

    flops: float
    peak_bytes: int
    argument_bytes: int
    temporary_bytes: int
    convolutions: int
    collectives: dict[str, dict[str, int]]
    operations: dict | None = None


def analyse_cost(compiled: jax.stages.Compiled, flops: float) -> StepCost:
    """Reads what XLA says of a compiled function.

    On the CPU, whose compiler states no peak, it is the arguments and temporaries together.
    """
    memory = compiled.memory_analysis()
    text = compiled.as_text()
    whole = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    # The CPU's "peak" leaves the temporaries out; a true one is never below either part.
    peak = memory.peak_memory_in_bytes
    if peak < max(memory.argument_size_in_bytes, memory.temp_size_in_bytes):
        peak = whole
    return StepCost(
        flops=flops,
        peak_bytes=peak,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        convolutions=len(re.findall(r'custom_call_target="__cudnn\$conv', text)),
        collectives=analyse_collectives(text),
    )


def named_arrays(text: str) -> list[tuple[tuple[int, ...], int]]:
    """(shape, bytes) of each array that a piece of a compiled function's text names."""
    arrays = []
    for dtype, dimensions in _ARRAY.findall(text):
        shape = tuple(map(int, dimensions.split(","))) if dimensions else ()
        arrays.append((shape, _BYTES[dtype] * math.prod(shape)))
    return arrays


def analyse_collectives(text: str) -> dict[str, dict[str, int]]:
    """Counts the collective operations in a compiled function's text, and the bytes they give."""
    collectives = {}
    for result, kind, start in re.findall(rf"= (.*?) ({'|'.join(_COLLECTIVES)})(-start)?\(", text):
        sizes = [size for _, size in named_arrays(result)]
        # A started operation's result names its operands too, and a counter or two.
        size = max(sizes, default=0) if start else sum(sizes)
        entry = collectives.setdefault(kind, {"count": 0, "bytes": 0, "largest": 0})
        entry["count"] += 1
        entry["bytes"] += size
        entry["largest"] = max(entry["largest"], size)
    return collectives


def compile_with_cost(
    train_step, state, batch_size: int, inputs: Inputs
) -> tuple[jax.stages.Compiled, StepCost]:
    """Compiles a jitted train step for the batches of a run.

    Args:
        train_step: of `isanet_jax.training.step.make_train_step`.
        state: its first argument, or the shapes of it.
        batch_size: cases in a step, over all devices.
        inputs: what a batch holds.
    """
    batch = batch_shapes(batch_size, inputs)
    if jax.process_count() > 1:
        batch["stop"] = jax.ShapeDtypeStruct((batch_size,), np.bool_)
    # Tracing makes millions of objects that live on: looking for garbage among them took a third of
    # its time.
    gc.disable()
    try:
        lowered = train_step.lower(state, batch)
        with ThreadPoolExecutor(1) as pool:  # counting takes a second where compiling is cached
            flops = pool.submit(count_flops, lowered, train_step, (state, batch))
            compiled = lowered.compile()
            return compiled, analyse_cost(compiled, flops.result())
    finally:
        gc.enable()


def count_flops(lowered: jax.stages.Lowered, function=None, arguments=()) -> float:
    """Floating-point operations of a function as XLA counts them, before optimisation.

    Args:
        lowered: the function.
        function, arguments: the jitted function itself, for GPUs, whose compiler does not count:
            it is lowered for the processor then.

    Returns:
        0 where nobody counts: on several GPUs, or where JAX may not use the processor.
    """
    analysis = lowered.cost_analysis()
    if analysis is None and function is not None and jax.process_count() == 1:
        analysis = _analysis_on_cpu(function, arguments)
    return float((analysis or {}).get("flops", 0.0))


def _analysis_on_cpu(function, arguments):
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS=cuda
        return None
    exported = jax.export.export(function, platforms=("cpu",))(*arguments)
    if exported.nr_devices > 1:
        return None
    here = jax.sharding.SingleDeviceSharding(device)
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), arguments
    )
    return jax.jit(exported.call).lower(*placed).cost_analysis()


def device_bytes(device: jax.Device) -> int:
    """Memory that computations may use: of a GPU what JAX manages, of the CPU the process's."""
    if device.platform == "cpu":
        return memory_bytes() or 0
    return int((device.memory_stats() or {}).get("bytes_limit", 0))
