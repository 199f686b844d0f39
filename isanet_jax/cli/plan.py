"""The command line of isanet plan."""

import json
import os
import sys

from isanet_jax.arguments import Parser
from isanet_jax.errors import ConfigError
from isanet_jax.machine import GIB, MIB
from isanet_jax.planning.targets import GPUS

_NOTES = """
Peak memory is the compiler's: cuDNN's workspaces are not in it, and nothing was tuned on a card.
A GPU counts as fitting up to 92 % of its memory. The least time is the operations at the card's
published rate (float32: TF32), or its reads at its bandwidth: no step is faster. The roofline is an
estimate: each kind of operation takes the longer of its operations at that rate and its bytes at
the bandwidth, one kind after the other; starting kernels, and caches, are not in it."""


def parser() -> Parser:
    """The arguments of isanet plan."""
    root = Parser(
        description="Compiles the real train step and prediction for this CPU and for GPUs that "
        "need not be there, and says what they need.",
        epilog="Settings are changed as for train.py: --config.NAME=VALUE",
    )
    root.add_argument("--config", required=True, help="configuration file of train.py")
    root.add_argument(
        "--target",
        default="cpu,rtx3090,a100-40,h100",
        help=f"comma-separated, from cpu, {', '.join(GPUS)} (default: %(default)s)",
    )
    root.add_argument(
        "--batch",
        help="comma-separated batch sizes to compile (default: the config's, and its double)",
    )
    root.add_argument(
        "--mesh", help="devices as DATAxSPACE, such as 1x4: mesh.data and mesh.space of the config"
    )
    root.add_argument("--json", action="store_true", help="print JSON only")
    return root


def main(arguments=None) -> None:
    """Runs isanet plan."""
    args, overrides = parser().parse_known_args(arguments)
    if unknown := [word for word in overrides if not word.startswith("--config.")]:
        raise ConfigError(f"unexpected arguments {' '.join(unknown)}; settings are --config.NAME=V")
    os.environ["JAX_PLATFORMS"] = "cpu"  # the plan's compiler needs no GPU, and must not take one

    from isanet_jax.planning.plan import INSTALL, has_gpu_compiler
    from isanet_jax.settings.command_line import parse_command_line
    from isanet_jax.training.check import check_config

    config, _ = parse_command_line(["plan.py", f"--config={args.config}", *overrides])
    if args.mesh:
        config["mesh"] = _mesh(args.mesh)
    config = check_config(config)
    names = [name for name in args.target.split(",") if name]
    batches = _batches(args.batch, config)
    if unknown := [name for name in names if name not in ("cpu", *GPUS)]:
        raise ConfigError(f"--target {unknown[0]}: choose from cpu, {', '.join(GPUS)}")
    result = {"parameters": None, "targets": {}}
    if any(name in GPUS for name in names) and not has_gpu_compiler():
        print(f"GPUs are left out: their compiler is missing. Install it: {INSTALL}",
              file=sys.stderr)  # fmt: skip
        names = [name for name in names if name not in GPUS]
    for name in names:
        result["targets"][name] = _plan_target(config, name, batches, result)
        if not args.json:
            _show(name, result["targets"][name], first=name == names[0], result=result)
    if args.json:
        print(json.dumps(result, indent=2))
    elif any(name in GPUS for name in names):
        print(_NOTES)


def _mesh(text):
    data, _, space = text.partition("x")
    if not (data.isdigit() and space.isdigit()):
        raise ConfigError(f"--mesh is {text!r}; give DATAxSPACE, as in 1x4")
    return {"data": int(data), "space": int(space)}


def _batches(text, config):
    if text is None:
        return [config.train.batch, 2 * config.train.batch]
    try:
        batches = [int(word) for word in text.split(",")]
    except ValueError:
        batches = [0]
    data = config.mesh.data
    if min(batches) < 1 or any(batch % data for batch in batches):
        raise ConfigError(
            f"--batch {text}: give whole numbers above 0, multiples of mesh.data ({data})"
        )
    return batches


