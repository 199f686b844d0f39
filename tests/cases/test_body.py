"""Where the patient is, what is kept of large cases, and what a case's values are like."""

import numpy as np
import pytest

from isanet_jax.cases.body import body_box_mm
from isanet_jax.cases.images import image_statistics, resample_images
from isanet_jax.cases.preparation import Settings
from isanet_jax.errors import ConfigError
from isanet_jax.volume import Volume, bounds_mm


def body(affine=None):
    """A trunk and an arm in air, with a speck of noise far away: (120, 100, 60) voxels of 3 mm."""
    hu = np.full((120, 100, 60), -1000.0, np.float32)
    hu[30:80, 20:70, 5:55] = 40
    hu[85:95, 30:40, 10:50] = 40
    hu[110, 90, 58] = 300
    return Volume(hu, np.diag([3.0, 3.0, 3.0, 1.0]) if affine is None else affine)


def test_the_box_has_the_trunk_and_the_arms_and_a_margin():
    ct = body()
    low, high = body_box_mm(ct, "ct")
    inner = bounds_mm((65, 50, 50), ct.affine) + np.array([30, 20, 5]) * 3
    assert (low <= inner[0] - 9.9).all()
    assert (low >= inner[0] - 14).all()
    assert (high >= inner[1] + 9.9).all()
    assert (high <= inner[1] + 14).all()


def test_the_box_is_the_same_however_the_scan_is_stored():
    ct = body()
    flipped = ct.affine @ np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] += 119 * 3
    other = Volume(ct.data[::-1], flipped)
    np.testing.assert_allclose(body_box_mm(ct, "ct"), body_box_mm(other, "ct"), atol=3)


def test_air_alone_is_kept_whole():
    ct = body()
    air = Volume(ct.data * 0 - 1000, ct.affine)
    np.testing.assert_allclose(body_box_mm(air, "ct"), bounds_mm(ct.data.shape, ct.affine))


def test_large_cases_keep_a_pet_to_a_twentieth_of_a_percent(generator):
    suv = generator.gamma(0.3, 8, (40, 40, 40)).astype(np.float32)
    pet = Volume(suv, np.eye(4))
    images = {"pet": "pet"}
    exact, kept = (
        resample_images({"pet": pet}, Settings(fit=fit, images=images), suv.shape, np.eye(4))["pet"]
        for fit in ("crop", "whole")
    )
    np.testing.assert_array_equal(exact, suv)
    np.testing.assert_allclose(kept, suv, rtol=5e-4)
    assert np.abs(kept - suv).max() > 0
    assert len(np.unique(kept.view(np.uint32) & 0x1FFF)) == 1  # bits that need no room


def test_statistics_of_a_body_do_not_change_with_the_air_around_it(generator):
    """Of an MRI always; of a PET where the case is whole; of the paper's cubes as in the paper."""
    ct = body().data
    pet = np.where(ct > -300, generator.gamma(2, 1, ct.shape), 0).astype(np.float32)
    images = {"ct": ct, "pet": pet, "t1": pet * 50}
    kinds = {"ct": "ct", "pet": "pet", "t1": "mr"}
    part = {name: image[20:, 10:] for name, image in images.items()}
    for fit, names in (("whole", ("pet", "t1")), ("crop", ("t1",))):
        settings = Settings(fit=fit, images=kinds)
        one, other = image_statistics(images, settings), image_statistics(part, settings)
        for name in names:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5)
            inside = images[name][ct > -300]
            np.testing.assert_allclose(one[name], (inside.mean(), inside.std()), rtol=1e-4)
    mean, sd = image_statistics(images, Settings(fit="crop", images=kinds))["pet"]
    assert (mean, sd) == (pytest.approx(pet.mean(), rel=1e-4), pytest.approx(pet.std(), rel=1e-4))


def test_a_head_is_looked_for_on_a_pet_only():
    with pytest.raises(ConfigError, match="there is none among the images"):
        Settings(images={"ct": "ct"}, region="head")
