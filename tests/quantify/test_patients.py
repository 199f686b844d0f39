"""Patients, reference regions and agreement, by hand and beside independent programs."""

import numpy as np
import pytest
from scipy import stats

from isanet_jax.errors import DataError
from isanet_jax.evaluation.burden import agreements, as_markdown, burdens, differences
from isanet_jax.quantify.agreement import agreement, icc_2_1
from isanet_jax.quantify.lesions import lesions
from isanet_jax.quantify.patients import COLUMNS, patient
from isanet_jax.quantify.person import Person
from isanet_jax.quantify.reference import (
    Reference,
    deauville,
    of_mask,
    of_point,
    percist_threshold,
)
from isanet_jax.volume import Volume

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def ball(centre, radius_mm, shape=(60, 60, 60)):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return np.linalg.norm((grid - centre) * 2.0, axis=-1) <= radius_mm


def scan():
    """Two lesions of SUV 8 and 6, a liver of 2 and an aorta of 1.5, on a background of 0.5."""
    pet = np.full((60, 60, 60), 0.5, np.float32)
    pet[ball((30, 30, 20), 24)], pet[ball((10, 10, 40), 20)] = 2, 1.5
    mask = np.zeros(pet.shape, bool)
    for centre, suv in (((50, 50, 50), 8), ((50, 20, 50), 6)):
        mask |= ball(centre, 10)
        pet[ball(centre, 10)] = suv
    return Volume(mask, AFFINE), Volume(pet, AFFINE)


def lps(voxel):
    return np.array(voxel) * [-2.0, -2.0, 2.0]


def test_a_patient_of_two_lesions():
    mask, pet = scan()
    person = Person(80.0, 1.8, "M")
    references = {
        "liver": of_point(pet, "liver", lps((30, 30, 20))),
        "blood": of_point(pet, "blood", lps((10, 10, 40))),
    }
    rows = lesions(mask, pet, person)
    row = patient(rows, person, references)
    assert set(row) <= set(COLUMNS)
    ml = ball((30, 30, 30), 10).sum() * 0.008
    assert row["tmtv_ml"] == pytest.approx(2 * ml)
    assert row["tlg_g"] == pytest.approx(14 * ml)
    assert (row["lesions"], row["suv_max"], row["largest_ml"]) == (2, 8, pytest.approx(ml))
    assert row["dmax_mm"] == pytest.approx(60)
    assert row["sdmax_per_m"] == pytest.approx(0.06 / 2.0)  # a surface of 2 m²
    assert (row["liver_mean"], row["liver_sd"], row["blood_max"]) == (2, 0, 1.5)
    assert row["percist_threshold"] == pytest.approx(1.5 * 2 * person.lean_share)
    assert (row["percist_measurable"], row["deauville"]) == ("yes", 5)
    none = patient([], None, references)
    assert (none["lesions"], none["tmtv_ml"], none["dmax_mm"], none["deauville"]) == (0, 0, 0, 1)
    assert none["percist_measurable"] == "no"
    assert "suv_max" not in none


def test_reference_regions():
    _, pet = scan()
    liver = of_point(pet, "liver", lps((30, 30, 20)))
    assert liver.voxels == ball((30, 30, 20), 15).sum()
    # A cylinder of 1 cm x 2 cm: 21 voxels of 2 mm around its axis, 11 planes of it.
    assert of_point(pet, "blood", lps((10, 10, 40))).voxels == 21 * 11
    noisy = Volume(np.random.default_rng(0).normal(3, 1, pet.data.shape), AFFINE)
    inside = ball((30, 30, 20), 15)
    found = of_mask(noisy, "liver", Volume(inside, AFFINE))
    assert found == of_point(noisy, "liver", lps((30, 30, 20)))
    assert found.sd == pytest.approx(noisy.data[inside].std(ddof=1))
    assert percist_threshold("liver", found) == pytest.approx(1.5 * found.mean + 2 * found.sd)
    assert percist_threshold("blood", found) == pytest.approx(2 * found.mean + 2 * found.sd)
    for where in ((0, 0, 0), (500, 0, 0)):
        with pytest.raises(DataError, match="not all in the PET"):
            of_point(pet, "liver", where)
    with pytest.raises(DataError, match="no voxel"):
        of_mask(pet, "liver", Volume(np.zeros((5, 5, 5), bool), AFFINE))


@pytest.mark.parametrize(
    ("suv_max", "score"), [(None, 1), (1.5, 2), (1.6, 3), (2.0, 3), (2.1, 4), (3.9, 4), (4.0, 5)]
)
def test_deauville(suv_max, score):
    assert deauville(suv_max, Reference(1, 0, 2.0, 9), Reference(1, 0, 1.5, 9)) == score


def test_agreement_of_shrout_and_fleiss():
    """Their example of six targets and four judges: ICC(2,1) is 0.29 (1979, table 4)."""
    values = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
    )
    icc, low, high = icc_2_1(values)
    assert icc == pytest.approx(0.2898, abs=1e-4)
    # As R's psych::ICC and pingouin give it: 0.02 to 0.76.
    assert (round(low, 2), round(high, 2)) == (0.02, 0.76)


def test_agreement_by_hand():
    one, other = np.array([1.0, 2, 4, 8]), np.array([1.5, 2, 3, 9])
    found = agreement(one, other)
    difference = one - other
    assert found.bias == pytest.approx(difference.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * difference.std(ddof=1))
    assert found.spearman == pytest.approx(stats.spearmanr(one, other).statistic)
    assert found.icc_low < found.icc < found.icc_high < 1
    assert agreement(one, one).icc == 1
    assert agreement([1.0, np.nan, 2, 3], [1.0, 2, 2, 3]).patients == 3
    assert agreement([1.0, 2], [1.0, 2]) is None
    assert np.isnan(agreement([1.0, 1, 1], [1.0, 2, 3]).spearman)


def test_the_agreement_of_masks_is_that_of_their_burdens():
    mask, pet = scan()
    smaller = np.array(mask.data)
    smaller[:, :30] = False  # one of the two lesions
    of_case = {
        "a": burdens({"x": smaller}, {"x": mask.data}, AFFINE, pet),
        "b": burdens({"x": mask.data}, {"x": mask.data}, AFFINE, pet),
        "c": burdens({"x": mask.data & False}, {"x": mask.data & False}, AFFINE, pet),
    }
    assert of_case["c"]["prediction"] == dict.fromkeys(of_case["c"]["prediction"], 0.0)
    found = agreements(of_case)
    ml = ball((30, 30, 30), 10).sum() * 0.008
    assert found["tmtv_ml"].bias == pytest.approx(-ml / 3)
    assert found["lesions"].bias == pytest.approx(-1 / 3)
    assert found["suv_max"].icc == 1
    assert "| TMTV ml | 3 |" in as_markdown(of_case)
    (panel, *_) = differences(of_case)["panels"]
    assert panel["cases"][0] == ["a", pytest.approx(1.5 * ml), pytest.approx(-ml)]
    assert "fewer than 3" in as_markdown({"a": of_case["a"]})


def test_agreement_where_nothing_varies():
    found = agreement([1.0, 1, 1], [2.0, 2, 2])
    assert (found.bias, found.low, found.high, found.icc) == (-1, -1, -1, 0)
    assert np.isnan(found.icc_low)
    assert agreement([0.0, 0, 0], [0.0, 0, 0]).icc == 1
