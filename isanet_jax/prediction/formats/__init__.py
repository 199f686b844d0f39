"""The formats in which masks are written, a file each.

To add one, write a file that says `FORMATS = {"name": Format(...)}`
(`isanet_jax.prediction.formats.format`), into this folder or anywhere (see `isanet_jax.registry`).
"""

from isanet_jax.prediction.formats.format import Format, needs_dicom
from isanet_jax.registry import Registry

__all__ = ["FORMATS", "Format", "of_dicom", "suffixes"]

FORMATS: Registry = Registry("FORMATS", __name__, order=lambda item: (item[0] != "nifti", item[0]))


def of_dicom() -> list[str]:
    """Those that are DICOM and reference the first image."""
    return [name for name, one in FORMATS.items() if one.check is needs_dicom]


def suffixes() -> dict[str, str]:
    """Format of a mask -> its file's ending; NIfTI first."""
    return {name: one.suffix for name, one in FORMATS.items()}
