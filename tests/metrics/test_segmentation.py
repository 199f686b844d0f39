import itertools
import math

import numpy as np
import pytest

from isanet_jax.metrics import METRICS
from isanet_jax.metrics import segmentation as metrics
from isanet_jax.metrics.segmentation import case_metrics, summarise
from isanet_jax.metrics.thresholds import largest_component, threshold_masks


def boxes():
    a, b = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    a[3:15, 3:15, 3:15] = True
    b[4:17, 3:15, 3:15] = True
    return a, b


def naive(a, b, spacing):
    """Loops over all pairs of surface voxels."""

    def surface(mask):
        padded = np.pad(mask, 1)
        points = []
        for p in np.argwhere(padded):
            steps = [s for s in itertools.product((-1, 0, 1), repeat=3) if np.abs(s).sum() == 1]
            if not all(padded[tuple(p + s)] for s in steps):
                points.append((p - 1) * spacing)
        return np.array(points)

    sa, sb = surface(a), surface(b)
    ab = np.array([min(np.linalg.norm(p - q) for q in sb) for p in sa])
    ba = np.array([min(np.linalg.norm(p - q) for q in sa) for p in sb])
    return {
        "hd": max(ab.max(), ba.max()),
        "hd95": max(np.percentile(ab, 95), np.percentile(ba, 95)),
        "assd": (ab.mean() + ba.mean()) / 2,
        "assd_pooled": np.concatenate([ab, ba]).mean(),
    }


def test_stated_values_of_two_boxes():
    got = case_metrics(*boxes(), (3.27, 1, 1))
    assert got["hd"] == pytest.approx(6.54)
    assert got["hd95"] == pytest.approx(6.54)
    assert got["assd"] == pytest.approx(1.3100, abs=5e-5)
    assert got["assd_pooled"] == pytest.approx(1.3206, abs=5e-5)
    assert got["dsc"] == pytest.approx(2 * 11 * 144 / (12 * 144 + 13 * 144))
    assert got["rvd"] == pytest.approx(-1 / 13)
    assert got["volume_ml"] == pytest.approx(12 * 144 * 3.27 / 1000)
    assert got["reference_volume_ml"] == pytest.approx(13 * 144 * 3.27 / 1000)


def test_two_single_voxels_and_a_hole():
    a, b = np.zeros((2, 5, 5, 5), bool)
    a[1, 2, 2], b[3, 2, 2] = True, True
    assert case_metrics(a, b, (1, 1, 1))["assd"] == 2
    full = np.ones((12, 12, 12), bool)
    holed = full.copy()
    holed[5, 5, 5] = False
    # The hole's walls are surface of one mask only; the nearest surface of the other is 5 away.
    assert case_metrics(holed, full, (1, 1, 1))["hd"] == 5


def test_distances_agree_with_loops_over_all_pairs(generator):
    from scipy import ndimage

    for spacing in ((1.0, 1.0, 1.0), (3.0, 0.7, 1.2)):
        noise = ndimage.gaussian_filter(generator.normal(size=(2, 9, 10, 11)), (0, 1.5, 1.5, 1.5))
        a, b = noise > np.quantile(noise, 0.8)
        expected = naive(a, b, np.array(spacing))
        got = case_metrics(a, b, spacing)
        for name, value in expected.items():
            assert got[name] == pytest.approx(value), name
        swapped = case_metrics(b, a, spacing)
        assert all(swapped[name] == pytest.approx(got[name]) for name in expected)
        assert (swapped["recall"], swapped["precision"]) == (got["precision"], got["recall"])


def test_empty_masks_are_never_rewarded():
    empty, some = np.zeros((2, 4, 4, 4), bool)
    some[1:3, 1:3, 1:3] = True
    both = case_metrics(empty, empty, (1, 1, 1))
    assert (both["dsc"], both["hd"], both["rvd"], both["lesion_f1"]) == (1, 0, 0, 1)
    missed = case_metrics(empty, some, (1, 1, 1))
    assert (missed["dsc"], missed["precision"], missed["recall"], missed["rvd"]) == (0, 0, 0, -1)
    assert all(missed[name] == math.inf for name in metrics.DISTANCES)
    invented = case_metrics(some, empty, (1, 1, 1))
    assert (invented["dsc"], invented["recall"], invented["rvd"]) == (0, 0, math.inf)
    assert invented["fp_ml"] == pytest.approx(0.008)
    with pytest.raises(ValueError, match="shapes differ"):
        case_metrics(some, some[1:], (1, 1, 1))


