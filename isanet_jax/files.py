"""Files written whole or not at all: JSON, CSV, and whatever a context writes."""

import csv
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from isanet_jax.errors import ConfigError, DataError

BUNDLE_SUFFIX = ".isanet"


def check_new(path, *, overwrite=False) -> None:
    """Raises DataError where a file exists and `overwrite` is False."""
    if Path(path).exists() and not overwrite:
        raise DataError(
            "exists already", file=path, action="Choose another name or add --overwrite"
        )


class replace_when_done:  # noqa: N801 - used as a function
    """Context: gives a name beside `path` to write to, and moves it to `path` on success.

    A failed or killed write so never leaves half a file under the final name.

    Raises:
        DataError: the operating system refused (disk full, no permission).
    """

    def __init__(self, path, suffix=""):
        self.path = Path(path)
        self.partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.part{suffix}")

    def __enter__(self):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refused(error) from error
        return self.partial

    def __exit__(self, kind, error, traceback):
        if error is None:
            try:
                os.replace(self.partial, self.path)
            except OSError as failure:
                raise self._refused(failure) from failure
            return
        self.partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise self._refused(error) from error

    def _refused(self, error):
        return DataError(
            f"cannot be written ({error.strerror or error})",
            file=self.path,
            action="Free space on the disk or choose another output folder, then run the same "
            "command again: what is finished is kept",
        )


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBERS = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?( to [-+]?[\d.]+(e[-+]?\d+)?)?")


def is_bundle(path) -> bool:
    """Whether a path is of a model in one file (`isanet bundle`), and not of a run's folder."""
    return Path(path).suffix == BUNDLE_SUFFIX and not Path(path).is_dir()


def read_regular(path, most: int) -> bytes:
    """The content of an ordinary file, no larger than `most` bytes.

    Raises:
        OSError: it cannot be read, is no ordinary file (a device, a pipe), or is larger.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is no ordinary file")
        if status.st_size > most:
            raise OSError(f"{path} has {status.st_size} bytes; at most {most} are read")
        return file.read(most)


def _without_waiting(path, flags):
    """Opens; of a pipe that nobody writes to, at once."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_folder(path) -> Path:
    """The path, if it is a folder or can become one. Raises ConfigError where it is a file."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; name a folder")
    return path


def write_json(path, content) -> None:
    """Writes JSON (indented, keys as given), whole or not at all, also where the power goes."""
    with replace_when_done(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_csv(path, rows: list[dict], columns=None) -> None:
    """Writes rows as CSV, whole or not at all.

    Text that a spreadsheet would take for a formula gets an apostrophe before it.

    Args:
        path: of the file.
        rows: keys are columns.
        columns: their order; None: the first row's.
    """
    with (
        replace_when_done(path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows({k: _no_formula(v) for k, v in row.items()} for row in rows)


def _no_formula(value):
    is_one = isinstance(value, str) and value.startswith(_FORMULA)
    return f"'{value}" if is_one and not _NUMBERS.fullmatch(value) else value


def files_below(folder) -> Iterator[Path]:
    """The visible files at any depth of a folder, one folder after the other.

    Links to folders are followed, as cohorts are often put together of them; no folder is read
    twice, wherever its links lead. Nothing is read before it is asked for.
    """
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (path for path in visible(Path(place, n) for n in names) if path.is_file())


def visible(paths) -> list[Path]:
    """The paths, sorted, without the `._NAME` files that macOS puts beside every file it copies."""
    return sorted(p for p in paths if not p.name.startswith("._") and "__MACOSX" not in p.parts)
