"""The cells of a comparison, run one process each, and resumed where they were stopped.

Several comparisons of the same folder, such as the tasks of a SLURM array, share its cells: each
cell's process holds a lock on the cell's folder, which ends with it however it ends.
"""

import json
import logging
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from isanet_jax.comparison.basis import changes, must_train_again, set_aside
from isanet_jax.comparison.cell import SCORES, STOPPED
from isanet_jax.comparison.grid import THRESHOLDS, Cell, check_data, of_comparison
from isanet_jax.comparison.resources import divide_resources
from isanet_jax.errors import ConfigError, IsaNetError
from isanet_jax.locks import try_lock
from isanet_jax.parallel import on_cluster
from isanet_jax.runs.folder import claim_workdir
from isanet_jax.runtime import stop_signals
from isanet_jax.settings import to_dict
from isanet_jax.streams import say_at_once

_log = logging.getLogger(__name__)

_PACKAGES = Path(__file__).parents[2]  # where a cell's process finds this package


class Outcome(NamedTuple):
    """What `run_cells` leaves.

    Attributes:
        failures: cell's name -> why it failed.
        stopped: name of the signal that stopped the comparison, or None.
        elsewhere: names of cells that other comparisons of the same folder still run.
    """

    failures: dict[str, str]
    stopped: str | None
    elsewhere: list[str]


def run_cells(cells: list[Cell], *, jobs: int = 0, cluster: str | None = None) -> Outcome:
    """Runs what is not done yet; a cell that fails does not stop the others.

    Args:
        cells: see `make_cells`.
        jobs: cells at a time, each on a GPU of its own, or on its share of the processor's cores
            where there is no GPU; 0: one a GPU, or one.
        cluster: address of a Dask scheduler, whose workers run a cell each; or None.

    Raises:
        ConfigError, DataError: none of the cells has cases that it can be trained on; more jobs
            than there are GPUs or cores.
    """
    failures, waiting = {}, []
    bad_data = check_data(cells)
    if len(bad_data) == len(cells):
        error = next(iter(bad_data.values()))
        raise type(error)(of_comparison(error)) from error
    for cell in cells:
        try:
            if cell.name in bad_data:
                raise bad_data[cell.name]
            if not must_train_again(cell.folder, cell.basis):  # else it is put aside
                claim_workdir(cell.folder, cell.record)
        except IsaNetError as error:
            failures[cell.name] = of_comparison(error)
            _log.info(f"{cell.name}: FAILED: {failures[cell.name]}")
            continue
        if not cell.is_done:
            waiting.append(cell)
    _log.info(f"{len(cells)} cells: {sum(c.is_done for c in cells)} done, {len(waiting)} to run")
    trainings, spent = sum(cell.is_trained for cell in waiting), []
    with _Processes(jobs) as processes:
        running = processes.run_on(waiting, cluster) if cluster else processes.run(waiting)
        for number, (cell, status, minutes) in enumerate(running, start=1):
            if processes.signal_name or status == STOPPED:
                _log.info(f"{cell.name}: stopped")
                continue
            outcome = f"done in {minutes:.1f} min"
            if status != 0:
                failures[cell.name] = reason_of(cell.folder / "log.txt", status)
                outcome = f"FAILED after {minutes:.1f} min: {failures[cell.name]}"
            if cell.is_trained:
                spent.append(minutes)
            # Of trainings alone: what is not trained takes seconds, and says nothing of them.
            if spent:
                rounds = (trainings - len(spent)) / len(processes.resources)
                outcome += f"; about {math.ceil(statistics.mean(spent) * rounds)} min left"
            _log.info(f"[{number}/{len(waiting)}] {cell.name}: {outcome}")
    elsewhere = [cell.name for cell in processes.elsewhere if not cell.is_done]
    return Outcome(failures, processes.signal_name, elsewhere)


