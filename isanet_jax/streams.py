"""What programs say, and where it goes: library code speaks through `logging` alone."""

import contextlib
import errno
import logging
import os
import stat
import sys
import time

_NO_READER = (errno.EPIPE, errno.EIO)  # of a pipe that was closed, a terminal that is gone


class _Shown(logging.Handler):
    """Messages as they are: on standard output, errors on standard error."""

    def emit(self, record):
        stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        stream.write(f"{printable(record.getMessage())}\n")
        stream.flush()


def printable(text: str) -> str:
    """Text whose control characters are spelt out: a file's name may hold a terminal's commands."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def show_messages() -> None:
    """Shows what this package's code logs from INFO on; programs and notebooks call it once.

    `logging.getLogger("isanet_jax").setLevel(logging.WARNING)` silences all but warnings.
    """
    logger = logging.getLogger("isanet_jax")
    if not any(isinstance(handler, _Shown) for handler in logger.handlers):
        logger.addHandler(_Shown())
        logger.propagate = False
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


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
        os.write(2, f"{printable(text)}\n".encode())
