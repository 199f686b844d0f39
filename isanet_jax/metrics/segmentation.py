"""Segmentation metrics of one case, and their summary over cases.

Two empty masks agree: overlaps are 1 and distances 0. Where one of the two is empty, overlaps
are 0 and distances infinite: an empty prediction is never rewarded.
"""

import math

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree as KDTree

from isanet_jax import metrics as registry
from isanet_jax.machine import usable_cores
from isanet_jax.metrics.metric import Metric
from isanet_jax.volume import CONNECTED_18, CONNECTED_26

_EVERY = ("summary", "cases", "page", "comparison")
_COUNT = {"is_count": True}
# The paper's columns in its order, then further ones.
METRICS = {
    "dsc": Metric("DSC", shown_in=(*_EVERY, "tests")),
    "hd": Metric("HD", "mm", 2, ("summary", "comparison")),
    "assd": Metric("ASSD", "mm", 2, (*_EVERY, "tests")),
    "rvd_abs": Metric("RVD", shown_in=("summary", "comparison")),
    "voe": Metric("VOE", shown_in=("summary", "comparison")),
    "recall": Metric("recall", shown_in=_EVERY),
    "precision": Metric("precision", shown_in=_EVERY),
    "hd95": Metric("HD95", "mm", 2, (*_EVERY, "tests")),
    "dsc_agg": Metric("aggregated DSC", shown_in=("comparison",)),
    "lesion_f1": Metric("lesion F1", shown_in=("summary", "page", "comparison")),
    "lesion_precision": Metric("lesion precision"),
    "lesion_recall": Metric("lesion recall"),
    "iou": Metric("IoU"),
    "rvd": Metric("signed RVD"),
    "assd_pooled": Metric("pooled ASSD", "mm", 2),
    "fp_ml": Metric("false positive volume", "ml", 2, **_COUNT),
    "fn_ml": Metric("false negative volume", "ml", 2, **_COUNT),
    "volume_ml": Metric("volume", "ml", 2, ("cases", "page"), **_COUNT),
    "reference_volume_ml": Metric("reference volume", "ml", 2, ("cases",), **_COUNT),
    "tp": Metric("true positive voxels", "", 0, **_COUNT),
    "predicted_voxels": Metric("predicted voxels", "", 0, **_COUNT),
    "reference_voxels": Metric("reference voxels", "", 0, **_COUNT),
}
DISTANCES = ("hd", "hd95", "assd", "assd_pooled")
LESION_IOU = 0.3  # HECKTOR 2025


