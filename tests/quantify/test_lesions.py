import numpy as np
import pytest

from isanet_jax.quantify.lesions import COLUMNS, NO_CENTRE, SMALL, lesions
from isanet_jax.quantify.person import Person, person_of
from isanet_jax.volume import Volume


def affine(spacing, origin=(0, 0, 0)):
    out = np.diag([*spacing, 1.0])
    out[:3, 3] = origin
    return out


def test_a_box_of_known_uptake():
    mask = np.zeros((40, 40, 20), bool)
    mask[10:20, 10:20, 5:10] = True
    pet = np.ones((40, 40, 20), np.float32)
    pet[10:20, 10:20, 5:10] = 4
    pet[12:14, 12:14, 6] = 10
    at = affine((2, 2, 4), (-30, -20, 100))
    (row,) = lesions(Volume(mask, at), Volume(pet, at))
    volume = 500 * 16 / 1000
    mean = (496 * 4 + 4 * 10) / 500
    assert row["mtv_ml"] == pytest.approx(volume)
    assert row["suv_max"] == 10
    assert row["suv_mean"] == pytest.approx(mean, rel=1e-6)
    assert row["tlg_g"] == pytest.approx(mean * volume, rel=1e-6)
    assert row["volume_41_ml"] == pytest.approx(4 * 16 / 1000)  # 4 is less than 41 % of 10
    assert row["volume_50_ml"] == pytest.approx(4 * 16 / 1000)
    assert row["volume_suv2.5_ml"] == row["volume_suv4_ml"] == pytest.approx(volume)
    assert set(row) <= set(COLUMNS)
    assert "remark" not in row
    assert 4 < row["suv_peak"] < 10
    centre = np.array([14.5, 14.5, 7]) * (2, 2, 4) + (-30, -20, 100)
    found = [row[f"{axis}_mm"] for axis in "xyz"]
    np.testing.assert_allclose(found, centre * [-1, -1, 1])


def test_without_a_pet_a_lesion_has_its_volume_and_place():
    mask = np.zeros((20, 20, 20), bool)
    mask[2:4, 2:4, 2:4] = True
    mask[10:15, 10:15, 10:15] = True
    large, small = lesions(Volume(mask, affine((2, 2, 2))), None)
    expected = {"lesion": 1, "mtv_ml": 1.0, "x_mm": -24, "y_mm": -24, "z_mm": 24}
    assert large == pytest.approx(expected)
    assert small["mtv_ml"] == pytest.approx(0.064)
    assert (small["x_mm"], small["z_mm"]) == pytest.approx((-5, 5))


def test_the_peak_is_the_mean_over_a_sphere_of_1_ml():
    """Against points 0.25 mm apart, counted one by one."""
    pet = np.random.default_rng(0).random((21, 21, 21)).astype(np.float32)
    mask = np.zeros(pet.shape, bool)
    mask[10, 10, 10] = True
    at = affine((3, 3, 3))
    (row,) = lesions(Volume(mask, at), Volume(pet, at))
    fine = np.stack(np.meshgrid(*[np.arange(-9, 9, 0.25) + 0.125] * 3, indexing="ij"), -1)
    inside = fine[np.linalg.norm(fine, axis=-1) <= (3000 / (4 * np.pi)) ** (1 / 3)]
    nearest = np.rint(inside / 3).astype(int) + 10
    assert row["suv_peak"] == pytest.approx(pet[tuple(nearest.T)].mean(), rel=2e-3)


def test_lesions_are_counted_by_size_on_different_grids():
    mask = np.zeros((40, 40, 40), bool)
    mask[2:4, 2:4, 2:4] = True
    mask[20:30, 20:30, 20:30] = True
    mask[35, 35, 35] = True  # smaller than a PET voxel, between the centres
    pet = np.zeros((10, 10, 10), np.float32)
    pet[5:7, 5:7, 5:7] = 6
    at = affine((4, 4, 4), (1.5, 1.5, 1.5))
    rows = lesions(Volume(mask, affine((1, 1, 1))), Volume(pet, at))
    assert [row["lesion"] for row in rows] == [1, 2, 3]
    np.testing.assert_allclose([row["mtv_ml"] for row in rows], [1.0, 0.008, 0.001])
    assert rows[0]["suv_max"] == 6
    assert rows[0]["volume_suv4_ml"] <= rows[0]["mtv_ml"]  # of coarser voxels, no more than it
    assert [row.get("remark") for row in rows] == [None, SMALL, NO_CENTRE]
    assert "suv_max" not in rows[2]
    assert "tlg_g" not in rows[2]
    assert lesions(Volume(mask & False, affine((1, 1, 1))), Volume(pet, at)) == []


def test_a_lesion_below_1_ml_is_marked():
    mask = np.zeros((20, 20, 20), bool)
    mask[2:4, 2:4, 2:4] = True
    pet = np.full(mask.shape, 3, np.float32)
    (row,) = lesions(Volume(mask, affine((4, 4, 4))), Volume(pet, affine((4, 4, 4))))
    assert (row["mtv_ml"], row["remark"]) == (pytest.approx(0.512), SMALL)


def test_lean_body_mass():
    """80 kg and 1.80 m: 59.76 kg for a man, by hand; nothing where something is not known."""
    bmi = 80 / 1.8**2
    man, woman = (Person(80.0, 1.8, sex) for sex in "MF")
    assert man.lean_share * 80 == pytest.approx(9270 * 80 / (6680 + 216 * bmi))
    assert woman.lean_share * 80 == pytest.approx(9270 * 80 / (8780 + 244 * bmi))
    assert man.surface_m2 == pytest.approx(2.0)
    mask, pet = np.ones((6, 6, 6), bool), np.full((6, 6, 6), 3, np.float32)
    at = affine((4, 4, 4))
    (row,) = lesions(Volume(mask, at), Volume(pet, at), man)
    assert row["sul_mean"] == pytest.approx(3 * man.lean_share)
    for unknown in (Person(80.0, 1.8, None), Person(80.0, None, "M"), Person(), None):
        (row,) = lesions(Volume(mask, at), Volume(pet, at), unknown)
        assert "sul_mean" not in row
    assert person_of({"PatientWeight": 80, "PatientSize": 1.8, "PatientSex": "m "}) == man
    odd = {"PatientWeight": "n/a", "PatientSize": 180, "PatientSex": "O"}
    assert person_of(odd) == Person()
