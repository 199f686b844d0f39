"""What this process has of the machine: cores, memory, time; and how its memory is kept."""

import contextlib
import ctypes
import os
import time
from pathlib import Path

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
_STARTED = time.perf_counter()
CLOCKS = ("cpu", "gpu")
GIB, MIB = 2**30, 2**20
GPU_MEMORY_SHARE = 0.92  # of a GPU, that JAX takes and isanet plan counts on


def usable_cores() -> int:
    """Processor cores that this process may use: on a cluster, those of its job, not the node's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process may use: the machine's, or less where its job or container has less.

    On Linux a control group's limit counts (cgroups(7), of both versions): beyond it a process is
    killed without a word.

    Args:
        root: of the file system that says so.

    Returns:
        None where the system does not say.
    """
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    least = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers == "":
                top, name = root / "sys/fs/cgroup", "memory.max"
            elif "memory" in controllers.split(","):
                top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            else:
                continue
            # Any group above may have the limit; in a container the path may be the host's.
            group = Path(group.lstrip("/"))
            for folder in (group, *group.parents):
                with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
                    least = min(least, int((top / folder / name).read_text(encoding="ascii")))
    return least


_USABLE_SHARE = 0.9  # of the memory: the system has its own
_sharing = [1]  # processes that this one shares the memory with


def share_memory(processes: int) -> None:
    """Says that so many processes do the same as this one, and share the memory."""
    _sharing[0] = processes


def usable_memory() -> int | None:
    """Memory that this process's arrays may take; None where the system does not say."""
    memory = memory_bytes()
    return None if memory is None else int(_USABLE_SHARE * memory / _sharing[0])


def seconds_by(clock: str) -> float:
    """What this process has taken since its start.

    Args:
        clock: of `CLOCKS`: `cpu`, the processor's time, user and system; `gpu`, what the clock on
            the wall says, for what computes elsewhere.
    """
    return time.process_time() if clock == "cpu" else time.perf_counter() - _STARTED


def keep_memory() -> None:
    """Lets the C library keep the memory of large arrays for the next ones (glibc only).

    It would give each array's pages back to the system, which hands them out zeroed again: on CPU
    that took a quarter of a train step (docs/evidence/speed.md). JAX on CPU is made to compute on
    the thread that calls it, by environment, before its import: of the C library's arenas only the
    main thread's keeps arrays of more than 64 MB.
    """
    os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "false")
    # Two arenas: of more, some threads would map large arrays all the same; one is fought over.
    _set_malloc((_M_ARENA_MAX, 2), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1))


def map_memory() -> None:
    """Undoes `keep_memory`: large arrays are mapped, each for itself (glibc only).

    For arrays that take a good part of the machine's memory. A step's temporaries are one block;
    where something small came to lie in the place that the last step's left, the kept memory grows
    by another block of that size.
    """
    _set_malloc((_M_MMAP_MAX, 2**16), (_M_MMAP_THRESHOLD, 2**25), (_M_TRIM_THRESHOLD, 2**27))
    return_memory()


def _set_malloc(*settings):
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in settings:
            mallopt(option, value)


def return_memory() -> None:
    """Gives back what the C library keeps unused (glibc only): 1 to 2 GiB after compiling."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
