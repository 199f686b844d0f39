"""Clicks: where they are drawn, what they become, and what a network without them is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isanet_jax.api import get_config
from isanet_jax.errors import ConfigError
from isanet_jax.network import guidance
from isanet_jax.training.check import check_config

SHAPE = (12, 14, 16)


def sample(miss=True):
    """(logits, label) of one volume with one error: a box that is missed, or made up."""
    box = np.zeros((1, *SHAPE, 1), bool)
    box[0, 3:9, 4:10, 5:12] = True
    label = box if miss else np.zeros_like(box)
    logits = np.where(box & (not miss), 5.0, -5.0).astype(np.float32)
    return jnp.asarray(logits), jnp.asarray(label, jnp.float32), box[0, ..., 0]


draw = jax.jit(guidance.drawn_maps)


@pytest.mark.parametrize("miss", [True, False])
def test_clicks_lie_in_errors_and_say_what_they_are(miss):
    logits, label, box = sample(miss)
    counts, deep = [], []
    for seed in range(60):
        maps = np.asarray(draw(jax.random.key(seed), logits, label))[0]
        assert maps.shape == (*SHAPE, 2)
        used, other = (maps[..., 0], maps[..., 1]) if miss else (maps[..., 1], maps[..., 0])
        assert not other.any()
        places = np.argwhere(used == 1)
        counts.append(len(places))
        assert all(box[tuple(place)] for place in places)
        if len(places):
            deep.append(any(np.all((place > [3, 4, 5]) & (place < [8, 9, 11])) for place in places))
            # Apart, and each a Gaussian.
            far = np.linalg.norm(places[:, None] - places[None], axis=-1)
            assert far[~np.eye(len(places), dtype=bool)].min(initial=9) > guidance._APART
            expected = guidance.maps_of(SHAPE, {"a": (places, ())}, ("a",))["guidance0"]
            np.testing.assert_allclose(used, expected, atol=1e-6)
    assert min(counts) > 0
    assert len(set(counts)) > 3
    assert np.mean(deep) > 0.9


def test_where_nothing_is_wrong_there_is_no_click():
    _, label, _ = sample()
    right = jnp.where(label > 0, 0.5, -0.5)  # surely or not
    for seed in range(8):
        assert not np.asarray(draw(jax.random.key(seed), right, label)).any()


def test_maps_of_several_classes_have_their_places():
    maps = guidance.maps_of((5, 5, 5), {"b": ([[1, 2, 3]], [[4, 4, 4]])}, ("a", "b"))
    assert list(maps) == list(guidance.names(2)) == [f"guidance{n}" for n in range(4)]
    assert not maps["guidance0"].any()
    assert not maps["guidance1"].any()
    assert maps["guidance2"][1, 2, 3] == 1
    assert maps["guidance3"][4, 4, 4] == 1
    assert maps["guidance2"][1, 2, 4] == pytest.approx(np.exp(-0.5 / guidance.SIGMA**2))


def test_volumes_that_are_split_have_none():
    config = get_config("hecktor")
    config.data.guidance, config.mesh.space = "clicks", 2
    with pytest.raises(ConfigError, match="mesh.space=1"):
        check_config(config)


def test_a_click_lifts_the_wider_the_further_it_lies_from_the_mask():
    mask = np.zeros((20, 20, 20), bool)
    mask[5:10, 5:10, 5:10] = True
    spacing_mm = (2.0, 2.0, 4.0)

    def lift(here=(), away=()):
        return guidance.lift_of(mask, here, away, spacing_mm)

    def expected(point, sigma_mm):
        squared = [
            np.square((np.arange(20) - at) * mm) for at, mm in zip(point, spacing_mm, strict=True)
        ]
        far = squared[0][:, None, None] + squared[1][None, :, None] + squared[2][None, None]
        return 2 * np.exp(-far / (2 * sigma_mm**2))

    # 3 voxels of 2 mm from the mask; beyond 15 mm as if 15; within it a voxel's mean length.
    at = np.argwhere(mask)
    for point, mm in (
        *(((12, 7, 7), 6.0), ((19, 19, 19), 15.0), ((7, 7, 7), 8 / 3)),
        ((7, 7, 12.6), 14.4),  # between voxels, four from the nearest to it
    ):
        np.testing.assert_allclose(lift([point]), expected(point, 3 * mm), rtol=1e-4, atol=1e-6)
        # As the distance transform has it.
        nearest = np.linalg.norm((at - point) * spacing_mm, axis=1).min()
        assert mm == pytest.approx(np.clip(nearest, 8 / 3, 15))
    # Of the mask's middle 3 voxels away to its surface.
    np.testing.assert_allclose(lift((), [(7, 7, 7)]), -expected((7, 7, 7), 18.0), rtol=1e-4)
    both = lift([(12, 7, 7)], [(7, 7, 7)])
    np.testing.assert_allclose(both, lift([(12, 7, 7)]) + lift((), [(7, 7, 7)]), atol=1e-6)
    # Beside the grid, as from a window of a scan.
    assert np.isfinite(lift([(-30, 7, 40)])).all()
    assert not lift().any()


def test_what_is_lifted_is_the_logit():
    logit = np.linspace(-8, 8, 33, dtype=np.float32)
    p = 1 / (1 + np.exp(-logit))
    for by in (-2.0, 0.0, 3.5):
        found = guidance.lifted(p, np.full_like(p, by))
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-logit - by)), atol=1e-6)
    np.testing.assert_array_equal(guidance.lifted(np.array([0.0, 1.0]), np.ones(2)), [0, 1])
