"""A voxel size for a cohort, as nnU-Net chooses it: `prepare --spacing-mm auto`."""

import numpy as np

from isanet_jax.datasets.layout import Scan
from isanet_jax.errors import ConfigError
from isanet_jax.nifti import read_grid

_COARSE = 3.0  # times the voxel size of the other axes, and times fewer voxels
_FINE_SHARE = 10  # percentile that is taken along a coarse axis


def auto_spacing(scans: list[Scan], image: str) -> tuple[float, float, float]:
    """The median voxel size of an image of all scans; along a coarse axis its 10th percentile.

    An axis is coarse where voxels are three times longer than along the others, and three times
    fewer (nnU-Net's planner). What cannot be read is left to the preparation, which names it.

    Args:
        scans: NIfTI.
        image: name of the image whose grids count.

    Returns:
        mm, right-left, front-back and feet-head, to a hundredth.

    Raises:
        ConfigError: scans of DICOM, or none that can be read.
    """
    grids = []
    for scan in scans:
        if scan.study is not None:
            raise ConfigError("--spacing-mm auto reads NIfTI headers; give numbers for DICOM")
        try:
            shape, affine = read_grid(scan.image(image), case=scan.case)
        except Exception:  # noqa: S112 - said, with its reason, when the case is prepared
            continue
        order = np.abs(affine[:3, :3]).argmax(1)  # the array axis closest to each of the patient's
        grids.append((np.linalg.norm(affine[:3, :3], axis=0)[order], np.array(shape)[order]))
    if not grids:
        raise ConfigError(f"--spacing-mm auto: no scan has a readable image {image!r}")
    spacings, shapes = (np.array(values) for values in zip(*grids, strict=True))
    spacing = np.median(spacings, 0)
    voxels = np.median(shapes * spacings, 0) / spacing
    coarse = int(spacing.argmax())
    others = [axis for axis in range(3) if axis != coarse]
    if (
        spacing[coarse] > _COARSE * spacing[others].max()
        and voxels[coarse] * _COARSE < voxels[others].min()
    ):
        finer = np.percentile(spacings[:, coarse], _FINE_SHARE)
        spacing[coarse] = max(finer, spacing[others].max())
    return tuple(round(float(s), 2) for s in spacing)
