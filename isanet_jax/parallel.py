"""A function applied to many scans in processes, of which one may be killed."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from isanet_jax.datasets.layout import Scan
from isanet_jax.errors import DataError


def in_processes(function: Callable, scans: list[Scan], workers: int):
    """Applies a function to scans, in `workers` processes; one scan, or 1 worker, runs in this one.

    A process that is killed takes all others of its pool with it: the scans that were not done are
    then tried again, each in a pool of its own, so that only the one that did it fails.

    Yields:
        (scan, its outcome: to be called, returns or raises what the function did), as they finish.
    """
    if min(workers, len(scans)) <= 1:
        for scan in scans:
            yield scan, partial(function, scan)
        return
    undone = dict(enumerate(scans))
    for index, outcome in _in_pool(function, undone, workers):
        yield undone.pop(index), outcome
    for index, scan in undone.items():
        outcomes = dict(_in_pool(function, {index: scan}, 1))
        yield scan, outcomes.get(index, partial(_killed, scan))


def _in_pool(function, scans, workers):
    """(index, outcome) of the scans that are done before a process of the pool is killed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(scans)), context, initializer=_begin_worker) as pool:
        jobs = {pool.submit(function, scan): index for index, scan in scans.items()}
        try:
            for job in as_completed(jobs):
                if isinstance(job.exception(), BrokenProcessPool):
                    return
                yield jobs[job], job.result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _killed(scan):
    raise DataError(
        "the process that worked on it ended; if it does not say why above, it was killed, most "
        "likely for lack of memory",
        case=scan.case,
        file=scan.place,
        action="Look at the size of its images; fewer --workers need less memory",
    )


def _begin_worker():
    """Leaves Ctrl-C to the parent, and ends with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch():
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
