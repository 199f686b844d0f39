"""A training by several processes, on one machine or many: how they meet, and notice a loss.

Each process runs the same program on its own devices; JAX makes them one mesh. Only the first
prints and writes logs.
"""

import contextlib
import ctypes
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from isanet_jax.errors import ConfigError, IsaNetError

_log = logging.getLogger(__name__)

_LOST_AFTER = 20  # seconds without a sign of life
_LOOK_EVERY = 2  # seconds
_MEET_WITHIN = 300  # seconds
# Address (and port), number of processes and rank, as JAX's users and torchrun set them.
_BY_HAND = (
    (("JAX_COORDINATOR_ADDRESS",), "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    (("MASTER_ADDR", "MASTER_PORT"), "WORLD_SIZE", "RANK"),
)
# Number of processes, then rank and number on this machine: srun's and mpirun's.
_BY_LAUNCHER = (
    ("SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
)


def found_processes(environ: Mapping[str, str]) -> dict | None:
    """Arguments of `jax.distributed.initialize`, or None where this is the only process.

    Args:
        environ: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; or torchrun's
            MASTER_ADDR, MASTER_PORT, WORLD_SIZE and RANK; or what srun or Open MPI's mpirun set,
            of which JAX reads the rest.

    Raises:
        ConfigError: some of these variables without the others, or not numbers.
    """
    for address, count, rank in _BY_HAND:
        names = (*address, count, rank)
        given = [name for name in names if environ.get(name)]
        if count not in given or environ[count] == "1":
            continue  # MASTER_ADDR alone is in many environments
        if len(given) < len(names) or not (environ[count] + environ[rank]).isdigit():
            values = ", ".join(f"{name}={environ.get(name, '')}" for name in names)
            raise ConfigError(f"{values}: several processes need all of these")
        return {
            "coordinator_address": ":".join(environ[name] for name in address),
            "num_processes": int(environ[count]),
            "process_id": int(environ[rank]),
            "cluster_detection_method": "deactivate",
        }
    for count, rank, here in _BY_LAUNCHER:
        if int(environ.get(count, 1)) > 1:
            # SLURM writes "4(x2)" where every machine has 4 tasks.
            tasks = int(environ[here].split("(")[0].split(",")[0])
            gpus = len([g for g in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if g])
            return {"local_device_ids": local_devices(gpus, int(environ[rank]), tasks)}
    return None


def local_devices(gpus: int, rank: int, tasks: int) -> list[int] | None:
    """The GPUs of a process among those that it sees on its machine.

    Args:
        gpus: it sees; 0: unknown.
        rank, tasks: its number among the machine's processes, and how many these are.

    Returns:
        Their indices: all where the launcher shows each process its own; None where unknown, which
        JAX takes for the one of the process's rank.
    """
    if not gpus:
        return None
    if gpus < tasks or tasks == 1:
        return list(range(gpus))
    share = gpus // tasks
    return list(range(rank * share, (rank + 1) * share))


@contextlib.contextmanager
def distributed_session():
    """Context of a program that may be one of several processes; to be entered before JAX is used.

    A process that dies ends the others within half a minute: JAX's own service, which runs in the
    first process, notices it, and each says which was lost.

    Ends the program, with a message and status 2, where the processes do not find each other.

    Raises:
        ConfigError: see `found_processes`.
    """
    found = found_processes(os.environ)
    if found is None:
        yield
        return
    # Otherwise JAX ends the process by abort() before it can say which other was lost.
    jax.config.update("jax_enable_recoverability", True)
    _at_abort(
        f"the processes do not find each other ({found}). All must be started within "
        f"{_MEET_WITHIN // 60} minutes, and reach the first one's address"
    )
    jax.distributed.initialize(
        **found, heartbeat_timeout_seconds=_LOST_AFTER, initialization_timeout=_MEET_WITHIN
    )
    hosts = _hosts()
    _at_abort(_loss_of(0, hosts))
    watch = _Watch(hosts)
    watch.start()
    with contextlib.ExitStack() as stack:
        if jax.process_index() > 0:
            quiet = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(quiet))
        try:
            yield
        except (IsaNetError, OSError):
            raise
        except Exception:
            # Most likely another process is gone: which one, the watch says, and ends this one.
            time.sleep(_LOST_AFTER + 5 * _LOOK_EVERY)
            raise
    multihost_utils.sync_global_devices("all are done")
    watch.is_over = True
    if jax.process_index() == 0:  # whose service the others need to leave
        watch.alone.wait(_LOST_AFTER)
    watch.join(_LOST_AFTER)  # asks the service, which would be taken from under it
    jax.distributed.shutdown()


class _Watch(threading.Thread):
    """Ends this process when another one is lost, until `is_over`.

    In the first process it then says when that is alone.
    """

    def __init__(self, hosts):
        super().__init__(daemon=True)
        self.hosts, self.is_over, self.alone = hosts, False, threading.Event()

    def run(self):
        """Looks at the others until there are none."""
        everyone = {d.process_index for d in jax.devices()}
        while not self.alone.is_set():
            time.sleep(_LOOK_EVERY)
            if self.is_over and jax.process_index() > 0:
                return
            try:
                with multihost_utils.live_devices(jax.devices()) as live:
                    pass
            except multihost_utils.ProcessFailureError as error:
                live = set(jax.devices()) - error.failed_devices
            except Exception:  # the service is gone, see `_at_abort`, or left
                return
            lost = everyone - {d.process_index for d in live}
            if lost and not self.is_over:
                _end(_loss_of(min(lost), self.hosts))
            if len(lost) == len(everyone) - 1:
                self.alone.set()


def _at_abort(message):
    """Says in words what JAX's abort() means: the service in the first process is not there."""
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    _at_abort.handler = kind(lambda number: _end(message))  # kept: C holds no reference
    ctypes.CDLL(None).signal(signal.SIGABRT, _at_abort.handler)


def _loss_of(process, hosts):
    return (
        f"process {process} of {len(hosts)} (on {hosts[process]}) was lost: it was killed, its "
        "machine failed, or it ended with an error of its own. This one ends, too; the same "
        "command resumes from the last whole checkpoint"
    )


def _end(message):
    _log.error(f"error: {message}")
    os._exit(2)


def _hosts() -> list[str]:
    """The machine's name of each process."""
    name = np.zeros(64, np.uint8)
    text = socket.gethostname().encode()[:64]
    name[: len(text)] = list(text)
    return [bytes(row[row > 0]).decode() for row in multihost_utils.process_allgather(name)]


def first_process_first(function: Callable):
    """What the function returns, called by the first process before the others.

    For what writes files that all of them read.
    """
    if jax.process_index() == 0:
        result = function()
    multihost_utils.sync_global_devices("the first is done")
    if jax.process_index() > 0:
        result = function()
    return result
