"""What goes wrong with checkpoints on a disk, in one line that says what is left."""

import contextlib
import json
import logging
from pathlib import Path

import jax

from isanet_jax.arguments import command
from isanet_jax.errors import CheckpointError, DataError

_log = logging.getLogger(__name__)
_DISK = ("os_error_code", "No space", "File too large", "OS error")  # TensorStore's words


SAVED = "saved.json"  # beside the series: the step of each that was written whole, and its files


def lost(workdir, what):
    """The error of a folder whose record is there and whose checkpoints are not."""
    return CheckpointError(
        f"{what} is missing in {workdir}, which holds the record of an earlier training. Put it "
        f"back from a copy to resume. To start again, use another --workdir, or delete {workdir}"
        + way_out(workdir, "latest")
    )


def read_saved(workdir) -> dict:
    """Series -> the step and the files, with their sizes, of the checkpoint that was written."""
    path = Path(workdir) / "checkpoints" / SAVED
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(v["step"], int) for v in content.values()):
            raise ValueError("a step that is no number")
        _ = [dict(v.get("files", {})) for v in content.values()]
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        _log.warning(
            f"warning: {path} is damaged ({type(error).__name__}: {error}) and is left out of "
            "account: the next checkpoint writes it anew"
        )
        return {}
    return content


@contextlib.contextmanager
def damage(folder, workdir):
    """Context: whatever goes wrong while a checkpoint is read is damage, and said so in a line."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # Orbax, TensorStore and JSON raise a dozen types
        reason = _reason(error, folder)
        which = folder.parent.name
        lacking = what_is_lacking(folder, read_saved(workdir).get(which, {}))
        raise CheckpointError(
            f"the checkpoint in {folder} is damaged ({lacking or reason}): it was not "
            f"loaded{way_out(workdir, which)}"
        ) from error


def _reason(error, folder):
    """The message, of an error and its causes, that names a file; the first where none does."""
    messages, seen = [], error
    while seen is not None and len(messages) < 10:
        messages.append(" ".join(str(seen).split()) or type(seen).__name__)
        seen = seen.__cause__ or seen.__context__
    named = (text for text in messages if f"{folder}/" in text)
    return next(named, messages[0]).replace(f"{folder}/", "")[:300]


def what_is_lacking(folder, saved):
    """Which of a checkpoint's files are missing or of another size than was written; "" if none.

    Args:
        folder: of the checkpoint.
        saved: `step` and `files` of the series; empty: unknown.
    """
    damages = []
    written = saved.get("files", {}) if str(saved.get("step")) == folder.name else {}
    for name, size in written.items():
        path = folder / name
        if not path.is_file():
            damages.append(f"{name} is missing")
        elif path.stat().st_size != size:
            damages.append(f"{name} has {path.stat().st_size} bytes of {size}")
    return ", ".join(damages[:5])


def files_of(folder):
    """Every file below a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def way_out(workdir, which):
    """What the other series still allows."""
    other = "latest" if which == "best" else "best"
    folder = Path(workdir) / "checkpoints" / other
    if not folder.is_dir() or not any(p.name.isdigit() for p in folder.iterdir()):
        return ". There is no other checkpoint in this folder"
    if other == "latest":
        return (
            f". The latest parameters may be whole: {command('eval')} and predict --workdir "
            f"{workdir} --checkpoint latest"
        )
    return (
        f". The best parameters may be whole: {command('eval')} and predict --workdir {workdir} "
        "use them; training cannot be resumed from them"
    )


@contextlib.contextmanager
def disk_errors(folder):
    """Context: what fails while a checkpoint is written, in one line.

    TensorStore reports a disk that is full, or has an error, by a ValueError of many wordings.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        is_disk = isinstance(error, OSError) or any(word in text for word in _DISK)
        # Of several processes, another one may be lost: its watch says so.
        if not is_disk and jax.process_count() > 1:
            raise
        what = "Free space on the disk" if is_disk else "Look at what the message says"
        raise DataError(
            f"a checkpoint cannot be written ({text[:300]})",
            file=folder,
            action=f"{what} and run the same command again: it resumes from the last whole "
            "checkpoint",
        ) from error
