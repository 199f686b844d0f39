"""What the training loop costs around a fast device: python -m benchmarks.waiting.

The real loop, data pipeline and log, with a step that only turns a wheel for a given time, on a
core of its own as a card would beside them: reading, copying and logging are to hide behind it.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from isanet_jax import runtime
from isanet_jax.configs import hecktor
from isanet_jax.datasets.phantom import FIELD_MM
from isanet_jax.training import loop
from isanet_jax.training.log import read_log
from isanet_jax.training.loop import train

FIRST = 8  # steps until the pipeline's workers have filled their queues


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[48, 96, 144])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--milliseconds", type=float, nargs="+", default=[5, 50, 200])
    arguments = parser.parse_args()
    runtime.setup()
    print("| size | the device's step, ms | a step, ms | waited for data |\n|---|---|---|---|")
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            for wait in arguments.milliseconds:
                seconds, share = measure(Path(folder), size, wait / 1000, arguments.steps)
                print(f"| {size} | {wait:g} | {1000 * seconds:.1f} | {share:.2f} |", flush=True)


def measure(folder, size, wait, steps):
    """Median seconds of a step, and the share of all that was waiting."""
    config = hecktor.get_config().to_dict()
    config["data"] |= {"cases": f"{folder}/cases", "size": size, "phantoms": 8}
    config["data"]["spacing_mm"] = FIELD_MM / size
    config["model"] |= {"width": 2, "levels": 2}  # is not run
    config["selection"] = "paper"
    config["train"] |= {"epochs": 1, "steps_per_epoch": steps + FIRST, "validate_every": 1}
    workdir = folder / f"run_{1000 * wait:g}"
    with mock.patch.object(loop, "compile_step", return_value=waiting_step(wait)):
        train(config, workdir)
    lines = [line for line in read_log(workdir / "metrics.jsonl") if "loss" in line][FIRST:]
    seconds = [line["seconds"] for line in lines]
    share = sum(line["waiting_seconds"] for line in lines) / sum(seconds)
    return statistics.median(seconds), share


def turn(start, turns):
    """A number from 0.5 to 1, after so many turns: JAX runs a loop apart from its caller."""
    return jax.lax.fori_loop(0, turns, lambda _, x: jnp.cos(x), start)


def waiting_step(wait):
    """A train step that changes nothing and takes `wait` seconds once its batch is there."""
    one = jax.jit(turn)
    took = []
    for turns in (1000, 1_000_000, 1_000_000):  # the first compiles
        start = time.perf_counter()
        one(0.7, turns).block_until_ready()
        took.append((time.perf_counter() - start) / turns)
    turns = int(wait / took[-1])

    @jax.jit
    def step(state, batch):
        volumes = jax.tree.leaves((batch["images"], batch["labels"]))
        ends = [volume.ravel()[-1].astype(np.float32) for volume in volumes]
        start = 1e-6 * (state.step + sum(jnp.clip(end, -1, 1) for end in ends))
        loss = turn(start.astype(np.float32), turns)
        step = state.step + 1
        return state._replace(step=step), {"loss": loss, "dice_loss": loss, "focal_loss": loss}

    return step


if __name__ == "__main__":
    main()
