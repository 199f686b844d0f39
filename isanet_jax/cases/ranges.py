"""What the scans of a cohort are like, and how another scan differs from them."""

from collections.abc import Mapping

import numpy as np

from isanet_jax.cases.cohort import Cohort
from isanet_jax.kinds import KINDS, WIDE, CtWindow, shown
from isanet_jax.volume import Volume, bounds_mm

_SPACING, _FIELD, _UPTAKE = 1.5, 1.5, 3.0  # times beyond what was seen before it is said
_AXES = ("right-left", "front-back", "feet-head")


def scan_ranges(cohort: Cohort, cases) -> dict:
    """Smallest and largest of what describes the scans of some prepared cases.

    Returns:
        `spacing_mm` and `field_mm` of the first image, (2, 3) in RAS order; `largest`, image ->
        (2,) the range of the scans' largest values, of those that have a unit.
    """
    entries = [cohort.cases[case] for case in cases]
    values = [extent_of(np.array(e["reference_affine"]), e["reference_shape"]) for e in entries]
    spacing, field = (np.array(v) for v in zip(*values, strict=True))
    return {
        "spacing_mm": [spacing.min(0).tolist(), spacing.max(0).tolist()],
        "field_mm": [field.min(0).tolist(), field.max(0).tolist()],
        "largest": {
            name: [pick(e["images"][name]["range"][1] for e in entries) for pick in (min, max)]
            for name, kind in cohort.settings["images"].items()
            if KINDS[kind].unit
        },
    }


def tumour_window(cohort: Cohort, cases) -> CtWindow:
    """nnU-Net's scheme for CT: of the tumours' voxels, each case counting the same.

    HU are clipped to their 0.5 and 99.5 percentiles, and have their mean subtracted and are
    divided by their standard deviation (Isensee et al. 2021, supplementary note 2).

    Args:
        cohort: prepared cases; their (first) CT counts.
        cases: IDs of those that are trained on; some with tumour.
    """
    ct = next((name for name, kind in cohort.settings["images"].items() if kind == "ct"), None)
    percentiles = [cohort.cases[case]["images"][ct]["of_tumour"] for case in cases] if ct else []
    values = np.concatenate([_spread(of_case) for of_case in percentiles if of_case] or [[]])
    if not values.size:
        return WIDE
    low, high = np.percentile(values, (0.5, 99.5))
    return CtWindow(*(float(v) for v in (low, high, values.mean(), max(values.std(), 1.0))))


def _spread(percentiles, count=1000):
    """Values with these percentiles (0, 1, ..., 100), evenly spaced in probability."""
    return np.interp((np.arange(count) + 0.5) / count * 100, range(101), percentiles)


def extent_of(affine, shape) -> tuple[np.ndarray, np.ndarray]:
    """(spacing, extent) along the patient's axes, RAS, mm."""
    steps = np.abs(affine[:3, :3])
    order = steps.argmax(1)  # the array axis closest to each of the patient's
    low, high = bounds_mm(shape, affine)
    return np.linalg.norm(affine[:3, :3], axis=0)[order], high - low


def differences(volumes: Mapping[str, Volume], kinds: Mapping[str, str], seen: dict) -> list[str]:
    """How a scan differs from those that a network was trained on, as text.

    Args:
        volumes: the scan's images by name; the first is the one whose grid counts.
        kinds: of the images, by name.
        seen: see `scan_ranges`; empty: nothing is known.
    """
    if not seen:
        return []
    if "largest" not in seen:  # of runs from before there were other images
        seen = seen | {"largest": {"ct": seen["ct_hu"], "pet": seen["pet_suv"]}}
    hints = []
    first, reference = next(iter(volumes.items()))
    spacing, field = extent_of(reference.affine, reference.data.shape)
    for name, values, margin, unit in (
        ("voxel size", spacing, _SPACING, "spacing_mm"),
        ("field of view", field, _FIELD, "field_mm"),
    ):
        low, high = (np.array(v) for v in seen[unit])
        for axis in np.flatnonzero((values < low / margin) | (values > high * margin)):
            hints.append(
                f"{shown(first, kinds[first])} {name} {_AXES[axis]} is {values[axis]:.1f} mm; "
                f"trained on {low[axis]:.1f} to {high[axis]:.1f} mm"
            )
    for name, (low, high) in seen["largest"].items():
        largest, unit = float(volumes[name].data.max()), KINDS[kinds[name]].unit
        if not low / _UPTAKE <= largest <= high * _UPTAKE:
            hints.append(
                f"{shown(name, kinds[name])} reaches {largest:.4g} {unit}; trained on scans that "
                f"reach {low:.4g} to {high:.4g}"
            )
    return hints