def test_components_that_touch_nothing_are_counted_in_ml():
    a, b = np.zeros((2, 30, 10, 10), bool)
    a[0:4, :4, :4] = b[2:6, :4, :4] = True  # overlapping pair
    a[10:12, :2, :2] = True  # invented: 8 voxels
    b[20:23, :3, :3] = True  # missed: 27 voxels
    got = case_metrics(a, b, (2, 2, 2))
    assert got["fp_ml"] == pytest.approx(8 * 8 / 1000)
    assert got["fn_ml"] == pytest.approx(27 * 8 / 1000)
    # The pair's IoU is 2/6 > 0.3: one hit among two predicted and two real lesions.
    assert (got["lesion_precision"], got["lesion_recall"], got["lesion_f1"]) == (0.5, 0.5, 0.5)


def test_a_lesion_matches_one_lesion_only():
    a, b = np.zeros((2, 12, 1, 1), bool)
    a[0:10] = True
    b[0:4] = b[5:10] = True  # both reach an IoU of 0.3 with the one prediction
    b[4] = False
    got = metrics.lesion_detection(a, b)
    assert got["lesion_recall"] == 0.5
    assert got["lesion_precision"] == 1


def test_infinite_distances_are_counted_and_stay_in_the_median():
    some = np.zeros((6, 6, 6), bool)
    some[1:4, 1:4, 1:4] = True
    shifted, empty = np.roll(some, 1, 0), np.zeros_like(some)
    cases = {
        name: case_metrics(mask, some, (1, 1, 1))
        for name, mask in {"a": some, "b": shifted, "c": empty, "d": empty, "e": empty}.items()
    }
    summary = summarise(cases)
    assert summary["hd"] == {
        "mean": 0.5, "sd": pytest.approx(0.5**0.5), "median": math.inf, "n": 5, "n_finite": 2,
        "n_infinite": 3,
    }  # fmt: skip
    assert summary["dsc"]["mean"] == pytest.approx((1 + 2 / 3) / 5)
    assert summary["dsc_agg"] == pytest.approx(2 * (27 + 18) / (2 * 54 + 3 * 27))
    assert summary["n_cases"] == 5


def test_threshold_rows():
    suv = np.zeros((8, 8, 8))
    suv[0, 0, 0] = 10
    suv[3:5, 3:5, 3:5] = 4.05
    masks = threshold_masks(suv, 10.0)
    sizes = {name: int(mask.sum()) for name, mask in masks.items()}
    assert sizes == {
        "SUV >= 2.5": 9, "SUV >= 2.5, largest component": 8,
        "SUV >= 4.0": 9, "SUV >= 4.0, largest component": 8,
        "41 % SUVmax": 1, "41 % SUVmax, largest component": 1,
    }  # fmt: skip
    assert not largest_component(np.zeros((3, 3, 3), bool)).any()


def test_every_metric_says_how_it_is_shown():
    mask = np.ones((2, 2, 2), bool)
    of_case = metrics.case_metrics(mask, mask, (1, 1, 1))
    assert {*of_case, "dsc_agg"} == METRICS.keys()
    assert METRICS["hd95"].heading == "HD95 mm"
    assert METRICS["dsc"].heading == "DSC"


def test_distances_take_the_jobs_cores_and_not_the_machines(monkeypatch):
    used = []

    class Tree(metrics.KDTree):
        def query(self, points, workers):
            used.append(workers)
            return super().query(points, workers=workers)

    monkeypatch.setattr(metrics, "KDTree", Tree)
    monkeypatch.setattr(metrics, "usable_cores", lambda: 3)
    mask = np.zeros((9, 9, 9), bool)
    mask[2:6, 2:6, 2:6] = True
    case_metrics(mask, np.roll(mask, 2, 0), (1, 1, 1))
    assert set(used) == {3}