def case_metrics(prediction: np.ndarray, reference: np.ndarray, spacing_mm) -> dict[str, float]:
    """All metrics of one case.

    Args:
        prediction, reference: (I, J, K) bool on one grid.
        spacing_mm: (3,) voxel size.

    Returns:
        dsc, iou, voe, rvd, rvd_abs, recall, precision; hd, hd95, assd (Eq. 15), assd_pooled in mm;
        fp_ml, fn_ml; lesion_f1, lesion_precision, lesion_recall; volume_ml,
        reference_volume_ml; and the voxel counts tp, predicted_voxels, reference_voxels.

    Raises:
        ValueError: shapes that differ.

    Examples:
        >>> mask = np.zeros((8, 8, 8), bool)
        >>> mask[2:6, 2:6, 2:6] = True
        >>> found = isa.case_metrics(np.roll(mask, 1, axis=0), mask, (1.0, 1.0, 2.0))
        >>> found["dsc"], found["hd"], found["volume_ml"]
        (0.75, 1.0, 0.128)
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"shapes differ: {prediction.shape} and {reference.shape}")
    spacing_mm = tuple(float(s) for s in spacing_mm)
    box = _joint_box(prediction, reference)
    prediction, reference = prediction[box].astype(bool), reference[box].astype(bool)
    voxel_ml = math.prod(spacing_mm) / 1000
    return {
        **_overlap(prediction, reference, voxel_ml),
        **surface_distances(prediction, reference, spacing_mm),
        **_component_volumes(prediction, reference, voxel_ml),
        **lesion_detection(prediction, reference),
        **{
            name: float(metric.function(prediction, reference, spacing_mm))
            for name, metric in registry.METRICS.items()
            if metric.function
        },
    }


def _joint_box(a, b):
    """Slices of the smallest box with all foreground of both; empty where both are."""
    box = []
    for axis in range(3):
        others = tuple(i for i in range(3) if i != axis)
        planes = np.flatnonzero(a.any(others) | b.any(others))
        if not planes.size:
            return (slice(0, 0),) * 3
        part = slice(planes[0], planes[-1] + 1)
        box.append(part)
        # The other axes need be searched within this part only.
        within = (slice(None),) * axis + (part,)
        a, b = a[within], b[within]
    return tuple(box)


def _overlap(prediction, reference, voxel_ml):
    tp = int(np.count_nonzero(prediction & reference))
    a, b = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    union = a + b - tp
    both_empty = union == 0
    iou = 1.0 if both_empty else tp / union
    rvd = 0.0 if both_empty else (a - b) / b if b else math.inf
    empty_score = 1.0 if both_empty else 0.0
    return {
        "dsc": 1.0 if both_empty else 2 * tp / (a + b),
        "iou": iou,
        "voe": 1 - iou,
        "rvd": rvd,
        "rvd_abs": abs(rvd),
        "recall": tp / b if b else empty_score,
        "precision": tp / a if a else empty_score,
        "volume_ml": a * voxel_ml,
        "reference_volume_ml": b * voxel_ml,
        "tp": tp,
        "predicted_voxels": a,
        "reference_voxels": b,
    }


def surface(mask: np.ndarray) -> np.ndarray:
    """Foreground voxels with a 6-neighbour in the background; outside the volume is background."""
    padded = np.pad(mask, 1)
    inner = mask
    for axis in range(3):
        for start in (0, 2):
            place = [slice(1, -1)] * 3
            place[axis] = slice(start, start + mask.shape[axis])
            inner = inner & padded[tuple(place)]
    return mask & ~inner


def surface_distances(prediction, reference, spacing_mm) -> dict[str, float]:
    """Hausdorff (Eq. 13), its 95th percentile, and average symmetric surface distances, mm.

    Computed in the masks' joint box, so that the cost follows the tumour.

    Args:
        prediction, reference: (I, J, K) bool on one grid.
        spacing_mm: (3,) voxel size.
    """
    box = _joint_box(prediction, reference)
    prediction, reference = prediction[box], reference[box]
    if not prediction.any() or not reference.any():
        value = 0.0 if not prediction.any() and not reference.any() else math.inf
        return dict.fromkeys(DISTANCES, value)
    a, b = surface(prediction), surface(reference)
    to_b, to_a = _distances(a, b, spacing_mm), _distances(b, a, spacing_mm)
    return {
        "hd": float(max(to_b.max(), to_a.max())),
        "hd95": float(max(np.percentile(to_b, 95), np.percentile(to_a, 95))),
        "assd": float((to_b.mean() + to_a.mean()) / 2),
        "assd_pooled": float((to_b.sum() + to_a.sum()) / (to_b.size + to_a.size)),
    }


def _distances(a, b, spacing_mm):
    """From each voxel of surface a to the nearest of surface b, mm.

    By a k-d tree of b: its cost follows the surfaces, a distance transform's the box.
    """
    distances = np.zeros(np.count_nonzero(a))
    elsewhere = ~b[a]  # the others are 0 apart
    tree = KDTree(np.argwhere(b) * spacing_mm, balanced_tree=False, compact_nodes=False)
    points = np.argwhere(a & ~b) * spacing_mm
    distances[elsewhere] = tree.query(points, workers=usable_cores())[0]
    return distances


def _component_volumes(prediction, reference, voxel_ml):
    """autoPET: volume of the components that touch no voxel of the other mask."""

    def missed(mask, other):
        parts, count = ndimage.label(mask, CONNECTED_18)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        touched = np.unique(parts[other])
        sizes[touched] = 0
        return float(sizes[1:].sum() * voxel_ml)

    return {"fp_ml": missed(prediction, reference), "fn_ml": missed(reference, prediction)}


def lesion_detection(prediction, reference) -> dict[str, float]:
    """Detection of 26-connected components, matched one to one where their IoU is above 0.3.

    Args:
        prediction, reference: (I, J, K) bool.
    """
    predicted, count_a = ndimage.label(prediction, CONNECTED_26)
    real, count_b = ndimage.label(reference, CONNECTED_26)
    if count_a == 0 or count_b == 0:
        score = float(count_a == count_b)
        return dict.fromkeys(("lesion_f1", "lesion_precision", "lesion_recall"), score)
    pairs, shared = np.unique(
        np.stack([predicted.ravel(), real.ravel()]), axis=1, return_counts=True
    )
    size_a, size_b = np.bincount(predicted.ravel()), np.bincount(real.ravel())
    matches = np.zeros((count_a, count_b), bool)
    for (i, j), overlap in zip(pairs.T, shared, strict=True):
        if i and j:
            matches[i - 1, j - 1] = overlap / (size_a[i] + size_b[j] - overlap) > LESION_IOU
    # Below an IoU of 0.5 a component may match two: take the most pairs that can hold at once.
    hits = int(matches[linear_sum_assignment(matches, maximize=True)].sum())
    return {
        "lesion_f1": 2 * hits / (count_a + count_b),
        "lesion_precision": hits / count_a,
        "lesion_recall": hits / count_b,
    }


def mean_over_classes(classes: list[dict[str, float]]) -> dict[str, float]:
    """The metrics of a case with several classes, as one: means, and sums of what is counted.

    A distance that is infinite for one class is infinite.

    Args:
        classes: `case_metrics` of each.
    """
    return {
        name: (np.sum if registry.METRICS[name].is_count else np.mean)(
            [metrics[name] for metrics in classes]
        ).item()
        for name in classes[0]
    }


def summarise(cases: dict[str, dict[str, float]]) -> dict:
    """Mean, sd and median of each metric over the cases, and the aggregated DSC.

    Infinite values never disappear: `mean` and `sd` are over the `n_finite` finite ones,
    `n_infinite` says how many are not, and `median` is over all.

    Args:
        cases: ID -> `case_metrics`.

    Returns:
        metric -> {mean, sd, median, n, n_finite, n_infinite}; `dsc_agg`: 2 sum TP / sum(|A| + |B|)
        over all cases (HECKTOR 2022); `n_cases`.
    """
    summary = {"n_cases": len(cases)}
    if not cases:
        return summary
    for name in next(iter(cases.values())):
        values = np.array([case[name] for case in cases.values()], float)
        finite = values[np.isfinite(values)]
        summary[name] = {
            "mean": float(finite.mean()) if finite.size else math.inf,
            "sd": float(finite.std(ddof=1)) if finite.size > 1 else 0.0,
            "median": float(np.median(values)),
            "n": int(values.size),
            "n_finite": int(finite.size),
            "n_infinite": int(values.size - finite.size),
        }
    total = sum(c["predicted_voxels"] + c["reference_voxels"] for c in cases.values())
    hits = sum(c["tp"] for c in cases.values())
    summary["dsc_agg"] = 2 * hits / total if total else 1.0
    return summary
