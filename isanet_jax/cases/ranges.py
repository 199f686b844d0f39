"""What the scans of a cohort are like, and how another scan differs from them."""

import numpy as np

from isanet_jax.cases.cohort import Cohort
from isanet_jax.volume import Volume, bounds_mm

_SPACING, _FIELD, _UPTAKE = 1.5, 1.5, 3.0  # times beyond what was seen before it is said
_AXES = ("right-left", "front-back", "feet-head")


def scan_ranges(cohort: Cohort, cases) -> dict:
    """Smallest and largest of what describes the scans of some prepared cases.

    Returns:
        `spacing_mm` and `field_mm`, (2, 3) in RAS order; `ct_hu` and `pet_suv`, (2,) the range of
        the scans' largest values; empty where the cases were prepared by an older version.
    """
    entries = [cohort.cases[case] for case in cases]
    if not entries or any("pet_suv" not in entry for entry in entries):
        return {}
    values = [_describe(np.array(e["ct_affine"]), e["ct_shape"]) for e in entries]
    spacing, field = (np.array(v) for v in zip(*values, strict=True))
    return {
        "spacing_mm": [spacing.min(0).tolist(), spacing.max(0).tolist()],
        "field_mm": [field.min(0).tolist(), field.max(0).tolist()],
        **{
            name: [min(e[name][1] for e in entries), max(e[name][1] for e in entries)]
            for name in ("ct_hu", "pet_suv")
        },
    }


def _describe(affine, shape):
    """(spacing, extent) along the patient's axes, RAS, mm."""
    steps = np.abs(affine[:3, :3])
    order = steps.argmax(1)  # the array axis closest to each of the patient's
    low, high = bounds_mm(shape, affine)
    return np.linalg.norm(affine[:3, :3], axis=0)[order], high - low


def differences(ct: Volume, pet: Volume, seen: dict) -> list[str]:
    """How a scan differs from those that a network was trained on, as text.

    Args:
        ct, pet: the scan.
        seen: see `scan_ranges`; empty: nothing is known.
    """
    if not seen:
        return []
    hints = []
    spacing, field = _describe(ct.affine, ct.data.shape)
    for name, values, margin, unit in (
        ("voxel size", spacing, _SPACING, "spacing_mm"),
        ("field of view", field, _FIELD, "field_mm"),
    ):
        low, high = (np.array(v) for v in seen[unit])
        for axis in np.flatnonzero((values < low / margin) | (values > high * margin)):
            hints.append(
                f"CT {name} {_AXES[axis]} is {values[axis]:.1f} mm; trained on "
                f"{low[axis]:.1f} to {high[axis]:.1f} mm"
            )
    for name, volume, unit in (("CT", ct, "HU"), ("PET", pet, "SUV")):
        low, high = seen["ct_hu" if name == "CT" else "pet_suv"]
        largest = float(volume.data.max())
        if not low / _UPTAKE <= largest <= high * _UPTAKE:
            hints.append(
                f"{name} reaches {largest:.4g} {unit}; trained on scans that reach "
                f"{low:.4g} to {high:.4g}"
            )
    return hints
