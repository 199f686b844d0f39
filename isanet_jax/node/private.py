"""What of a patient leaves the node's memory: digests in place of names, and lines without any."""

import hashlib
import hmac
import logging
import re
import secrets
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pydicom

from isanet_jax.dicom.series import lenient

_SECRET = "secret"  # its file  # noqa: S105
_LENGTH = 24  # characters of a digest
_UID = re.compile(r"\b[0-2](?:\.\d+){5,}\b")
_ASKED = ("AccessionNumber", "PatientID", "StudyInstanceUID")
_IDENTITY = (
    *("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyID"),
    *("OtherPatientIDs", "ReferringPhysicianName", "InstitutionName", "OperatorsName"),
)
_SHORTEST = 3  # characters of what is withheld: "M" stands in every line
_LIBRARIES = ("pydicom", "pynetdicom", "highdicom", "py.warnings")


class Digests:
    """Digests of UIDs and numbers by a key that is the folder's: without it, none can be tried.

    Args:
        folder: of the node. One that an earlier version began has no key, and keeps plain digests.
    """

    def __init__(self, folder: Path, *, is_new=False):
        path = Path(folder) / _SECRET
        if is_new and not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32))
        self._key = path.read_text().strip().encode() if path.exists() else b""

    def of(self, text: str) -> str:
        """A name for what has a UID or number: of a study's folder, an instance's file."""
        content = str(text).strip().encode()
        if not self._key:
            return hashlib.sha256(content).hexdigest()[:_LENGTH]
        return hmac.digest(self._key, content, "sha256").hex()[:_LENGTH]

    def of_study(self, path) -> list[str]:
        """Of what a study may be looked up by, from the header of one of its files."""
        header = _header(path, _ASKED)
        values = (str(header.get(name) or "").strip() for name in _ASKED)
        return sorted(self.of(value) for value in values if value)


def _header(path, names):
    try:
        with lenient():
            return pydicom.dcmread(path, specific_tags=list(names), stop_before_pixels=True)
    except Exception:  # pydicom raises a dozen types on what is damaged
        return pydicom.Dataset()


def identity_in(path) -> set[str]:
    """What a file's header says of its patient, whole and word by word."""
    header, found = _header(path, _IDENTITY), set()
    for name in _IDENTITY:
        text = str(header.get(name) or "")
        found |= {text, *re.split(r"[\^=\s\\]+", text)}
    return {text for text in found if len(text) >= _SHORTEST}


def withhold(text: str, identity: Iterable[str] = ()) -> str:
    """The text without UIDs, and without these values where they stand as words."""
    text = _UID.sub("(UID)", text)
    for value in sorted(identity, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "(withheld)", text, flags=re.IGNORECASE)
    return text


class _Placed(logging.Handler):
    """Says where a library logged something, and not what: its text may be a patient's name."""

    def __init__(self, say):
        super().__init__(logging.WARNING)
        self.say, self.told = say, set()

    def emit(self, record):
        self.tell(record.levelname.lower(), f"{record.name}:{record.lineno}")

    def tell(self, kind, place):
        """Once for each place."""
        if place not in self.told:
            self.told.add(place)
            self.say(f"{kind} of a library ({place}); its text is withheld")


def withhold_of_libraries(say: Callable[[str], None]) -> Callable[[], None]:
    """From here on, what libraries warn of and log is told by its place alone; returns its end."""
    handler, before = _Placed(say), warnings.showwarning

    def show(_message, category, filename, lineno, _file=None, _line=None):
        place = "/".join(Path(filename).parts[-2:])
        handler.tell(category.__name__, f"{place}:{lineno}")

    warnings.showwarning = show
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    kept = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False

    def end():
        warnings.showwarning = before
        for logger, handlers, propagate in kept:
            logger.handlers, logger.propagate = handlers, propagate

    return end
