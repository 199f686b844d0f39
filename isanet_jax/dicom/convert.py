"""DICOM studies converted to NIfTI."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from isanet_jax.dicom.image import one_series, read_image
from isanet_jax.dicom.series import find_series
from isanet_jax.dicom.structures import (
    read_region,
    read_regions,
    referenced_series,
    region_names,
)
from isanet_jax.dicom.studies import Asked, Study, choose_structures
from isanet_jax.errors import DataError
from isanet_jax.nifti import as_small, as_stored, write_volume
from isanet_jax.volume import Volume

_NAMES = {"ct": "ct_hu.nii.gz", "pet": "pet_suv.nii.gz"}
MASK_NAME = "mask.nii.gz"


class Images(NamedTuple):
    """A study as read.

    Attributes:
        volumes: name -> HU of a CT, SUVbw of a PET.
        masks: class -> bool, all on the grid that they were drawn on.
        warnings: of the study and its series.
    """

    volumes: Mapping[str, Volume]
    masks: Mapping[str, Volume]
    warnings: list[str]


def read_study(study: Study) -> Images:
    """A study's images and masks, each as reading it back from NIfTI would give it.

    Raises:
        DataError: a series that cannot be read, contours that do not fit, classes that were drawn
            on different grids.
    """
    warnings = list(study.notes)
    volumes, grids = {}, {}
    for name, series in study.images.items():
        volume, _ = read_image(series, case=study.case, notes=warnings)
        grids[series.uid] = volume.data.shape, volume.affine
        volumes[name] = as_stored(volume)
    # A region may have been drawn on a series that is not asked for, but is here.
    series, masks, drawn_on = list(study.images.values()), {}, set()
    options = {"case": study.case, "notes": warnings, "grids": grids, "decoded": {}}
    for name, regions in study.regions.items():
        if regions:
            masks[name], on = read_regions(study.structures, regions, series, **options)
            drawn_on.add((on and on.uid, masks[name].data.shape))
    if len(drawn_on) > 1:
        raise DataError(
            f"the regions of {', '.join(masks)} lie on different grids",
            case=study.case,
            file=study.structures.files[0],
            wanted="one image that all were drawn on",
        )
    warnings += study.structures.warnings
    some = next(iter(masks.values()))
    for name in study.regions:
        mask = as_stored(masks.get(name, Volume(np.zeros_like(some.data), some.affine)))
        masks[name] = Volume(mask.data > 0, mask.affine, mask.header)
    return Images(volumes, {name: masks[name] for name in study.regions}, warnings)


def write_copies(folder: Path, images: Images) -> None:
    """Writes a study as NIfTI: `ct_hu`, `pet_suv` and `mask.nii.gz`. Raises DataError.

    Other images are called by their names, and of several classes each mask by its own, too.
    """
    for name, volume in images.volumes.items():
        write_image(folder / _NAMES.get(name, f"{name}.nii.gz"), volume)
    for name, mask in images.masks.items():
        of_one = MASK_NAME if len(images.masks) == 1 else f"mask_{name}.nii.gz"
        write_image(folder / of_one, mask)


def fingerprints(study: Study) -> dict[str, str]:
    """SHA-256 of the names, sizes and times of each part's files, which are not opened for it."""
    digests = {}
    for name, series in (*study.images.items(), ("label", study.structures)):
        digest = hashlib.sha256(f"{series.uid} {dict(study.regions)}".encode())
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
    for source, kind, name in ((ct, "CT", _NAMES["ct"]), (pet, "PET", _NAMES["pet"])):
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
    _, found, _ = choose_structures(None, sets, Asked(regions=tuple(regions), unite=unite))
    notes, (names,) = list(sets[0].warnings), found.values()
    mask, drawn_on = read_regions(sets[0], names, images, notes=notes)
    path = output / MASK_NAME
    write_image(path, mask)
    ml = mask.data.sum() * mask.voxel_ml
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


def masks_of(place: Path, images: list = ()) -> dict[str, Volume]:
    """Every region or segment of a structure set or segmentation, by its name.

    Args:
        place: RTSTRUCT or SEG file, or a folder with one.
        images: series that it may be drawn on; empty: those around it.

    Raises:
        DataError: not one such file, or regions that cannot be read.
    """
    sets = [s for s in find_series(place)[0] if s.kind in ("RTSTRUCT", "SEG")]
    if len(sets) != 1:
        raise DataError(f"{len(sets)} RTSTRUCT or SEG", file=place, wanted="one file")
    (structures,) = sets
    wanted = referenced_series(structures.first)
    fitting = [one for one in images if one.uid in wanted]
    around = fitting or _images_around(place, structures)
    return {
        name: read_region(structures, name, around)[0]
        for name in dict.fromkeys(region_names(structures.first))
    }
