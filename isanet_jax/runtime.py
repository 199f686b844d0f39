"""A program's process: its settings before JAX starts, its signals, its end."""

import errno
import hashlib
import importlib.util
import logging
import os
import platform
import signal
import sys
import threading
import traceback
import warnings
from pathlib import Path

from isanet_jax.arguments import take_flag
from isanet_jax.errors import IsaNetError
from isanet_jax.machine import GPU_MEMORY_SHARE, keep_memory
from isanet_jax.streams import KeptOpen, printable, say_at_once, show_messages

_log = logging.getLogger(__name__)
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")  # Linux, and Windows' subsystem for it
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_program(program) -> None:
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
    next ones, JAX is kept from failing on a missing GPU driver, and what this package logs is
    shown. Importing the package alone changes nothing.
    """
    show_messages()
    keep_compiled()
    keep_memory()
    choose_platform()


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
    _log.info("on %s x %s, JAX %s", len(devices), kind, jax.__version__)
    chosen = os.environ.get("JAX_PLATFORMS", "").startswith("cpu")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if devices[0].platform == "cpu" and has_gpu_driver() and not chosen and not hidden:
        _log.warning(
            "warning: this machine has an NVIDIA GPU, and JAX uses the CPU. Install JAX for it, "
            "pip install 'isanet-jax[cuda12]' or [cuda13] as nvidia-smi says; JAX_PLATFORMS=cuda "
            "shows why an installed one is not used"
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
    print(f"error: {printable(str(error))}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)
