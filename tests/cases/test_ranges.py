"""What the scans of a training were like."""

from pathlib import Path

import numpy as np

from isanet_jax.cases.cohort import Cohort
from isanet_jax.cases.ranges import scan_ranges


def entry(spacing_mm, shape, ct, pet):
    return {
        "reference_affine": np.diag([*spacing_mm, 1.0]).tolist(),
        "reference_shape": shape,
        "images": {"ct": {"range": ct}, "pet": {"range": pet}},
    }


def test_ranges_are_from_the_smallest_to_the_largest_of_the_cases():
    cases = {
        "a": entry((1, 1, 3), (100, 100, 50), (-1000, 900), (0, 12)),
        "b": entry((2, 2, 2), (80, 90, 60), (-1000, 1500), (0, 5)),
        "left out": entry((9, 9, 9), (9, 9, 9), (-1000, 9000), (0, 99)),
    }
    cohort = Cohort(Path("."), {"images": {"ct": "ct", "pet": "pet"}}, cases, {})
    found = scan_ranges(cohort, ["a", "b"])
    assert found["spacing_mm"] == [[1, 1, 2], [2, 2, 3]]
    assert found["field_mm"] == [[100, 100, 120], [160, 180, 150]]
    assert found["largest"] == {"ct": [900, 1500], "pet": [5, 12]}
