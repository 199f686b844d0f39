"""The node's studies on disk: each is in one folder, and moves on when that is renamed.

    received/KEY   files as they come in
    waiting/KEY    nothing has come for a while: to be predicted
    ready/KEY      job.json and the results, to be sent
    done/KEY.json  what was done; the results are gone
    kept/KEY       its images, for a day and while there is room: more of it may come
    failed/KEY     the images, and failed.json with the reason

A rename is whole or not at all, so that a node that is killed at any point begins again where it
was. KEY is a digest (`isanet_jax.node.private`): nothing of a patient is in a name, and no name
comes from the data.
"""

import contextlib
import filecmp
import json
import os
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from isanet_jax.files import write_json
from isanet_jax.node.private import Digests

STATES = ("received", "waiting", "ready", "failed", "done")
JOB, FAILED = "job.json", "failed.json"
_KEPT = "kept"
MOST_RECORDS = 1000  # of done studies, that are remembered
KEPT_S = 86400.0  # that a study's images are kept after it was predicted
_LEFT_S = 3600.0  # after which a file that is not finished never will be


class Queue:
    """The folders, and what may be done to them; every method may be called from any thread.

    Args:
        folder: of the node; one node at a time has it.
        most_bytes: of images that are kept; of more, none are taken, and the oldest failed
            studies' images are deleted.
        least_free: bytes of the disk that stay free.
    """

    def __init__(self, folder, *, most_bytes: int, least_free: int):
        self.folder = Path(folder)
        self.most_bytes, self.least_free = most_bytes, least_free
        self._lock = threading.RLock()
        self._last = {}  # key -> when something of it came, by the monotonic clock
        self._open = Counter()  # key -> associations that have brought something of it
        is_new = not any((self.folder / name).exists() for name in STATES)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.digests = Digests(self.folder, is_new=is_new)
        self.temporary = self.folder / "tmp"
        shutil.rmtree(self.temporary, ignore_errors=True)
        for name in (*STATES, _KEPT, "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._bytes = self._count_bytes()
        self._recover()

    # Coming in.

    def has_disk(self, *, more: int = 0) -> bool:
        """Whether the disk has room."""
        return shutil.disk_usage(self.folder).free > self.least_free + more

    def has_room(self, *, more: int = 0) -> bool:
        """Whether another instance may be taken; images that are kept make room for it."""
        with self._lock:
            for folder in self._in(_KEPT):
                if self._fits(more):
                    break
                self._drop(folder)
            return self._fits(more)

    def is_open(self) -> bool:
        """Whether it would have room, were the images that are kept to make some."""
        with self._lock:
            kept = sum(path.stat().st_size for path in (self.folder / _KEPT).rglob("*.dcm"))
            return self._fits(-kept)

    def _fits(self, more=0):
        return self.has_disk(more=more) and self._bytes + more <= self.most_bytes

    def add(self, study_uid: str, instance_uid: str, path: Path) -> str:
        """Takes a file, which lies on the same disk, as an instance of a study; returns its key.

        It is on the disk when this returns: the sender may forget it then.

        Raises:
            OSError: it could not be kept.
        """
        key, size = self.digests.of(study_uid), path.stat().st_size
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        with self._lock:
            target = self.folder / "received" / key / f"{self.digests.of(instance_uid)}.dcm"
            target.parent.mkdir(exist_ok=True)
            before = target.stat().st_size if target.exists() else 0
            os.replace(path, target)
            self._bytes += size - before
            self._last[key] = time.monotonic()
        return key

    def hold(self, key: str) -> None:
        """An association that brings this study is open."""
        with self._lock:
            self._open[key] += 1

    def release(self, keys: Iterable[str]) -> None:
        """It is closed."""
        with self._lock:
            for key in keys:
                self._open[key] -= 1
                self._last[key] = time.monotonic()

    def settle(self, quiet_s: float) -> list[tuple[str, str]]:
        """Moves on the studies of which nothing has come for a while; (key, what was done)."""
        told = []
        with self._lock:
            for folder in self._in("received"):
                key = folder.name
                last = self._last.setdefault(key, time.monotonic())
                busy = any((self.folder / name / key).exists() for name in ("waiting", "ready"))
                if busy or self._open[key] > 0 or time.monotonic() - last < quiet_s:
                    continue
                names = {path.name for path in folder.iterdir()}
                if self._was_done(key, names):
                    self._drop(folder)
                    told.append((key, "came again: it was done before"))
                else:
                    before = self._take_kept(key, names)
                    failed = self.folder / "failed" / key
                    if failed.exists():  # what came before is part of it
                        is_of_images = _read(failed / FAILED).get("in") == "waiting"
                        for path in failed.glob("*.dcm") if is_of_images else ():
                            if path.name not in names:
                                path.replace(folder / path.name)
                        self._drop(failed)
                    os.rename(folder, self.folder / "waiting" / key)
                    count = len(list(self.images_of(key)))
                    more = f", {len(names)} more than it was predicted from" if before else ""
                    told.append((key, f"{count} instances wait{more}"))
                self._last.pop(key, None)
                del self._open[key]
        return told

    def _was_done(self, key, names):
        """Whether all that came of a study was predicted before, and is the same."""
        if not names <= set(self._record(key).get("instances", ())):
            return False
        here, kept = (self.folder / state / key for state in ("received", _KEPT))
        known = [name for name in names if (kept / name).exists()]
        return all(filecmp.cmp(here / name, kept / name, shallow=False) for name in known)

    def _take_kept(self, key, names):
        """Adds the images that a study was predicted from before to those that came; how many."""
        kept, taken = self.folder / _KEPT / key, 0
        if kept.exists():
            for path in sorted(kept.glob("*.dcm")):
                if path.name not in names:
                    path.replace(self.folder / "received" / key / path.name)
                    taken += 1
            self._drop(kept)
        return taken

    # Predicted.

    def next_waiting(self) -> str | None:
        """The study that has waited longest."""
        return next((folder.name for folder in self._in("waiting")), None)

    def images_of(self, key: str) -> Iterable[Path]:
        """The instances of a waiting study."""
        return (self.folder / "waiting" / key).glob("*.dcm")

    def outputs_of(self, key: str) -> dict[str, tuple[str, str]]:
        """Format -> (Series, SOP Instance UID) of what was sent of a study before."""
        outputs = self._record(key).get("outputs", {})
        return {kind: (series, instance) for kind, (series, instance) in outputs.items()}

    def new_results(self, key: str) -> Path:
        """An empty folder for a waiting study's results."""
        folder = self.temporary / f"{key}-results"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def ready(self, key: str, results: Path, about: dict) -> None:
        """A study's results are there to be sent; its images are kept for what may still come."""
        names = sorted(path.name for path in self.images_of(key))
        asked = self.digests.of_study(next(self.images_of(key)))
        job = {"id": uuid.uuid4().hex, "instances": names, "asked": asked, **about}
        write_json(results / JOB, job)
        with self._lock:
            os.rename(results, self.folder / "ready" / key)
            self._keep(self.folder / "waiting" / key)

    def _keep(self, folder):
        """Moves a predicted study's images to those that are kept."""
        target = self.folder / _KEPT / folder.name
        if target.exists():
            self._drop(target)
        os.rename(folder, target)
        os.utime(target)  # from when on they are kept

    def fail(self, key: str, state: str, reason: str) -> None:
        """A study of a state failed; it is kept with the reason until it is sent again."""
        with self._lock:
            folder = self.folder / state / key
            write_json(folder / FAILED, {"at": _now(), "in": state, "reason": reason})
            target = self.folder / "failed" / key
            if target.exists():
                self._drop(target)
            if state == "ready":  # results count from here on
                self._bytes += sum(path.stat().st_size for path in folder.glob("*.dcm"))
            os.rename(folder, target)
            self._prune()

    # Sent.

    def to_send(self) -> list[str]:
        """Keys of the studies whose results are there, oldest first."""
        return [folder.name for folder in self._in("ready")]

    def job(self, key: str) -> dict:
        """What a ready study's job.json says."""
        return _read(self.folder / "ready" / key / JOB)

    def set_sent(self, key: str, name: str, state: str) -> None:
        """Notes of a result that it is being sent (`sending`), or was (`sent`)."""
        job = self.job(key)
        job["sent"] = job.get("sent", {}) | {name: state}
        write_json(self.folder / "ready" / key / JOB, job)

    def done(self, key: str) -> None:
        """All of a study was sent."""
        with self._lock:
            job, before = self.job(key), self._record(key)
            names = sorted({*before.get("instances", ()), *job.get("instances", ())})
            record = {**job, "at": _now(), "instances": names}
            write_json(self.folder / "done" / f"{key}.json", record)
            self._drop(self.folder / "ready" / key)
            for path in self._in("done")[:-MOST_RECORDS]:
                path.unlink()

    # To be looked at.

    @property
    def bytes(self) -> int:
        """Of the images on disk."""
        return self._bytes

    def counts(self) -> dict[str, int]:
        """State -> how many studies are in it."""
        with self._lock:
            return {name: len(self._in(name)) for name in STATES}

    def state(self) -> dict:
        """How much there is of what, and the last results and failures."""
        with self._lock:
            counts = self.counts()
            done = [{"study": p.stem, **_read(p)} for p in self._in("done")[-20:][::-1]]
            failed = [
                {"study": folder.name, **_read(folder / FAILED)}
                for folder in self._in("failed")[-20:][::-1]
            ]
            sending = [{"study": key, **self.job(key)} for key in self.to_send()[:20]]
        for one in (*done, *sending):
            one["instances"] = len(one.get("instances", ()))
            for private in ("asked", "outputs"):
                one.pop(private, None)
        return {
            "counts": counts,
            "bytes": self._bytes,
            "most_bytes": self.most_bytes,
            "has_room": self.is_open(),
            "done": done,
            "failed": failed,
            "ready": sending,
        }

    # Within.

    def _in(self, state):
        return _oldest_first(self.folder / state)

    def _record(self, key):
        return _read(self.folder / "done" / f"{key}.json")

    def _drop(self, folder):
        """Deletes a folder; whatever happens meanwhile, it is gone from its state at once."""
        size = sum(path.stat().st_size for path in folder.rglob("*.dcm"))
        apart = self.temporary / f"{folder.name}-{uuid.uuid4().hex[:8]}"
        os.rename(folder, apart)
        if folder.parent.name != "ready":
            self._bytes -= size
        shutil.rmtree(apart, ignore_errors=True)

    def _prune(self):
        """Deletes the images of the studies that failed first, where there is no room."""
        for folder in self._in(_KEPT):
            if time.time() - folder.stat().st_mtime > KEPT_S:
                self._drop(folder)
        for folder in self._in("failed"):
            if self.has_room():
                return
            for path in folder.glob("*.dcm"):
                self._bytes -= path.stat().st_size
                path.unlink()

    def prune(self) -> None:
        """See `most_bytes`; also deletes what associations that broke off have left."""
        with self._lock:
            self._prune()
        for path in self.temporary.glob("*.dcm"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _LEFT_S:
                    path.unlink()

    def _count_bytes(self):
        found = (self.folder / name for name in ("received", "waiting", "failed", _KEPT))
        return sum(path.stat().st_size for folder in found for path in folder.rglob("*.dcm"))

    def _recover(self):
        """Ends what a node that was killed had begun."""
        for folder in self._in("ready"):
            record = self._record(folder.name)
            if record.get("id") == self.job(folder.name).get("id") is not None:
                self._drop(folder)  # all was sent, and noted
        for folder in self._in("waiting"):
            key, names = folder.name, {path.name for path in folder.glob("*.dcm")}
            ready = self.folder / "ready" / key
            if ready.exists() and names <= set(self.job(key).get("instances", ())):
                self._keep(folder)  # it was predicted


def look_up(folder, text: str) -> Iterator[tuple[str, str, dict]]:
    """(state, key, its record) of each study with this accession number, Patient ID or UID.

    Reads what a node has on its disk, also while the node is at work.
    """
    digests = Digests(folder)
    wanted = digests.of(text)
    for state in (*STATES, _KEPT):
        for path in _oldest_first(Path(folder) / state):
            record = _read(path) or _read(path / FAILED) | _read(path / JOB)
            asked = {path.stem, *record.get("asked", ())}
            image = next(path.glob("*.dcm"), None) if path.is_dir() else None
            if wanted in asked or (image and wanted in digests.of_study(image)):
                yield state, path.stem, record


def _oldest_first(folder):
    """Folders (or records) in one, oldest first."""
    found = []
    for path in folder.iterdir() if folder.exists() else ():
        with contextlib.suppress(FileNotFoundError):  # gone since
            if not path.name.startswith("."):
                found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found)]


def _now():
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _read(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
