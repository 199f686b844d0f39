"""The same time for every method, of the processor or of a GPU: how many epochs of each fit in.

What a method's start, step and validation cost is measured once for each method of a comparison, in
a process of its own (`python -m isanet_jax.comparison.budget`), and kept in the method's folder:
so a comparison that is resumed trains what it began with.
"""

import copy
import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

from isanet_jax import machine, runtime
from isanet_jax.comparison.grid import Cell, make_cells
from isanet_jax.comparison.resources import divide_resources
from isanet_jax.comparison.runner import module_command, module_environment, reason_of
from isanet_jax.errors import ConfigError, damaged
from isanet_jax.files import write_json
from isanet_jax.locks import only_here
from isanet_jax.settings import Config, read, to_dict

_log = logging.getLogger(__name__)

COST = "cost.json"  # in a method's folder
VALIDATIONS = 5  # of a training, over its epochs
_CLOCKS = {"cpu": "the processor's", "gpu": "the GPU's"}  # whose time is shared
_WARM_STEPS, _STEPS = 2, 6


def within_budget(comparison: dict, workdir: Path, *, jobs: int = 0) -> dict:
    """The comparison, with as many epochs for each method as its minutes allow.

    Args:
        comparison: see configs/compare/comparison.py; without `cpu_minutes` and `gpu_minutes` it is
            returned as it is.
        workdir: of the comparison; gets METHOD/cost.json where there is none.
        jobs: as of `isanet_jax.comparison.runner.run_cells`: a method's cost is measured on what
            one of its cells gets.

    Raises:
        ConfigError: a method of which not one epoch fits, or whose measuring failed; minutes of
            both, or of what does not train here.
    """
    clock, minutes = minutes_of(comparison)
    if not minutes:
        return comparison
    if comparison.get("cpu_minutes") and comparison.get("gpu_minutes"):
        raise ConfigError("cpu_minutes and gpu_minutes are both given; leave one of them 0")
    resources = divide_resources(jobs)[0]
    if clock == "cpu" and resources.gpu is not None:
        raise ConfigError(
            "cpu_minutes compares trainings on the processor, and there is a GPU; give gpu_minutes "
            "in its place, or hide the GPU with JAX_PLATFORMS=cpu"
        )
    if clock == "gpu" and resources.gpu is None:
        raise ConfigError(
            "gpu_minutes compares trainings on a GPU, and there is none here; give cpu_minutes in "
            "its place"
        )
    comparison = copy.deepcopy(comparison)
    of_method = {}
    for cell in make_cells(comparison, workdir):
        of_method.setdefault(cell.method, cell)
    for name in comparison["order"]:
        if "masks" in comparison["methods"][name]:
            continue
        cost = _cost(of_method[name], Path(workdir) / name, resources, clock)
        method = comparison["methods"][name]
        settings, members = method["settings"], len(of_method[name].members)
        networks = networks_within(cost, minutes, members, method.get("least_epochs", 0))
        if networks < members:
            method["members"] = method["members"][:networks]
            _log.info(
                f"{name}: {networks} of its {members} networks; with more, each would have fewer "
                f"than {method['least_epochs']} epochs",
            )
        epochs = epochs_within(cost, minutes / max(networks, 1))
        if epochs < 1:
            raise ConfigError(
                f"{clock}_minutes is {minutes:g}, and the method {name} needs "
                f"{cost['start_s']:.0f} s to start and {cost['epoch_s']:.0f} s for an epoch of "
                f"{_CLOCKS[clock]} time; allow more, or make the method smaller"
            )
        every = math.ceil(epochs / VALIDATIONS)
        settings["train"] = settings.get("train", {}) | {
            "epochs": epochs,
            "validate_every": every,
        }
        rates = of_method[name].config.optimizer
        fitting = {}
        if rates.schedule == "restart" and rates.restart_epochs > epochs:
            fitting = {"restart_epochs": epochs}
        if rates.schedule == "cosine" and rates.warmup_epochs >= epochs:
            fitting = {"warmup_epochs": epochs - 1}
        if fitting:
            settings["optimizer"] = settings.get("optimizer", {}) | fitting
    return comparison


def minutes_of(comparison: dict) -> tuple[str, float]:
    """Returns each training's clock (`cpu` or `gpu`) and minutes; 0: as its settings say."""
    clock = "gpu" if comparison.get("gpu_minutes") else "cpu"
    return clock, comparison.get(f"{clock}_minutes", 0)


