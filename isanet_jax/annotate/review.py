"""Masks that come back from elsewhere."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from isanet_jax.annotate.store import Version
from isanet_jax.annotate.tools import changes
from isanet_jax.cases.grid import resample, same_grid
from isanet_jax.errors import DataError
from isanet_jax.nifti import NIFTI_SUFFIXES, read_volume
from isanet_jax.volume import Volume

_SUFFIXES = (*NIFTI_SUFFIXES, ".seg.dcm", ".rtstruct.dcm", ".dcm")


def masks_in(folder, cases: Iterable[str]) -> dict[str, Path]:
    """Case -> its mask in a folder; NIfTI before DICOM where there are several."""
    found = {}
    for case in cases:
        paths = (Path(folder) / f"{case}{suffix}" for suffix in _SUFFIXES)
        if path := next((path for path in paths if path.is_file()), None):
            found[case] = path
    return found


def review(desk, case: str, path: Path, *, who="", before=None) -> tuple[Version, dict]:
    """Keeps a corrected mask of a case, and says what it changed.

    Args:
        desk: `isanet_jax.annotate.desk.Desk`.
        case: of its scans.
        path: NIfTI on the grid of one of its images; a SEG or RTSTRUCT.
        who: corrected it.
        before: folder of the masks as they were; None: the last version, or nothing.

    Returns:
        the version, and `isanet_jax.annotate.tools.changes`.

    Raises:
        DataError: a mask that is not of the case, or of other classes.
    """
    earlier = desk.labels.latest(case)
    mask = _mask_of(desk, case, path)
    if before is not None:
        (given,) = masks_in(before, [case]).values() or [None]
        if given is None:
            raise DataError("has no mask there", case=case, file=before)
        old = _mask_of(desk, case, given).data
    else:
        old = read_volume(earlier.path, case=case).data if earlier else np.zeros_like(mask.data)
    changed = changes(old > 0, mask.data > 0, mask.voxel_ml)
    base = earlier.number if earlier else 0
    return desk.labels.save(case, mask, who=who, tag="final", base=base), changed


def _mask_of(desk, case, path):
    """A mask's values on the case's grid, whatever it is stored as."""
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return desk.check_mask(case, path)
    from isanet_jax.dicom.convert import masks_of

    study = desk.scans[case].study
    if study is None:
        raise DataError("is DICOM, and its scan is not", case=case, file=path, wanted="NIfTI")
    grid, names = desk.grid(case), desk.classes.names
    regions = masks_of(path, list(study.images.values()))
    if len(names) == len(regions) == 1:  # whatever it is called
        regions = dict(zip(names, regions.values(), strict=True))
    if unknown := [name for name in regions if name not in names]:
        raise DataError(
            f"regions {', '.join(unknown)}", case=case, file=path, wanted=", ".join(names)
        )
    drawn = {
        name: _on(regions[name], grid) if name in regions else np.zeros(grid.data.shape, bool)
        for name in names
    }
    return Volume(desk.classes.drawn(drawn), grid.affine, grid.header)


def _on(mask, grid):
    """A bool mask on a grid, by its nearest voxels."""
    if same_grid(mask, grid):
        return mask.data > 0
    data = Volume(mask.data.astype(np.uint8), mask.affine)
    return resample(data, grid.data.shape, grid.affine, order=0, fill=0) > 0
