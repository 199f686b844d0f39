"""What a process of this package has: memory, cache and platform settings, signals, its end."""

import contextlib
import ctypes
import errno
import hashlib
import importlib.util
import logging
import os
import platform
import signal
import stat
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

from isanet_jax.errors import ConfigError, IsaNetError

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
GPU_MEMORY_SHARE = 0.92  # of a GPU, that JAX takes and isanet plan counts on
_SCRIPTS = ("prepare.py", "train.py", "eval.py", "predict.py")  # of a clone
AS_MODULE = "python -m isanet_jax"
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")  # Linux, and Windows' subsystem for it
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_READER = (errno.EPIPE, errno.EIO)  # of a pipe that was closed, a terminal that is gone
_STARTED = time.perf_counter()
CLOCKS = ("cpu", "gpu")


def run(program) -> None:
    """Runs a program; an error that is the user's to resolve ends it with one line and status 2."""
    setup()
    quieten_libraries()
    sys.argv, is_quiet = take_flag(sys.argv, "--quiet")
    if is_quiet:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end
        os.environ["TQDM_DISABLE"] = "1"
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows no "±" gets another sign
        stream.reconfigure(errors="replace")
    sys.stdout, sys.stderr = KeptOpen(sys.stdout), KeptOpen(sys.stderr)
    try:
        program()
    except IsaNetError as error:
        _end(error)
    except OSError as error:  # of files and folders that were named to the program
        _end(
            f"{error}. Free space or choose another folder, then run the same command again"
            if error.errno in _NO_SPACE
            else f"{error}. Look at this file or folder, or name another one"
        )
    except KeyboardInterrupt:
        say_at_once("interrupted; run the same command again to resume")
        sys.stdout.flush()
        os._exit(130)  # a compiler may still be at work in another thread, and cannot be stopped


def setup() -> None:
    """What the programs set before JAX is imported; for notebooks: call it first.

    Compiled functions are kept in the user's cache folder, memory of large arrays is kept for the
    next ones, and JAX is kept from failing on a missing GPU driver. Importing the package alone
    changes nothing.
    """
    keep_compiled()
    keep_memory()
    choose_platform()


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


def seconds_by(clock: str) -> float:
    """What this process has taken since its start.

    Args:
        clock: of `CLOCKS`: `cpu`, the processor's time, user and system; `gpu`, what the clock on
            the wall says, for what computes elsewhere.
    """
    return time.process_time() if clock == "cpu" else time.perf_counter() - _STARTED


def command(name: str) -> str:
    """How the user calls a program: `isanet train`, unless another one was called otherwise."""
    is_script = Path(sys.argv[0]).name in _SCRIPTS
    if is_script and f"{name}.py" in _SCRIPTS:
        return f"python {name}.py"
    by_module = is_script or sys.argv[0].startswith(AS_MODULE)
    return f"{AS_MODULE if by_module else 'isanet'} {name}"


def config_name(name: str) -> str:
    """How the user names a config: `configs/hecktor.py` in a clone, else `hecktor`."""
    return f"configs/{name}.py" if Path(sys.argv[0]).name in _SCRIPTS else name


class KeptOpen:
    """A text stream that continues when nobody reads it any more: `train.py | head -1`, or SIGHUP.

    Args:
        stream: to be written to; from the first failed write on, it leads nowhere.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        """Writes the text, if there is a reader."""
        return self._try(self._stream.write, text)

    def flush(self):
        """Flushes, if there is a reader."""
        self._try(self._stream.flush)

    def _try(self, method, *arguments):
        try:
            return method(*arguments)
        except OSError as error:
            if error.errno not in _NO_READER:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # what waits in the buffer goes there, too
            os.close(nowhere)
            return None


def stamp_lines() -> None:
    """Puts the time before each line of what is printed, where it goes to a file: a log."""
    try:
        is_file = stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, AttributeError, ValueError):  # a notebook's, or a test's
        return
    if is_file:
        sys.stdout = Stamped(sys.stdout)


class Stamped:
    """A text stream whose lines begin with the time.

    Args:
        stream: to be written to.
    """

    def __init__(self, stream):
        self._stream, self._is_new = stream, True

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        """Writes the text."""
        for line in text.splitlines(keepends=True):
            stamp = time.strftime("%Y-%m-%d %H:%M:%S ") if self._is_new and line.strip() else ""
            self._stream.write(stamp + line)
            self._is_new = line.endswith("\n")
        return len(text)


def say_at_once(text: str) -> None:
    """Writes a line to standard error from anywhere, a signal's handler too; never fails."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())


def stop_signals() -> list[signal.Signals]:
    """The signals that ask a program to save and stop.

    A terminal's end (SIGHUP) is none where it is ignored: the program was started by nohup.
    """
    found = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


