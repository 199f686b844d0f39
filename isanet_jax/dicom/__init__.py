"""DICOM: series, images, studies and regions read; masks written."""

import contextlib
from pathlib import Path
from typing import NamedTuple


class Maker(NamedTuple):
    """What DICOM outputs say made them.

    Attributes:
        name: of the model.
        digest: of its parameters, SHA-256, or "" where there is none.
        supersedes: (Series Instance UID, SOP Instance UID) of the output that this one replaces:
            more of the study has come since; or None.
        uids: (Series, SOP Instance UID) of the output itself; None: new ones.
    """

    name: str = "ISA-Net"
    digest: str = ""
    supersedes: tuple[str, str] | None = None
    uids: tuple[str, str] | None = None


ISA_NET = Maker()


def is_dicom(path) -> bool:
    """Whether a path is read as DICOM: a folder, an archive, or a file that begins as DICOM does.

    That is by its preamble or, as some planning systems write it, by a dataset's first groups.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() == ".zip":
        return True
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = file.read(132)
        # Group 0008 or 0002 and a small element number, little-endian.
        is_bare = start[:2] in (b"\x08\x00", b"\x02\x00") and start[3:4] == b"\x00"
        return start[128:] == b"DICM" or (is_bare and len(start) == 132)
    return False
