"""Which process works on which case, where many share a folder: on NFS, too, and by any machine."""

import contextlib
import os
import socket
import threading
import uuid
from pathlib import Path

_BEAT_S, _DEAD_S = 20.0, 300.0  # how often a claim is renewed; after which it is nobody's


def _machine():
    """Names this machine and the process numbers it knows: containers may share a host's name."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


class Claims:
    """A file for each case that is worked on, made by one process alone (`O_EXCL`).

    A claim is renewed while its process lives. One whose process is gone, as this machine knows at
    once and others after five minutes, is taken over.

    Args:
        folder: of the claims; it is made.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._text = f"{_machine()}\n{os.getpid()} {uuid.uuid4().hex}"
        self._mine, self._lock, self._over = set(), threading.Lock(), threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._over.set()
        for name in list(self._mine):
            self.release(name)

    def take(self, name: str) -> bool:
        """Whether a case is this process's now; False: another one works on it."""
        path = self._path(name)
        for _ in range(2):
            try:
                with open(path, "x", encoding="utf-8") as file:
                    file.write(self._text)
            except FileExistsError:
                if not self._take_over(path):
                    return False
                continue
            with self._lock:
                self._mine.add(name)
            return True
        return False

    def release(self, name: str) -> None:
        """It is done, or given up."""
        with self._lock:
            self._mine.discard(name)
        path = self._path(name)
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == self._text:
                path.unlink()

    def _path(self, name):
        return self.folder / f"{name}.claim"

    def _take_over(self, path):
        """Removes the claim of a process that is gone; whether it was one."""
        try:
            text, at = path.read_text(encoding="utf-8"), path.stat().st_mtime
        except OSError:  # released meanwhile
            return True
        machine, _, process = text.partition("\n")
        here = machine == _machine() and process
        is_gone = here and not _lives(int(process.split()[0]))
        if not is_gone and self._now() - at < _DEAD_S:
            return False
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            os.rename(path, aside)
        except OSError:
            return True
        if aside.read_text(encoding="utf-8") != text:  # another one was quicker: it is theirs
            with contextlib.suppress(OSError):
                os.link(aside, path)
            aside.unlink()
            return False
        aside.unlink()
        return True

    def _now(self):
        """The file system's time: its server's clock may differ from this machine's."""
        probe = self.folder / f".{uuid.uuid4().hex}"
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        return now

    def _beat(self):
        while not self._over.wait(_BEAT_S):
            with self._lock:
                mine = list(self._mine)
            for name in mine:
                with contextlib.suppress(OSError):
                    os.utime(self._path(name))


def _lives(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
