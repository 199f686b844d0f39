"""The masks that readers save: every version stays, with who saved it and when.

labels/CASE/v0001.nii.gz, v0001.json    a mask on the first image's grid, and what is known of it
"""

import json
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from isanet_jax.datasets.layout import CASE_ID
from isanet_jax.errors import DataError
from isanet_jax.files import write_json
from isanet_jax.nifti import as_small, write_volume
from isanet_jax.volume import Volume

_VERSION = re.compile(r"v(\d{4,})\.json")
_LONGEST = 200  # characters of who and of a tag


class Version(NamedTuple):
    """A saved mask.

    Attributes:
        number: from 1 on.
        path: of the NIfTI file.
        who: the reader, as their client says.
        when: as YYYY-MM-DD hh:mm:ss.
        tag: `final`, `original` (a network's), or what a client says.
        base: the version that it was made from; 0: none.
    """

    number: int
    path: Path
    who: str
    when: str
    tag: str
    base: int


class Labels:
    """The folder of masks; any number of processes may save to it.

    Args:
        folder: of all cases' masks.
    """

    def __init__(self, folder):
        self.folder = Path(folder)

    def versions(self, case: str) -> list[Version]:
        """All of a case, the oldest first; one whose saving was cut off is none."""
        found = []
        for path in self._of(case).glob("v*.json"):
            match = _VERSION.fullmatch(path.name)
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
                mask = path.with_name(f"{path.stem}.nii.gz")
                if match and mask.exists():
                    texts = (str(known[name]) for name in ("who", "when", "tag"))
                    found.append(Version(int(match[1]), mask, *texts, int(known["base"])))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return sorted(found)

    def latest(self, case: str, tag: str | None = None) -> Version | None:
        """The last one, or the last of a tag."""
        found = [one for one in self.versions(case) if tag in (None, one.tag)]
        return found[-1] if found else None

    def cases(self, tag: str | None = None) -> list[str]:
        """Those that have a mask, or one of a tag."""
        if not self.folder.exists():
            return []
        return sorted(
            path.name
            for path in self.folder.iterdir()
            if path.is_dir() and self.latest(path.name, tag)
        )

    def save(self, case: str, mask: Volume, *, who="", tag="final", base=0) -> Version:
        """Keeps a mask as the next version; it is on the disk when this returns.

        Nothing is replaced: of two readers who began from one version both masks stay, and the
        later one is the latest.

        Raises:
            DataError: it cannot be written.
        """
        place = self._of(case)
        place.mkdir(parents=True, exist_ok=True)
        known = {
            "who": str(who)[:_LONGEST],
            "when": time.strftime("%Y-%m-%d %H:%M:%S"),
            "tag": str(tag)[:_LONGEST] or "final",
            "base": int(base),
        }
        number = max((one.number for one in self.versions(case)), default=0) + 1
        while True:
            claim = place / f".v{number:04}"
            try:
                os.close(os.open(claim, os.O_CREAT | os.O_EXCL))  # one process has a number
            except FileExistsError:
                number += 1
                continue
            path = place / f"v{number:04}.nii.gz"
            write_volume(path, as_small(mask), overwrite=True)
            _flush(path)
            write_json(place / f"v{number:04}.json", known)  # now it is one
            return Version(number, path, known["who"], known["when"], known["tag"], int(base))

    def draft(self, case: str) -> Path | None:
        """What was edited and not saved yet, where it is newer than the last version."""
        path = self._of(case) / "draft.nii.gz"
        return path if path.exists() else None

    def keep_draft(self, case: str, mask: Volume) -> None:
        """Keeps what is being edited, whole or not at all; a saved version ends it."""
        place = self._of(case)
        place.mkdir(parents=True, exist_ok=True)
        write_volume(place / "draft.nii.gz", as_small(mask), overwrite=True)
        _flush(place / "draft.nii.gz")

    def end_draft(self, case: str) -> None:
        """It was saved."""
        (self._of(case) / "draft.nii.gz").unlink(missing_ok=True)

    def _of(self, case):
        if not CASE_ID.fullmatch(case):
            raise DataError(f"{case[:100]!r} is no case", wanted="one of the server's")
        return self.folder / case


def _flush(path):
    """Puts a file on the disk before what says that it is there."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
