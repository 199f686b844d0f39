"""Folders that one program at a time may write to."""

import contextlib
import logging
import os
import socket
import time

from isanet_jax.errors import ConfigError
from isanet_jax.files import check_folder

_log = logging.getLogger(__name__)

try:
    import fcntl
except ImportError:  # Windows: programs are not kept apart there
    fcntl = None


def try_lock(path):
    """An open file whose lock is ours as long as a process has it open; None where it is held.

    The lock ends with its processes, however they end; children inherit it with the open file.

    Args:
        path: of the lock's file, which is made and stays.

    Raises:
        OSError: the file cannot be made, or its file system has no locks.
    """
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (closing it is letting it go)
    try:
        if fcntl is None:
            return file
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        file.close()
        raise
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


@contextlib.contextmanager
def only_here(folder, name: str, doing: str, *, wait=False):
    """Context in which no other program does the same in a folder, which is made.

    A folder that was made and in which nothing was written before an error is removed again.

    Args:
        folder: to be written to.
        name: of the lock: `.NAME.lock` in the folder.
        doing: for the message: what the other program does, as in "trains in it".
        wait: wait for the other program to end, instead of refusing.

    Raises:
        ConfigError: another program does so; or the folder is a file.
    """
    folder = check_folder(folder)
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}.lock"
    file = None
    try:
        file = try_lock(path)
        if file is None:
            if not wait:
                raise ConfigError(
                    f"{folder}: another program {doing} ({_holder(path)}); wait for it to end, or "
                    "use another folder"
                )
            _log.info(f"{folder}: waiting, another program {doing} ({_holder(path)})")
            while (file := try_lock(path)) is None:
                time.sleep(1)
    except OSError as error:
        # Some cluster file systems have no locks: rare double starts are no reason to refuse.
        _log.info(
            f"note: {folder} cannot be locked ({error.strerror}): start one program at a time"
        )
    try:
        yield
    except BaseException:
        if made and file is not None and list(folder.iterdir()) == [path]:
            path.unlink()
            for empty in made:
                with contextlib.suppress(OSError):
                    empty.rmdir()
        raise
    finally:
        if file is not None:
            file.close()


def _holder(path):
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if text := path.read_text(encoding="utf-8")[:100]:
            return text
    return f"see {path}"