def epochs_within(cost: dict[str, float], minutes: float) -> int:
    """Whole epochs that fit, with the start and the validations.

    Args:
        cost: seconds, see `measure`.
        minutes: of a training, by the same clock.
    """
    left = minutes * 60 - cost["start_s"] - VALIDATIONS * cost["validation_s"]
    return max(int(left / cost["epoch_s"]), 0)


def networks_within(cost: dict[str, float], minutes: float, most: int, least_epochs: int) -> int:
    """Returns how many networks of an ensemble have so many epochs each: from one to `most`.

    Args:
        cost: seconds, see `measure`.
        minutes: of all together.
        most: networks that there are; 0: it is no ensemble.
        least_epochs: of each; 0: any number.
    """
    networks = most
    while networks > 1 and epochs_within(cost, minutes / networks) < least_epochs:
        networks -= 1
    return networks


def _cost(cell: Cell, folder: Path, resources, clock) -> dict[str, float]:
    """What is known of a method, or else is measured now."""
    path = folder / COST
    with only_here(folder, "cost", "measures there", wait=True):
        if not path.exists():
            _log.info(f"{cell.method}: measuring what a training costs ...")
            job = {"config": to_dict(cell.config), "cores": resources.cores, "output": str(path)}
            job["clock"] = clock
            log = folder / "cost.log"
            with open(log, "wb") as file:
                status = subprocess.run(  # noqa: S603 - our own module
                    module_command(__name__),
                    input=json.dumps(job).encode(),
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    check=False,
                    # What is compiled counts, whoever has compiled it before.
                    env=module_environment(resources.gpu)
                    | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
                ).returncode
            if status != 0:
                raise ConfigError(
                    f"what the method {cell.method} costs could not be measured: "
                    f"{reason_of(log, status)}"
                )
    try:
        cost = json.loads(path.read_text(encoding="utf-8"))
        _ = [float(cost[name]) for name in ("start_s", "epoch_s", "validation_s")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        action = "Delete it and run the same command again: it is measured anew"
        raise damaged(path, error, action) from error
    _log.info(
        f"{cell.method}: {cost['start_s']:.0f} s to start, {cost['epoch_s']:.1f} s an epoch, "
        f"{cost['validation_s']:.1f} s a validation, of {_CLOCKS[clock]} time",
    )
    return cost


def measure(config: Config, clock: str = "cpu") -> dict[str, float]:
    """The time that a training of this config takes, seconds.

    Args:
        config: of a run.
        clock: see `isanet_jax.runtime.seconds_by`.

    Returns:
        start_s, from the process's start to the first step, with compiling (what has been compiled
        before and is kept costs less); epoch_s, with the reading of cases; validation_s.
    """
    import jax

    from isanet_jax.distributed.mesh import make_mesh, place_batch
    from isanet_jax.training.setup import compile_step, load_cohort, set_up
    from isanet_jax.training.validate import validate

    mesh = make_mesh(config.mesh.data, config.mesh.space)
    training, state = set_up(config, load_cohort(config), mesh)
    step = compile_step(training, state)
    validation_s = 0.0
    if training.parts.selection:
        validate(training, state.params, 0)  # compiles
        before = machine.seconds_by(clock)
        validate(training, state.params, 0)
        validation_s = machine.seconds_by(clock) - before
    start_s = machine.seconds_by(clock) - 2 * validation_s
    batches = training.batches()
    for number in range(_WARM_STEPS + _STEPS):
        if number == _WARM_STEPS:
            jax.block_until_ready(state)
            begin = machine.seconds_by(clock)
        state, _ = step(state, place_batch(next(batches), mesh))
    jax.block_until_ready(state)
    step_s = (machine.seconds_by(clock) - begin) / _STEPS
    batches.close()
    return {
        "start_s": start_s,
        "epoch_s": step_s * training.steps_per_epoch,
        "validation_s": validation_s,
    }


def main():
    """Measures the job on standard input."""
    job = json.load(sys.stdin)
    if job["cores"]:
        os.sched_setaffinity(0, job["cores"])  # before JAX makes its threads
    write_json(Path(job["output"]), measure(read(job["config"]), job["clock"]))


if __name__ == "__main__":
    runtime.run_program(main)
