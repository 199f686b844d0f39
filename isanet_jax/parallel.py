"""A function applied to many scans in processes, of which one may be killed."""

import logging
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from isanet_jax.datasets.layout import Scan
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.machine import GIB, share_memory, usable_memory
from isanet_jax.nifti import NIFTI_SUFFIXES, read_grid

_log = logging.getLogger(__name__)

# Of a scan's images and label as float32: as they are read, and as they are worked on.
_COPIES = 2.5
_ANSWER_S = 30  # in which a scheduler must answer
_PROCESS_BYTES = GIB // 2  # of a process, beside its scan


def in_processes(function: Callable, scans: list[Scan], workers: int, cluster: str | None = None):
    """Applies a function to scans, in `workers` processes; one scan, or 1 worker, runs in this one.

    No more processes are started than there is memory for the largest scans. One that is killed
    takes all others of its pool with it: the scans that were worked on are then tried one by one,
    so that only the one that did it fails, and the others go on in half as many processes.

    Args:
        function: of a scan.
        scans: that it is applied to.
        workers: processes of this machine.
        cluster: address of a Dask scheduler, whose workers are used in their place; or None.

    Yields:
        (scan, its outcome: to be called, returns or raises what the function did), as they finish.
    """
    if cluster:
        yield from on_cluster(function, scans, cluster)
        return
    workers, sharing = _with_memory(scans, min(workers, len(scans)))
    if workers <= 1:
        for scan in scans:
            yield scan, partial(function, scan)
        return
    undone = dict(enumerate(scans))
    while undone:
        worked_on = []
        share = min(sharing, workers)
        for index, outcome in _in_pool(function, undone, workers, worked_on, share):
            yield undone.pop(index), outcome
        for index in worked_on:
            alone = {index: undone.pop(index)}
            outcomes = dict(_in_pool(function, alone, 1, [], 1))
            yield alone[index], outcomes.get(index, partial(_killed, alone[index]))
        if undone:
            workers = max(workers // 2, 1)
            _log.warning(f"warning: a process ended; the others go on in {workers}")


def _with_memory(scans, workers):
    """As many workers as there is memory for, and among how many it is shared: no more than leaves
    each enough for the largest scan. Says so where they are fewer.
    """
    usable = usable_memory()
    if workers <= 1 or usable is None:
        return workers, workers
    largest = sorted((_bytes_of(scan) for scan in scans), reverse=True)[:workers]
    fitting = next(
        (n for n in range(workers, 1, -1) if sum(largest[:n]) + n * _PROCESS_BYTES <= usable), 1
    )
    if fitting < workers:
        _log.info(
            f"{fitting} of {workers} processes: the largest scans take {largest[0] / GIB:.1f} GiB "
            f"each, and this job may use {usable / GIB:.1f} GiB"
        )
    return fitting, max(1, min(fitting, usable // (largest[0] + _PROCESS_BYTES)))


def _bytes_of(scan):
    """Memory that a scan takes, as far as headers of NIfTI files say; 0 where they do not."""
    total = 0
    for path in (*scan.images.values(), scan.label):
        if path is None or not str(path).lower().endswith(NIFTI_SUFFIXES):
            continue
        try:
            shape, _ = read_grid(path, case=scan.case)
        except DataError:  # said when it is read
            continue
        total += 4 * shape[0] * shape[1] * shape[2]
    return int(_COPIES * total)


def _in_pool(function, scans, workers, worked_on, share):
    """(index, outcome) of the scans that are done before a process of the pool is killed.

    Args:
        function: of a scan.
        scans: index -> scan.
        workers: processes.
        worked_on: gets the indices of the scans that were worked on when one was.
        share: among how many the memory is shared.
    """
    context = multiprocessing.get_context("spawn")
    waiting, jobs = list(scans), {}
    workers = min(workers, len(scans))
    # A process is given the function once: it may hold what is known of thousands of cases.
    begin = {"initializer": _begin_worker, "initargs": (share, function)}
    with ProcessPoolExecutor(workers, context, **begin) as pool:
        try:
            while waiting or jobs:
                # No more than are worked on: so those are known that one of them killed.
                while waiting and len(jobs) < workers:
                    index = waiting.pop(0)
                    jobs[_submitted(pool, scans[index])] = index
                done, _ = wait(jobs, return_when=FIRST_COMPLETED)
                broken = [job for job in done if isinstance(job.exception(), BrokenProcessPool)]
                for job in done.difference(broken):
                    yield jobs.pop(job), job.result
                if broken:
                    worked_on += sorted(jobs.values())
                    return
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _submitted(pool, scan):
    """The job; a failed one where a process was just found to be killed."""
    try:
        return pool.submit(_apply_own, scan)
    except BrokenProcessPool as error:
        failed = Future()
        failed.set_exception(error)
        return failed


def _killed(scan):
    raise DataError(
        "the process that worked on it ended; if it does not say why above, it was killed, most "
        "likely for lack of memory",
        case=scan.case,
        file=scan.place,
        action="Look at the size of its images; fewer --workers need less memory",
    )


_own = []  # of a process: the function that it applies


def _apply_own(scan):
    return _own[0](scan)


def _begin_worker(share, function):
    """Leaves Ctrl-C to the parent, ends with it, however it ends, and takes its share of memory."""
    _own[:] = [function]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    share_memory(share)
    parent = multiprocessing.parent_process()

    def watch():
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# Variables of a scheduler: index, number of parts, the first index, and the step between two.
_SLURM = tuple(f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "STEP"))
_KUBERNETES = ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", "", "")  # of an indexed job


def part_of(items: Sequence, part: str | None) -> list:
    """The items of one of several parts, every N-th: as many in each, whatever they are sorted by.

    Args:
        items: the same in every process, in the same order.
        part: "3/50", from 1 on; "auto": as the variables of SLURM's array or of a Kubernetes
            indexed job say (of the latter, JOB_COMPLETIONS must be set to the number); None: all.

    Raises:
        ConfigError: no such part.
    """
    if part is None:
        return list(items)
    if part == "auto":
        index, count = _scheduled()
    else:
        match = re.fullmatch(r"(\d+)/(\d+)", part)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"--part is {part!r}; give I/N, as 1/50 to 50/50, or auto")
        index, count = int(match[1]) - 1, int(match[2])
    return list(items)[index::count]


def _applied(function, item):
    return function(item)


def _scheduled():
    """(index from 0, count) that a scheduler gives this process."""
    for names in (_SLURM, _KUBERNETES):
        if names[0] in os.environ and names[1] in os.environ:
            defaults = ("", "", "0", "1")
            index, count, first, step = (
                int(os.environ.get(n, d)) for n, d in zip(names, defaults, strict=True)
            )
            if 0 <= (index - first) // step < count:
                return (index - first) // step, count
    wanted = " or ".join(f"{names[0]} and {names[1]}" for names in (_SLURM, _KUBERNETES))
    raise ConfigError(f"--part auto needs the variables {wanted}; or give I/N")


def on_cluster(function: Callable, items: Sequence, address: str):
    """Applies a function to items on the workers of a Dask cluster that is there.

    They see the same files under the same paths, and have this package. An item whose worker is
    gone is done by another one; one that takes several with it fails.

    Yields:
        (item, its outcome: to be called, returns or raises what the function did), as they finish.

    Raises:
        ConfigError: the package `distributed` is not installed, or nobody answers.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise ConfigError(
            "--cluster needs the package distributed: pip install 'isanet_jax[cluster]'"
        ) from error
    try:
        client = Client(address, timeout=_ANSWER_S)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler answers at {address} ({error})") from error
    with client:
        there = client.scatter(function, broadcast=True, hash=False)
        futures = {client.submit(_applied, there, item, pure=False): item for item in items}
        for future in as_completed(list(futures)):
            yield futures[future], future.result
            future.release()
