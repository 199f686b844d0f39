"""The cells of a comparison, run one process each, and gone on with where they were stopped.

Several comparisons of the same folder, such as the tasks of a SLURM array, share its cells: each
cell's process holds a lock on the cell's folder, which ends with it however it ends.
"""

import copy
import dataclasses
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from isanet_jax.comparison.cell import SCORES, STOPPED
from isanet_jax.errors import ConfigError, IsaNetError
from isanet_jax.locks import try_lock
from isanet_jax.network.systems import SYSTEMS
from isanet_jax.runtime import say_at_once, stop_signals
from isanet_jax.training.config import check_config, claim_workdir
from isanet_jax.training.loop import load_cohort, split_cohort

_PACKAGES = Path(__file__).parents[2]  # where a cell's process finds this package
THRESHOLDS = "thresholds"  # the pseudo-method of all fixed thresholds


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """A method on one fold with one seed; `folder` is its ordinary run folder."""

    method: str
    fold: int
    seed: int
    config: dict
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.method} fold {self.fold} seed {self.seed}"

    @property
    def is_done(self) -> bool:
        return (self.folder / SCORES).exists()

    def scores(self) -> dict[str, dict[str, dict[str, float]]]:
        """Method (`network`, or a threshold's name) -> case ID -> metrics."""
        content = json.loads((self.folder / SCORES).read_text(encoding="utf-8"))
        return {
            method: {case: {k: float(v) for k, v in m.items()} for case, m in cases.items()}
            for method, cases in content.items()
        }


def with_systems(comparison: dict) -> dict:
    """The comparison, with a method for each system that its order names without defining it.

    So a system that has just been written is compared by its name alone.
    """
    named = {
        name: {"label": name, "settings": {"model": {"name": name}}, "published": {}}
        for name in comparison["order"]
        if name in SYSTEMS
    }
    return comparison | {"methods": named | comparison["methods"]}


def make_cells(comparison: dict, workdir: Path) -> list[Cell]:
    """The grid seed x fold x method, in the order in which it is run.

    Args:
        comparison: see configs/compare/paper.py.
        workdir: of the comparison.

    Raises:
        ConfigError: a method's settings that cannot work, named with the method.
    """
    unknown = set(comparison["order"]) - comparison["methods"].keys()
    if unknown or not comparison["order"]:
        raise ConfigError(
            f"order is {', '.join(comparison['order']) or 'empty'}; choose of the methods "
            f"{', '.join(comparison['methods'])}, and of the systems {', '.join(SYSTEMS)}"
        )
    methods = {name: comparison["methods"][name]["settings"] for name in comparison["order"]}
    if comparison["thresholds"]:
        methods[THRESHOLDS] = {}
    bad = [name for name in methods if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name)]
    if bad:
        raise ConfigError(f"a method is named {bad[0]!r}; use letters, digits, _ and - only")
    if comparison["reference"] not in comparison["order"]:
        raise ConfigError(
            f"reference is {comparison['reference']!r}; choose one of the methods that are run, "
            f"{', '.join(comparison['order'])}"
        )
    cells = []
    for seed in comparison["seeds"]:
        for fold in comparison["folds"]:
            for method, settings in methods.items():
                if method == THRESHOLDS and seed != comparison["seeds"][0]:
                    continue  # nothing random in them
                config = _merged(comparison["base"], settings, f"methods.{method}.settings")
                config |= {"fold": fold, "seed": seed}
                try:
                    check_config(config)
                except ConfigError as error:
                    raise ConfigError(f"method {method}: {of_comparison(error)}") from error
                folder = Path(workdir) / method / f"fold{fold}-seed{seed}"
                cells.append(Cell(method, fold, seed, config, folder))
    return cells


def _merged(base, settings, place):
    """`base` with the values of `settings`, section by section."""
    merged = copy.deepcopy(base)
    for name, value in settings.items():
        if name not in base:
            raise ConfigError(f"{place}.{name} is no setting; there are {', '.join(base)}")
        is_section = isinstance(base[name], dict)
        merged[name] = _merged(base[name], value, f"{place}.{name}") if is_section else value
    return merged


def check_data(cells: list[Cell]) -> dict[str, IsaNetError]:
    """Looks at every cell's cases before any time is spent: cell's name -> what is wrong."""

    @functools.cache
    def problem(text):
        config = json.loads(text)
        try:
            split_cohort(config, load_cohort(config))
        except IsaNetError as error:
            return error
        return None

    # As text, and without what the cases do not depend on: many cells have the same.
    needs = ("data", "fold", "fold_by", "selection")
    problems = {c.name: problem(json.dumps({n: c.config[n] for n in needs})) for c in cells}
    return {name: error for name, error in problems.items() if error}


