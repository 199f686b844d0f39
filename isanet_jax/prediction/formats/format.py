"""What is declared of a format, and what several of them need."""

from collections.abc import Callable
from typing import NamedTuple

from isanet_jax.errors import DataError
from isanet_jax.kinds import shown


class Format(NamedTuple):
    """A format of masks; a file's `FORMATS` maps names to these.

    Attributes:
        suffix: ending of its files, with the dot.
        write: (path, prediction, keep_identity) writes `isanet_jax.prediction.result.Prediction` to
            a path that does not exist; keep_identity: with the patient's name, IDs and dates.
        check: (images) raises DataError, before anything is computed, where
            `isanet_jax.prediction.result.Images` cannot be written so; None: all can.
    """

    suffix: str
    write: Callable[..., None]
    check: Callable[..., None] | None = None


def needs_dicom(images) -> None:
    """Raises DataError where the first image, which the output is to reference, is no DICOM."""
    if images.slices is None:
        raise DataError(
            f"DICOM is asked for and the {shown(*next(iter(images.kinds.items())))} is not DICOM",
            case=images.scan.case,
            file=images.scan.place,
            wanted="a DICOM image, which the output references",
            action="Give its DICOM folder, or write NIfTI (--format nifti)",
        )
