"""Errors that a user can act on; the programs print them without a traceback."""

import traceback
from pathlib import Path

_SHOWN = 5  # names of many


class IsaNetError(ValueError):
    """Base of every error that the user, not the code, has to resolve."""


class ConfigError(IsaNetError):
    """A setting that cannot work: says the setting, its value, and the values that would."""


class DataError(IsaNetError):
    """A scan, case or folder that cannot be used.

    Args:
        found: what is there.
        wanted: what was expected in its place.
        case: the case's ID, where known.
        file: the file or folder concerned, where there is one.
        action: what the user can do.
    """

    def __init__(self, found, *, wanted=None, case=None, file=None, action=None):
        self.case = case
        place = [f"case {case}"] if case is not None else []
        place += [f"file {file}"] if file is not None else []
        text = (": ".join([", ".join(place), found])) if place else found
        if wanted:
            text += f"; expected {wanted}"
        if action:
            text += f". {action}"
        super().__init__(text)


class CheckpointError(IsaNetError):
    """A checkpoint or run folder that does not fit what was asked of it."""


def damaged(file, error, action: str) -> DataError:
    """The error of a file that this program wrote and that cannot be read as that any more.

    Args:
        file: its path.
        error: what was raised, or a text.
        action: what the user can do.
    """
    reason = " ".join(str(error).split())[:200]
    kind = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
    return DataError(f"is damaged ({kind}{reason})", file=file, action=action)


def some(names) -> str:
    """The first names of many, for a message."""
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def failure_of(error: Exception, case: str, log, *, clean=str) -> IsaNetError:
    """The error as one of its case alone: the others continue, and the traceback is kept.

    Args:
        error: whatever was raised while a case was worked on.
        case: its ID.
        log: file that the traceback of an unforeseen error is added to.
        clean: takes out of texts what may not be kept.
    """
    if isinstance(error, IsaNetError):
        return error
    log = Path(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        file.write(clean(f"case {case}\n{''.join(traceback.format_exception(error))}\n"))
    reason = " ".join(clean(str(error)).split())[:200]
    what = "out of memory" if isinstance(error, MemoryError) else type(error).__name__
    return DataError(
        f"cannot be processed: {what}{f' ({reason})' if reason else ''}",
        case=case,
        action=f"The traceback is in {log}",
    )