def of_comparison(error: Exception | str) -> str:
    """A run's error as one of a comparison, where a run's settings are called otherwise."""
    text = re.sub(r"--config\.(fold|seed)=\S+", r"--config.\1s=...", str(error))
    return re.sub(r"--config\.(?!base\.|folds|seeds|order)", "--config.base.", text)


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


def run_cells(cells: list[Cell], *, jobs: int = 0) -> Outcome:
    """Runs what is not done yet; a cell that fails does not stop the others.

    Args:
        cells: see `make_cells`.
        jobs: cells at a time, each on a GPU of its own, or on its share of the processor's cores
            where there is no GPU; 0: one a GPU, or one.

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
            claim_workdir(cell.folder, cell.config)
        except IsaNetError as error:
            failures[cell.name] = of_comparison(error)
            print(f"{cell.name}: FAILED: {failures[cell.name]}")
            continue
        if not cell.is_done:
            waiting.append(cell)
    print(f"{len(cells)} cells: {sum(c.is_done for c in cells)} done, {len(waiting)} to run")
    begin = time.perf_counter()
    with _Processes(jobs) as processes:
        for number, (cell, status, minutes) in enumerate(processes.run(waiting), start=1):
            if processes.signal_name or status == STOPPED:
                print(f"{cell.name}: stopped")
                continue
            outcome = f"done in {minutes:.1f} min"
            if status != 0:
                failures[cell.name] = _reason(cell, status)
                outcome = f"FAILED after {minutes:.1f} min: {failures[cell.name]}"
            per_cell = (time.perf_counter() - begin) / 60 / number
            left = math.ceil(per_cell * (len(waiting) - number))
            print(f"[{number}/{len(waiting)}] {cell.name}: {outcome}; about {left} min left")
            sys.stdout.flush()
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
        self.shares = shares(jobs)
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
            for slot in range(len(self.shares)):
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

    def _try_to_start(self, cell, slot):
        """Starts a cell, unless another comparison runs it or has done it."""
        lock = _lock(cell.folder)
        if lock is None:
            self.elsewhere.append(cell)
            return
        with lock:
            if cell.is_done:  # since we looked
                print(f"{cell.name}: done elsewhere", flush=True)
                return
            print(f"{cell.name}: runs, log in {cell.folder / 'log.txt'}", flush=True)
            process = _start(cell, self.shares[slot], lock)
        self.running[slot] = cell, process, time.perf_counter()


class Share(NamedTuple):
    """What a job has of the machine: cores (None: all), and a GPU where there are any."""

    cores: list[int] | None = None
    gpu: str | None = None


def shares(jobs: int) -> list[Share]:
    """The machine's GPUs, or else its cores, dealt to the jobs; see `run_cells`."""
    gpus = visible_gpus(os.environ)
    jobs = jobs or len(gpus) or 1
    if gpus:
        if jobs > len(gpus):
            raise ConfigError(f"--jobs is {jobs} and there are {len(gpus)} GPUs, for a cell each")
        return [Share(gpu=gpu) for gpu in gpus[:jobs]]
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return [Share()] * jobs
    cores = sorted(os.sched_getaffinity(0))
    if jobs > len(cores):
        raise ConfigError(f"--jobs is {jobs} and this machine has {len(cores)} cores")
    return [Share(cores[slot::jobs]) for slot in range(jobs)]


def visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """NVIDIA's GPUs that programs started from here would use, without taking hold of them."""
    if environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in environ:
        return [gpu for gpu in environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    driver = Path("/proc/driver/nvidia/gpus")
    return [str(i) for i in range(len(list(driver.iterdir())))] if driver.is_dir() else []


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


def _start(cell, share, lock):
    """Starts a cell's process in its own group, so that Ctrl-C reaches it through us alone."""
    job = {
        "config": cell.config,
        "folder": str(cell.folder),
        "thresholds": cell.method == THRESHOLDS,
        "cores": share.cores,
    }
    environ = {} if share.gpu is None else {"CUDA_VISIBLE_DEVICES": share.gpu}
    inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    paths = [str(_PACKAGES), *map(os.path.abspath, inherited)]
    with open(cell.folder / "log.txt", "wb") as log:
        process = subprocess.Popen(
            # -P: nothing is imported from the folder that the user stands in.
            [sys.executable, "-P", "-m", "isanet_jax.comparison.cell"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | environ | {"PYTHONPATH": os.pathsep.join(paths)},
            pass_fds=[lock.fileno()],
        )
    process.stdin.write(json.dumps(job).encode())
    process.stdin.close()
    return process


def _reason(cell, status):
    """The error that the cell ended with, from its log."""
    text = (cell.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if status == 2 and errors:
        return of_comparison(errors[-1].removeprefix("error: "))
    last = lines[-1] if lines else "no output"
    ended = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    hint = "; the machine may be short of memory" if status == -signal.SIGKILL else ""
    return f"{ended}{hint} ({last[-300:]}); see {cell.folder / 'log.txt'}"
