"""Measures on a digital reference object: known SUV in known voxels."""

import numpy as np
import pytest

from isanet_jax.dicom.image import read_image
from isanet_jax.dicom.series import find_series
from isanet_jax.quantify.lesions import lesions
from isanet_jax.quantify.patients import patient
from isanet_jax.quantify.person import Person, person_of
from isanet_jax.volume import Volume
from tests.conftest import real_data


def test_the_hot_part_of_a_reference_object():
    """oncoray's DRO: SUV 4 in a part, 1 around it; 70 kg, 1.75 m."""
    series, _ = find_series(real_data("suv_dro") / "DRO_2_0")
    (pet,) = (one for one in series if one.kind == "PET")
    volume, headers = read_image(pet)
    person = person_of(headers[0])
    assert person[:2] == (70.0, 1.75)
    mask = volume.data > 3
    rows = lesions(Volume(mask, volume.affine), volume, Person(*person[:2], "F"))
    assert rows
    lean = 9270 / (8780 + 244 * 70 / 1.75**2)
    for row in rows:
        assert row["suv_max"] == pytest.approx(4, rel=1e-6)
        assert row["suv_mean"] == pytest.approx(4, rel=1e-6)
        assert row["tlg_g"] == pytest.approx(4 * row["mtv_ml"], rel=1e-6)
        assert row["sul_max"] == pytest.approx(4 * lean, rel=1e-6)
        assert row["volume_41_ml"] == row["volume_suv2.5_ml"] == pytest.approx(row["mtv_ml"])
        assert row["suv_peak"] <= 4 * (1 + 1e-6)
    burden = patient(rows, person)
    assert burden["tmtv_ml"] == pytest.approx(np.count_nonzero(mask) * 0.064, rel=1e-9)
    assert burden["tlg_g"] == pytest.approx(4 * burden["tmtv_ml"], rel=1e-6)