def _plan_target(config, name, batches, result):
    """What the config needs on one target, as plain values."""
    from isanet_jax.planning.plan import Plan

    plan = Plan(config, name)
    result["parameters"] = plan.parameters
    devices, usable = plan.mesh.size, plan.usable_bytes
    steps = {}
    for batch in batches:
        print(f"compiling {name}, batch {batch} ...", file=sys.stderr, flush=True)
        cost = plan.train_step(batch)
        steps[batch] = {
            "step_flops": cost.flops,
            "peak_bytes": cost.peak_bytes,
            "argument_bytes": cost.argument_bytes,
            "temporary_bytes": cost.temporary_bytes,
            "convolutions": cost.convolutions,
            "collectives": cost.collectives,
            "fits": cost.peak_bytes <= usable,
            "least_seconds": plan.fastest_seconds(cost, devices),
            **_estimate(plan, cost),
        }
    prediction = plan.prediction()
    largest, is_compiled = largest_batch(
        {batch: step["peak_bytes"] for batch, step in steps.items()}, usable, devices
    )
    return {
        "batch": batches[0],
        **steps[batches[0]],
        "devices": devices,
        "usable_bytes": usable,
        "batches": {str(batch): step for batch, step in steps.items()},
        "largest_batch": largest,
        "largest_batch_compiled": is_compiled,
        "prediction": {
            "flops": prediction.flops,
            "peak_bytes": prediction.peak_bytes,
            "fits": prediction.peak_bytes <= usable,
            "least_seconds": plan.fastest_seconds(prediction, 1),
            **_estimate(plan, prediction),
        },
    }


def _estimate(plan, cost):
    """The roofline's estimate: `roofline_seconds`, and `operations` by kind; None for the CPU."""
    seconds = plan.roofline(cost)
    kinds = {
        kind: {**each._asdict(), "roofline_seconds": seconds[kind]}
        for kind, each in (cost.operations or {}).items()
    }
    return {"roofline_seconds": sum(seconds.values()) or None, "operations": kinds}


def largest_batch(peaks: dict[int, int], usable: int, step: int) -> tuple[int, bool]:
    """The largest batch whose peak memory is within `usable` bytes.

    Args:
        peaks: batch -> peak bytes of the batches that were compiled.
        usable: bytes.
        step: the batch is a multiple of it.

    Returns:
        The batch, 0 where none fits, and whether it was compiled; otherwise it is read off the
        line through the smallest and the largest compiled batch.
    """
    fitting = [batch for batch, peak in peaks.items() if peak <= usable]
    low, high = min(peaks), max(peaks)
    if low == high or peaks[high] <= peaks[low]:
        return max(fitting, default=0), True
    each = (peaks[high] - peaks[low]) / (high - low)
    estimate = int((usable - peaks[low]) / each + low) // step * step
    best = max([estimate, *fitting, 0])
    if any(low < batch <= best and peak > usable for batch, peak in peaks.items()):
        best = max(fitting, default=0)
    return best, best in peaks or best == 0


def _show(name, target, *, first, result):
    if first:
        print(f"{result['parameters']:,} parameters\n")
        print(
            "| target | batch | TFLOP a step | peak GiB | of GiB | arguments | temporaries "
            "| convolution calls | collectives | fits | least s a step | roofline s |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for batch, step in target["batches"].items():
        collectives = ", ".join(
            f"{c['count']} {kind} ({c['bytes'] / MIB:.1f} MiB, largest {c['largest'] / MIB:.1f})"
            for kind, c in step["collectives"].items()
        )
        collectives = collectives or "none"
        print(
            f"| {name} | {batch} | {step['step_flops'] / 1e12:.3f} | {step['peak_bytes'] / GIB:.2f}"
            f" | {target['usable_bytes'] / GIB:.1f} | {step['argument_bytes'] / GIB:.2f} "
            f"| {step['temporary_bytes'] / GIB:.2f} | {step['convolutions']} | {collectives} "
            f"| {'yes' if step['fits'] else 'NO'} | {step['least_seconds']:.3f} "
            f"| {_seconds(step)} |"
        )
    predicted = target["prediction"]
    how = "compiled" if target["largest_batch_compiled"] else "estimated from those compiled"
    print(
        f"| {name} | prediction | {predicted['flops'] / 1e12:.3f} "
        f"| {predicted['peak_bytes'] / GIB:.2f} | {target['usable_bytes'] / GIB:.1f} | | | | "
        f"| {'yes' if predicted['fits'] else 'NO'} | {predicted['least_seconds']:.3f} "
        f"| {_seconds(predicted)} |"
    )
    print(
        f"| {name} | largest: {target['largest_batch']} ({how}) | | | | | | | | | | |", flush=True
    )
    _show_operations(name, target)


def _seconds(step):
    estimate = step["roofline_seconds"]
    return "" if estimate is None else f"{estimate:.3f}"


def _show_operations(name, target):
    """What a step of the first batch consists of, kind by kind."""
    kinds = target["operations"]
    if not kinds:
        return
    print(f"\n| {name}, batch {target['batch']}: calls | GiB read and written | TFLOP | ms |")
    print("|---|---|---|---|---|")
    for kind, each in kinds.items():
        print(
            f"| {kind} | {each['calls']} | {each['bytes'] / GIB:.2f} | {each['flops'] / 1e12:.3f} "
            f"| {1000 * each['roofline_seconds']:.1f} |"
        )
    print(flush=True)