def quieten_libraries() -> None:
    """Leaves out what libraries log of errors that they also raise, which are then shown once."""
    for name in ("absl", "asyncio", "concurrent.futures", "orbax"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    threading.excepthook = _quietly(threading.__excepthook__)
    sys.unraisablehook = _quietly(sys.__unraisablehook__)


def _quietly(show):
    """A hook that shows nothing of Orbax's threads and coroutines, whose errors are raised where
    a save is waited for.
    """

    def hook(arguments):
        frames = traceback.walk_tb(arguments.exc_traceback)
        files = [frame.f_code.co_filename for frame, _ in frames]
        if not any(name in file for file in files for name in ("orbax", "asyncio", "uvloop")):
            show(arguments)

    return hook


def take_number(argv, flag: str, default: int, meaning: str) -> tuple[list[str], int]:
    """Takes `FLAG N` or `FLAG=N`, N at least 1, out of a command line.

    Returns:
        the rest of the command line, and N or the default.

    Raises:
        ConfigError: no such number.
    """
    rest, value = take_word(argv, flag)
    if value is None:
        return rest, default
    if not value.isdigit() or int(value) < 1:
        raise ConfigError(f"{flag} is {value!r}; give {meaning}")
    return rest, int(value)


def take_word(argv, flag: str) -> tuple[list[str], str | None]:
    """Takes `FLAG WORD` or `FLAG=WORD` out of a command line; None: it is not there."""
    rest, value = [], None
    words = iter(argv)
    for word in words:
        if word == flag:
            value = next(words, "")
        elif word.startswith(f"{flag}="):
            value = word.removeprefix(f"{flag}=")
        else:
            rest.append(word)
    return rest, value


def take_flag(argv, flag: str) -> tuple[list[str], bool]:
    """Takes a flag out of a command line; returns the rest, and whether it was there."""
    rest = [word for word in argv if word != flag]
    return rest, len(rest) < len(argv)


def keep_compiled() -> None:
    """Lets JAX keep what it has compiled in the user's cache folder, unless the user says where.

    By environment, so that it holds before JAX is imported, and for the processes started from
    here. A folder for each kind of processor: code compiled for one need not run on another, and
    a cluster's nodes share the home folder.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(cache) / "isanet_jax" / f"compiled-{_processor()}"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def keep_memory() -> None:
    """Lets the C library keep the memory of large arrays for the next ones (glibc only).

    It would give each array's pages back to the system, which hands them out zeroed again: on CPU
    that took a quarter of a train step (docs/performance.md). JAX on CPU is made to compute on the
    thread that calls it, by environment, before its import: of the C library's arenas only the main
    thread's keeps arrays of more than 64 MB.
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


def choose_platform() -> None:
    """Settles what JAX runs on where it would fail or waste: by environment, before its import.

    JAX's CUDA plugin reports a missing driver with tracebacks; without a driver it is left out.
    On a GPU, JAX takes three quarters of the memory by default; isanet plan counts on 92 %.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(GPU_MEMORY_SHARE))
    plugins = [name for name in _PLUGINS if importlib.util.find_spec(name)]
    if plugins and not has_gpu_driver():
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def has_gpu_driver() -> bool:
    """Whether the machine has a driver for NVIDIA's GPUs."""
    return any(map(os.path.exists, _DRIVERS))


def say_devices() -> None:
    """Prints what JAX computes on; a warning, too, where it leaves a GPU unused.

    JAX takes the CPU without a word where its plugin for GPUs is missing, or does not fit the
    driver.
    """
    import jax

    devices = jax.local_devices()
    kinds = sorted({device.device_kind for device in devices})
    kind = "CPU" if devices[0].platform == "cpu" else ", ".join(kinds)
    print(f"on {len(devices)} x {kind}, JAX {jax.__version__}", flush=True)
    chosen = os.environ.get("JAX_PLATFORMS", "").startswith("cpu")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if devices[0].platform == "cpu" and has_gpu_driver() and not chosen and not hidden:
        print(
            "warning: this machine has an NVIDIA GPU, and JAX uses the CPU. Install JAX for it, "
            "pip install 'isanet-jax[cuda12]' or [cuda13] as nvidia-smi says; JAX_PLATFORMS=cuda "
            "shows why an installed one is not used",
            flush=True,
        )


def _processor():
    """A name for the processor's kind: its architecture, and on Linux its features."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    features = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return f"{platform.machine()}-{hashlib.sha256(''.join(features).encode()).hexdigest()[:8]}"


def _end(error):
    """Ends the program; the error is the last line that it prints.

    At once: what libraries' threads and objects would still find on their way out adds nothing.
    """
    threading.excepthook = sys.unraisablehook = lambda *_: None
    warnings.simplefilter("ignore")
    print(f"error: {error}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)