class _Processes:
    """Context that starts cells in processes, and passes SIGTERM and SIGINT on to them.

    Attributes:
        running: slot -> (cell, process, when it was started).
        elsewhere: cells that were found locked.
        signal_name: of the signal that came, or None.
    """

    def __init__(self, jobs: int):
        self.resources = divide_resources(jobs)
        self.running = {}
        self.elsewhere: list[Cell] = []
        self.signal_name: str | None = None

    def __enter__(self):
        self._previous = {number: signal.signal(number, self._receive) for number in stop_signals()}
        return self

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        self.signal_name = signal.Signals(number).name
        say_at_once(f"\n{self.signal_name}: the running cells save and stop ...")
        for _, process, _ in self.running.values():
            process.send_signal(number)

    def run(self, cells) -> Iterator[tuple[Cell, int, float]]:
        """Runs the cells; yields each with its exit status and minutes when it ends."""
        waiting, looked_again = list(cells), False
        while self.running or (waiting and not self.signal_name):
            for slot in range(len(self.resources)):
                while slot not in self.running and waiting and not self.signal_name:
                    self._try_to_start(waiting.pop(0), slot)
            if not (waiting or self.running or looked_again):
                # Another comparison may have given some up meanwhile.
                looked_again, waiting, self.elsewhere = True, self.elsewhere, []
            time.sleep(0.2)
            for slot, (cell, process, started) in list(self.running.items()):
                if process.poll() is not None:
                    del self.running[slot]
                    yield cell, process.returncode, (time.perf_counter() - started) / 60

    def run_on(self, cells, address) -> Iterator[tuple[Cell, int, float]]:
        """As `run`, by the workers of a Dask cluster."""
        for cell, outcome in on_cluster(_run_alone, cells, address):
            status, minutes = outcome()
            if status is None:
                self.elsewhere.append(cell)
            else:
                yield cell, status, minutes

    def _try_to_start(self, cell, slot):
        """Starts a cell, unless another comparison runs it or has done it."""
        lock = _lock(cell.folder)
        if lock is None:
            self.elsewhere.append(cell)
            return
        with lock:
            if cell.is_done:  # since we looked
                _log.info(f"{cell.name}: done elsewhere")
                return
            if must_train_again(cell.folder, cell.basis):
                changed, aside = changes(cell.folder, cell.basis), set_aside(cell.folder)
                _log.info(f"{cell.name}: other than then: {changed}; what there was is in {aside}")
                claim_workdir(cell.folder, cell.record)
            elif (cell.folder / SCORES).exists():
                changed = changes(cell.folder, cell.basis)
                _log.info(f"{cell.name}: other than then: {changed}; it is scored again")
            _log.info(f"{cell.name}: runs, log in {cell.folder / 'log.txt'}")
            process = _start(cell, self.resources[slot], lock)
        self.running[slot] = cell, process, time.perf_counter()


def _run_alone(cell):
    """Runs a cell in a process of its own and waits for it: (exit status, minutes).

    None as status: another comparison runs it.
    """
    started, lock = time.perf_counter(), _lock(cell.folder)
    if lock is None:
        return None, 0.0
    with lock:
        status = 0 if cell.is_done else _start(cell, divide_resources(1)[0], lock).wait()
    return status, (time.perf_counter() - started) / 60


def _lock(folder):
    """The lock of a cell's folder, see `isanet_jax.locks.try_lock`.

    Raises:
        ConfigError: a file system without locks.
    """
    try:
        return try_lock(folder / "lock")
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be locked ({error}), by which a cell is kept from being run twice; "
            "put --workdir on a file system that has locks"
        ) from error


def _start(cell, resources, lock):
    """Starts a cell's process in its own group, so that Ctrl-C reaches it through us alone."""
    job = {
        "config": to_dict(cell.config),
        "folder": str(cell.folder),
        "thresholds": cell.method == THRESHOLDS,
        "masks_of": cell.masks_of,
        "members": [to_dict(one) for one in cell.members],
        "snapshots": cell.snapshots,
        "cores": resources.cores,
    }
    with open(cell.folder / "log.txt", "wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own module
            module_command("isanet_jax.comparison.cell"),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=module_environment(resources.gpu),
            pass_fds=[lock.fileno()],
        )
    process.stdin.write(json.dumps(job).encode())
    process.stdin.close()
    return process


def module_command(name: str) -> list[str]:
    """What runs a module of this package in a process of its own."""
    # -P: nothing is imported from the folder that the user stands in.
    return [sys.executable, "-P", "-m", name]


def module_environment(gpu: str | None = None) -> dict[str, str]:
    """Its environment: this one's, in which it finds this package, and sees this GPU alone."""
    inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    paths = [str(_PACKAGES), *map(os.path.abspath, inherited)]
    seen = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | seen


def reason_of(log: Path, status: int) -> str:
    """The error that such a process ended with, from its log."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if status == 2 and errors:
        return of_comparison(errors[-1].removeprefix("error: "))
    last = lines[-1] if lines else "no output"
    ended = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    hint = "; the machine may be short of memory" if status == -signal.SIGKILL else ""
    return f"{ended}{hint} ({last[-300:]}); see {log}"
