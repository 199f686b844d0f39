"""A trace of some training steps for TensorBoard and XProf, and its operations as a table."""

import gzip
import json
from collections import defaultdict
from pathlib import Path

import jax

from isanet_jax.files import replace_when_done

_SKIPPED = 2  # the first step compiles, the second still warms up
_ROWS = 30
_MODULE = "jit_step"  # XLA's name of the train step: validation may fall into a trace


class StepTrace:
    """Traces the third step after a start, and as many as are asked for.

    Args:
        folder: gets the trace, and operations.md.
        steps: how many; 0: no trace.
    """

    def __init__(self, folder: Path, steps: int):
        self.folder, self.steps = folder, steps
        self.done = 0
        self.running = False

    def step_done(self) -> str | None:
        """To be called after each step; returns what to say when the trace is written."""
        self.done += 1
        if self.steps and self.done == _SKIPPED:
            jax.profiler.start_trace(self.folder)
            self.running = True
        if self.running and self.done == _SKIPPED + self.steps:
            return self.stop()
        return None

    def stop(self) -> str | None:
        """Ends the trace and writes the table, if a trace is running."""
        if not self.running:
            return None
        jax.profiler.stop_trace()
        self.running = False
        steps = self.done - _SKIPPED
        newest = max(self.folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
        with gzip.open(newest) as file:
            table = operations_table(json.load(file)["traceEvents"], steps)
        with replace_when_done(self.folder / "operations.md") as partial:
            partial.write_text(table, encoding="utf-8")
        return (
            f"traced {steps} steps: {self.folder / 'operations.md'}, or tensorboard --logdir "
            f"{self.folder}"
        )


def operation_times(events: list[dict]) -> dict[str, tuple[int, float]]:
    """Calls and microseconds of each of the step's operations, without those that it calls itself.

    Args:
        events: of a Chrome trace as jax.profiler writes it.

    Returns:
        operation -> (calls, time summed over the threads or streams that run it).
    """
    threads = defaultdict(list)
    for event in events:
        if event.get("ph") == "X" and event.get("args", {}).get("hlo_module") == _MODULE:
            threads[event["pid"], event["tid"]].append(event)
    calls, times = defaultdict(int), defaultdict(float)
    for thread in threads.values():
        open_ones = []  # (operation, end) of the events that hold the one at hand
        for event in sorted(thread, key=lambda e: (e["ts"], -e["dur"])):
            name, start, length = event["args"]["hlo_op"], event["ts"], event["dur"]
            while open_ones and open_ones[-1][1] <= start:
                open_ones.pop()
            if open_ones:
                times[open_ones[-1][0]] -= length
            calls[name] += 1
            times[name] += length
            open_ones.append((name, start + length))
    return {name: (calls[name], times[name]) for name in calls}


def operations_table(events: list[dict], steps: int) -> str:
    """The operations that take longest, in Markdown; see `operation_times`."""
    found = operation_times(events)
    total = sum(time for _, time in found.values())
    lines = [
        f"# Operations of {steps} training steps, longest first",
        "",
        f"{total / steps / 1000:.1f} ms a step in {len(found)} operations, summed over the threads "
        "that ran them. Names are XLA's; the trace beside this file shows where each comes from.",
        "",
        "| operation | calls a step | ms a step | share |",
        "|---|---|---|---|",
    ]
    for name, (calls, time) in sorted(found.items(), key=lambda item: -item[1][1])[:_ROWS]:
        lines.append(
            f"| {name} | {calls / steps:.1f} | {time / steps / 1000:.2f} "
            f"| {100 * time / total:.1f} % |"
        )
    return "\n".join(lines) + "\n"
