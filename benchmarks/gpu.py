"""The first hour on a GPU: python -m benchmarks.gpu [--output DIR] [--minutes 40].

Train step and prediction at 144^3 in float32 (TF32) and bfloat16, with and without recomputation,
in both layouts, beside the PyTorch twin done fairly; peak memory beside what the compiler says;
numbers against float64 on the CPU; augmentation; how long steps wait for case files; the ten
longest operations. No network, nothing to be asked. Every part is a process of its own, and what it
found is written before the next one starts (gpu.json, gpu.md): a run that is cut keeps it.
`--toy` is a size for CPUs, which shows that every part runs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np

from isanet_jax import runtime

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
# In this order, as far as the time goes: what is most asked for first. Compiling a step takes two
# minutes, the first time: `operations` is of a step that is compiled by then.
PARTS = (
    "device",
    "step isa bfloat16 none last",
    "operations isa bfloat16 none last",
    "torch bfloat16 plain",
    "torch float32 plain",
    "step isa float32 none last",
    "predict isa bfloat16",
    "augment",
    "numbers isa unet xie2021",
    "torch bfloat16 compiled",
    "step isa bfloat16 none first",
    "step isa bfloat16 blocks last",
    "waiting isa",
    "step isa float32 blocks last",
    "step isa float32 none first",
    "step unet bfloat16 none last",
    "step xie2021 bfloat16 none last",
    "predict isa float32",
    "predict unet bfloat16",
    "predict xie2021 bfloat16",
)
SIZE, TOY_SIZE = 144, 16
_SECONDS_MEASURED = 4.0


def main(arguments=None):
    """Runs the parts one after the other, and writes after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("gpu"))
    parser.add_argument("--minutes", type=float, default=40.0, help="parts are left out after that")
    parser.add_argument("--toy", action="store_true", help="16^3: for CPUs")
    parser.add_argument(
        "--parts", default=",".join(PARTS), help="comma-separated, in place of all: %(default)s"
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.part:
        name, *words = args.part.split()
        size = TOY_SIZE if args.toy else SIZE
        print("found " + json.dumps(globals()[f"measure_{name}"](size, *words)), flush=True)
        return
    args.output.mkdir(parents=True, exist_ok=True)
    deadline, results = time.monotonic() + 60 * args.minutes, {}
    for part in args.parts.split(","):
        left = deadline - time.monotonic()
        started = time.monotonic()
        results[part] = run_part(part, args.toy, left) if left > 0 else {"error": "no time left"}
        results[part]["part_seconds"] = round(time.monotonic() - started, 1)
        (args.output / "gpu.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
        (args.output / "gpu.md").write_text(report(results), encoding="utf-8")
        print(f"{part}: {results[part].get('error') or 'done'} "
              f"({results[part]['part_seconds']} s)", flush=True)  # fmt: skip
    print(f"written to {args.output / 'gpu.md'}")


def run_part(part, toy, seconds) -> dict:
    """What a part's own process finds, or `error`."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", part, *(["--toy"] if toy else [])]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return {"error": "cut: no time left"}
    for line in done.stdout.splitlines():
        if line.startswith("found "):
            return json.loads(line.removeprefix("found "))
    lines = (done.stderr or done.stdout).strip().splitlines()
    print("\n".join(lines[-20:]), file=sys.stderr, flush=True)
    return {"error": lines[-1][:300] if lines else f"ended with status {done.returncode}"}


def measure_device(size) -> dict:
    """The card, the versions, the memory that JAX may use."""
    runtime.setup()
    import jax

    device = jax.devices()[0]
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "jax-cuda13-plugin",
             "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")  # fmt: skip
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "python": sys.version.split()[0],
        "versions": versions,
        "memory_gib": (device.memory_stats() or {}).get("bytes_limit", 0) / GIB,
        "cores": os.cpu_count(),
        "size": size,
    }


def make_config(size, name="isa", dtype="float32", remat="none", layout="last"):
    """The default settings with these, checked."""
    runtime.setup()
    from isanet_jax.settings import Config, changed
    from isanet_jax.training.check import check_config

    changes = {"data.size": size, "model.name": name, "model.dtype": dtype, "model.remat": remat}
    changes["channels_last"] = layout == "last"
    if size == TOY_SIZE:
        changes |= {"model.width": 2, "model.levels": 3}
    return check_config(changed(Config(), changes))


def make_step(config):
    """(step, state, batch): the real train step, not compiled yet, and what it takes."""
    import jax

    from isanet_jax.distributed.mesh import (
        compiler_options,
        make_mesh,
        place_batch,
        state_shardings,
    )
    from isanet_jax.network import systems
    from isanet_jax.pipeline.inputs import make_inputs
    from isanet_jax.training.optimizer import make_optimizer, make_schedule
    from isanet_jax.training.step import init_state, make_train_step

    mesh = make_mesh(1, 1)
    optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 1, 1))
    graphdef, state = init_state(systems.of_config(config), optimizer, 0)
    step = make_train_step(
        graphdef, optimizer, mesh, make_inputs(config), loss=config.loss,
        options=compiler_options(config, mesh),
    )  # fmt: skip
    state = jax.device_put(state, state_shardings(state, mesh))
    return step, state, place_batch(make_batch(config), mesh)


def make_batch(config):
    """A batch of one made-up case, rotated."""
    import jax

    from isanet_jax.pipeline.inputs import batch_shapes, make_inputs

    generator = np.random.default_rng(0)
    shapes = batch_shapes(1, make_inputs(config))
    batch = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    volume = batch["images"]["ct"].shape
    batch["images"]["ct"] += generator.normal(0, 300, volume).astype(np.float32)
    batch["images"]["pet"] += generator.gamma(1, 2, volume).astype(np.float32)
    batch["labels"]["tumour"] += np.uint8(2) * (generator.random(volume) < 0.02)
    batch["outside"]["ct"] -= 1024
    batch["centre"] += (np.float32(volume[1:]) - 1) / 2
    batch["rotation"] += np.float32([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    return batch


def measure_step(size, name, dtype, remat, layout) -> dict:
    """Seconds of the real train step, compilation, and memory: measured, and the compiler's."""
    import jax

    from isanet_jax.training.cost import analyse_cost, count_flops

    step, state, batch = make_step(make_config(size, name, dtype, remat, layout))
    started = time.perf_counter()
    lowered = step.lower(state, batch)
    compiled = lowered.compile()
    compiling = time.perf_counter() - started
    cost = analyse_cost(compiled, count_flops(lowered, step, (state, batch)))
    holder = [state]

    def call():
        holder[0], metrics = compiled(holder[0], batch)
        return metrics["loss"]

    seconds = time_of(call, jax.block_until_ready)
    loss = float(call())
    return {
        "seconds": seconds,
        "compile_seconds": compiling,
        "tflops": cost.flops / seconds / 1e12,
        "peak_gib": peak_gib(),
        "planned_gib": cost.peak_bytes / GIB,
        "loss_is_finite": bool(np.isfinite(loss)),
    }


def measure_predict(size, name, dtype) -> dict:
    """Seconds of the prediction of one volume that is on the device."""
    import jax

    from isanet_jax.distributed.mesh import compiler_options, make_mesh
    from isanet_jax.network import systems
    from isanet_jax.training.step import make_predict

    config = make_config(size, name, dtype)
    mesh = make_mesh(1, 1)
    graphdef, params = systems.create(systems.of_config(config), jax.random.key(0))
    kinds = tuple(config.data.kinds.items())
    predict = make_predict(graphdef, mesh, kinds, options=compiler_options(config, mesh))
    images = dict.fromkeys(dict(kinds), jax.numpy.ones((1, size, size, size)))
    seconds = time_of(lambda: predict(params, images), jax.block_until_ready)
    return {"seconds": seconds, "peak_gib": peak_gib()}


def measure_torch(size, dtype, how) -> dict:
    """Seconds of the twin's train step: channels last, autocast, cudnn.benchmark, compiled or not.

    Data and augmentation are left out, as they are in PyTorch's loaders: the step above has them.
    """
    import torch

    from benchmarks import twin

    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    width, levels = (2, 3) if size == TOY_SIZE else (16, 5)
    network = twin.Twin(width, levels).to(device, memory_format=torch.channels_last_3d)
    optimizer = torch.optim.Adam(network.parameters(), 3e-4, betas=(0.9, 0.99))
    generator = np.random.default_rng(0)
    image = torch.tensor(generator.normal(size=(1, 2, size, size, size)).astype(np.float32))
    image = image.to(device, memory_format=torch.channels_last_3d)
    label = (torch.rand(1, size, size, size) < 0.02).float().to(device)
    forward = torch.compile(network) if how == "compiled" and on_gpu else network

    def call():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = forward(image)
        value = twin.loss(logits.float(), label[:, None])
        value.backward()
        optimizer.step()
        return value

    started = time.perf_counter()
    float(call())
    first = time.perf_counter() - started
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)
    seconds = time_of(call, lambda _: wait())
    peak = torch.cuda.max_memory_allocated() / GIB if on_gpu else 0.0
    return {
        "seconds": seconds,
        "compile_seconds": first,
        "peak_gib": peak,
        "torch": torch.__version__,
    }


def measure_augment(size) -> dict:
    """Seconds of rotation, mirroring and normalisation of one case on the device."""
    runtime.setup()
    import jax

    from isanet_jax.pipeline.augment import augment
    from isanet_jax.pipeline.inputs import make_inputs
    from isanet_jax.pipeline.normalise import normalise

    config = make_config(size)
    inputs, batch = make_inputs(config), jax.device_put(make_batch(config))

    @jax.jit
    def function(batch):
        images, _, _ = augment(batch, inputs.shape)
        return normalise(images, inputs.images, of_volume=True)

    return {"seconds": time_of(lambda: function(batch), jax.block_until_ready)}


def measure_operations(size, name, dtype, remat, layout) -> dict:
    """The ten longest operations of three traced steps, as Markdown."""
    import jax

    from isanet_jax.training.profile import StepTrace

    step, state, batch = make_step(make_config(size, name, dtype, remat, layout))
    with tempfile.TemporaryDirectory() as folder:
        trace = StepTrace(Path(folder), 3)
        for _ in range(6):
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
            trace.step_done()
        trace.stop()
        table = (Path(folder) / "operations.md").read_text(encoding="utf-8")
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return {"table": lines[:12], "whole": table.splitlines()[2]}


def measure_waiting(size, name) -> dict:
    """Share of a training's time that its steps waited for case files, and its steps' seconds."""
    config = make_config(size, name, "bfloat16")
    from isanet_jax.datasets.phantom import FIELD_MM
    from isanet_jax.runs.log import read_log
    from isanet_jax.settings import changed
    from isanet_jax.training.loop import train

    with tempfile.TemporaryDirectory() as folder:
        data = {"cases": f"{folder}/cases", "phantoms": 6, "spacing_mm": FIELD_MM / size}
        changes = {f"data.{key}": value for key, value in data.items()}
        changes |= {"selection": "paper", "train.epochs": 1, "train.steps_per_epoch": 24}
        config = changed(config, changes)
        train(config, Path(folder) / "run")
        lines = [x for x in read_log(Path(folder) / "run" / "metrics.jsonl") if "loss" in x][4:]
    seconds = [line["seconds"] for line in lines]
    waiting = sum(line["waiting_seconds"] for line in lines)
    return {"seconds": float(np.median(seconds)), "waiting_share": waiting / sum(seconds)}


def measure_numbers(size, *networks) -> dict:
    """Differences from float64 on the CPU, relative, as root mean squares.

    Of the native convolutions, small networks, and the gradients of both; on the device
    in float32 as it is computed by default (TF32 on GPUs), in float32 throughout, and in bfloat16.
    """
    runtime.setup()
    os.environ["JAX_PLATFORMS"] = ""  # the CPU, too
    import jax

    jax.config.update("jax_enable_x64", True)
    from isanet_jax.network import convolution
    from isanet_jax.network.config import ModelConfig

    generator = np.random.default_rng(0)
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    operations = {
        "conv 5^3": (lambda x, k: convolution.conv3d(x, k, "native"), (5, 5, 5, 8, 8)),
        "conv 1^3": (lambda x, k: convolution.conv3d(x, k, "native"), (1, 1, 1, 8, 8)),
        "conv dilated": (
            lambda x, k: convolution.conv3d(x, k, "native", dilation=2),
            (3, 3, 3, 8, 8),
        ),
        "upsample": (lambda x, k: convolution.upsample_conv3d(x, k, "native"), (3, 3, 3, 8, 8)),
        "max pool": (lambda x, k: convolution.max_pool(x) + 0 * k, (1,)),
    }
    cases = {}
    for name, (function, shape) in operations.items():
        arrays = [generator.normal(size=s) for s in ((2, 12, 12, 12, 8), shape)]
        cases[name] = (lambda x, k, f=function: jax.numpy.square(f(x, k)).mean(), arrays)
    config = ModelConfig(size=16, width=4, levels=3, convolution="native", dtype="float64")
    image = generator.normal(size=(1, 16, 16, 16, 2))
    for name in networks:
        cases[f"network {name}"] = _network_case(name, config, image)
    found = {}
    with jax.default_device(cpu):
        exact = {name: _value_and_gradients(f, a, np.float64) for name, (f, a) in cases.items()}
    for how, dtype in (("default", np.float32), ("highest", np.float32), ("bfloat16", "bfloat16")):
        with jax.default_device(device), jax.default_matmul_precision(
            "highest" if how == "highest" else "default"
        ):  # fmt: skip
            for name, (function, arrays) in cases.items():
                got = _value_and_gradients(function, arrays, dtype)
                found.setdefault(name, {})[how] = max(
                    float(np.linalg.norm(a - b) / np.linalg.norm(b))
                    for a, b in zip(got, exact[name], strict=True)
                )
    return {"differences": found}


def _network_case(name, config, image):
    """(function of the leaves, leaves): the mean square of a network's logits."""
    import dataclasses

    import jax

    from isanet_jax.network import systems

    config = dataclasses.replace(config, name=name, levels=3, width=4)
    _, params = systems.create(config, jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)

    def function(*leaves):
        dtype = "float64" if leaves[0].dtype == np.float64 else str(leaves[0].dtype)
        half = dtype == "bfloat16"  # parameters stay float32
        this = dataclasses.replace(config, dtype=dtype)
        module = systems.create_abstract(this)[0]
        values = [x.astype(np.float32) if half else x for x in leaves]
        tree = jax.tree.unflatten(structure, values)
        logits = systems.apply(module, tree, image.astype(values[0].dtype)).logits
        return jax.numpy.square(logits).mean()

    return function, [np.asarray(leaf, np.float64) for leaf in leaves]


def _value_and_gradients(function, arrays, dtype):
    import jax

    given = [jax.numpy.asarray(a, dtype) for a in arrays]
    value, gradients = jax.jit(jax.value_and_grad(function, tuple(range(len(given)))))(*given)
    whole = np.concatenate([np.asarray(g, np.float64).ravel() for g in gradients])
    return np.asarray(value, np.float64), whole


def time_of(call, wait) -> float:
    """Seconds of a call, the mean over some seconds of them after two that do not count."""
    for _ in range(2):
        wait(call())
    calls, started = 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - started < _SECONDS_MEASURED:
        last = call()
        calls += 1
        if calls % 5 == 0 or calls < 3:
            wait(last)
        if calls >= 200:
            break
    wait(last)
    return (time.perf_counter() - started) / calls


def peak_gib() -> float:
    """What JAX has had in use of the device's memory; 0 where it does not say (CPUs)."""
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / GIB


def report(results) -> str:
    """The results as Markdown."""
    device = results.get("device", {})
    size = device.get("size", "?")
    lines = [
        f"# {device.get('device', 'unknown device')}, {size}^3, batch 1",
        "",
        f"Python {device.get('python')}, "
        + ", ".join(f"{k} {v}" for k, v in device.get("versions", {}).items())
        + f"; {device.get('memory_gib', 0):.1f} GiB for JAX, {device.get('cores')} cores.",
        "",
        "| train step, prediction | s | of PyTorch's fastest in that dtype | peak GiB | planned "
        "| TFLOP/s | compiling s |",
        "|---|---|---|---|---|---|---|",
    ]
    twins = {}
    for part, found in results.items():
        if part.startswith("torch") and "seconds" in found:
            dtype = part.split()[1]
            twins[dtype] = min(found["seconds"], twins.get(dtype, np.inf))
    for part, found in results.items():
        if not part.startswith(("step", "torch", "predict")):
            continue
        if "error" in found:
            lines.append(f"| {part} | {found['error']} | | | | | |")
            continue
        dtype = next(word for word in part.split() if word in ("float32", "bfloat16"))
        comparable = part.startswith(("step isa", "torch")) and dtype in twins
        ratio = f"{found['seconds'] / twins[dtype]:.2f}" if comparable else ""
        numbers = [
            f"{found[key]:.2f}" if found.get(key) else ""
            for key in ("peak_gib", "planned_gib", "tflops", "compile_seconds")
        ]
        name = f"{part} (PyTorch {found['torch']})" if "torch" in found else part
        lines.append(f"| {name} | {found['seconds']:.4f} | {ratio} | {' | '.join(numbers)} |")
    for part, found in results.items():
        if part.startswith("numbers"):
            lines += _numbers_table(found)
        if part.startswith(("augment", "waiting")):
            shown = {k: round(v, 5) if isinstance(v, float) else v for k, v in found.items()}
            lines += ["", f"{part}: " + ", ".join(f"{k} {v}" for k, v in shown.items())]
    for part, found in results.items():
        if part.startswith("operations"):
            lines += ["", f"## {part}", "", found.get("whole", found.get("error", "")), ""]
            lines += found.get("table", [])
    return "\n".join(lines) + "\n"


def _numbers_table(numbers):
    if "differences" not in numbers:
        return ["", f"numbers: {numbers.get('error', 'not measured')}"]
    lines = [
        "",
        "Difference of value or gradients from float64 on the CPU, relative, root mean squares:",
        "",
        "| | float32, as computed by default | float32 throughout | bfloat16 |",
        "|---|---|---|---|",
    ]
    for name, found in numbers["differences"].items():
        shown = " | ".join(f"{found[how]:.1e}" for how in ("default", "highest", "bfloat16"))
        lines.append(f"| {name} | {shown} |")
    return lines


if __name__ == "__main__":
    main()
