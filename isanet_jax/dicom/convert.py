"""DICOM studies converted to NIfTI."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from isanet_jax.dicom.image import one_series, read_image
from isanet_jax.dicom.series import find_series
from isanet_jax.dicom.structures import (
    read_regions,
    referenced_series,
)
from isanet_jax.dicom.studies import Study, choose_structures
from isanet_jax.errors import DataError
from isanet_jax.volume import Volume, as_small, as_stored, write_volume

CT_NAME, PET_NAME, MASK_NAME = "ct_hu.nii.gz", "pet_suv.nii.gz", "mask.nii.gz"


class Images(NamedTuple):
    """A study as read.

    Attributes:
        ct: HU. pet: SUVbw. label: bool, on the grid that it was drawn on.
        warnings: of the study and its series.
    """

    ct: Volume
    pet: Volume
    label: Volume
    warnings: list[str]


def read_study(study: Study) -> Images:
    """A study's images and mask, each as reading it back from NIfTI would give it.

    Raises:
        DataError: a series that cannot be read, contours that do not fit.
    """
    warnings = list(study.notes)
    volumes, grids = [], {}
    for series in (study.ct, study.pet):
        volume, _ = read_image(series, case=study.case, notes=warnings)
        grids[series.uid] = volume.data.shape, volume.affine
        volumes.append(volume)
    images = [study.ct, study.pet]
    mask, _ = read_regions(
        study.structures, study.regions, images, case=study.case, notes=warnings, grids=grids
    )
    warnings += study.structures.warnings
    ct, pet, label = (as_stored(v) for v in (*volumes, mask))
    return Images(ct, pet, Volume(label.data > 0, label.affine, label.header), warnings)


def write_copies(folder: Path, images: Images) -> None:
    """Writes a study as NIfTI: `ct_hu`, `pet_suv` and `mask.nii.gz`. Raises DataError."""
    for name, volume in zip((CT_NAME, PET_NAME, MASK_NAME), images[:3], strict=True):
        write_image(folder / name, volume)


def fingerprints(study: Study) -> dict[str, str]:
    """SHA-256 of the names, sizes and times of each part's files, which are not opened for it."""
    digests = {}
    for name, series in (("ct", study.ct), ("pet", study.pet), ("label", study.structures)):
        digest = hashlib.sha256(f"{series.uid} {study.regions}".encode())
        for file in series.files:
            status = file.path.stat()
            digest.update(f"{file.member} {status.st_size} {status.st_mtime_ns}".encode())
        digests[name] = digest.hexdigest()
    return digests


def write_image(path, volume: Volume) -> None:
    """Writes a volume: a mask as uint8, whole values (CT) as int16, others as float32."""
    write_volume(path, as_small(volume), overwrite=True)


def convert_files(
    output, *, ct=None, pet=None, rtstruct=None, regions=(), unite=False
) -> list[str]:
    """Converts single series: `prepare convert`.

    Args:
        output: folder of `ct_hu.nii.gz`, `pet_suv.nii.gz` and `mask.nii.gz`.
        ct, pet: folder or archive of one series each, or None.
        rtstruct: RTSTRUCT or SEG, or None; without `ct` and `pet` its image is looked for in the
            folders around it.
        regions: names in it, the first that it has counts; empty: its only one.
        unite: take all of them together.

    Returns:
        what to say.

    Raises:
        DataError: see the functions called.
    """
    output, lines, images = Path(output), [], []
    for source, kind, name in ((ct, "CT", CT_NAME), (pet, "PET", PET_NAME)):
        if source is None:
            continue
        series = one_series(source, kind)
        images.append(series)
        notes = []
        volume, _ = read_image(series, notes=notes)
        write_image(output / name, volume)
        low, high = volume.data.min(), volume.data.max()
        unit = "HU" if kind == "CT" else "SUV"
        lines.append(f"{output / name}: {volume.data.shape}, {low:.2f} to {high:.2f} {unit}")
        lines += [f"warning: {text}" for text in notes]
    if rtstruct is None:
        return lines
    sets = [s for s in find_series(rtstruct)[0] if s.kind in ("RTSTRUCT", "SEG")]
    if len(sets) != 1:
        raise DataError(f"{len(sets)} RTSTRUCT or SEG", file=rtstruct, wanted="one file")
    if not images:
        images = _images_around(Path(rtstruct), sets[0])
    _, name, _ = choose_structures(None, sets, regions, (frozenset(), unite))
    notes, names = list(sets[0].warnings), regions if unite else (name,)
    mask, drawn_on = read_regions(sets[0], names, images, notes=notes)
    path = output / MASK_NAME
    write_image(path, mask)
    ml = mask.data.sum() * abs(np.linalg.det(mask.affine[:3, :3])) / 1000
    on = f"the {drawn_on.kind}'s grid" if drawn_on else "its own grid"
    name = " and ".join(map(repr, names))
    lines.append(f"{path}: {name}, {mask.data.sum()} voxels, {ml:.2f} ml, on {on}")
    lines += [f"warning: {text}" for text in notes]
    return lines


def _images_around(path, structures):
    """The image series that a structure set references, from its folder or the two above."""
    wanted = referenced_series(structures.first)
    for folder in list(path.resolve().parents)[: 1 if structures.kind == "SEG" else 3]:
        series = [s for s in find_series(folder)[0] if s.kind in ("CT", "PET")]
        fitting = [
            s for s in series if s.uid in wanted or (s.frame and s.frame == structures.frame)
        ]
        if fitting:
            return sorted(fitting, key=lambda s: s.uid not in wanted)
    return []
