import numpy as np
import pytest

from isanet_jax.cases.case import read_case
from isanet_jax.errors import ConfigError
from isanet_jax.pipeline.dataset import (
    batch_shapes,
    draw_augmentation,
    evaluation_data,
    training_data,
)

AUGMENT = {
    "rotation_probability": 0.5,
    "rotation_degrees": 45.0,
    "mirror_probability": 0.5,
    "mixup_probability": 0.2,
    "tumour_patch_probability": 0.33,
}


def data(cohort, seed=0, batch=2):
    return iter(
        training_data(cohort, sorted(cohort.cases), batch=batch, seed=seed, augment=AUGMENT)
    )


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def equal(a, b):
    return all(np.array_equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)


def test_draws_have_the_papers_probabilities(generator):
    draws = [draw_augmentation(generator, AUGMENT, np.ones(3)) for _ in range(4000)]
    rotated = [not np.array_equal(d["rotation"], np.eye(3)) for d in draws]
    assert np.mean(rotated) == pytest.approx(0.5, abs=0.04)
    assert np.mean([d["mixup"] for d in draws]) == pytest.approx(0.2, abs=0.03)
    # Mirroring is over zero to three axes: 1/8 of the mirrored half has none.
    assert np.mean([d["mirror"].any() for d in draws]) == pytest.approx(0.5 * 7 / 8, abs=0.04)
    angles = [
        np.rad2deg(np.arccos(np.clip((np.trace(d["rotation"]) - 1) / 2, -1, 1))) for d in draws
    ]
    assert 45 < max(angles) < 86  # three turns of 45 degrees together are one of 85.8


def test_one_two_and_three_axes_are_turned_equally_often(generator):
    """By the angles that give the matrix: of three axes, no element of it is 0."""
    always = AUGMENT | {"rotation_probability": 1.0}
    draws = [draw_augmentation(generator, always, np.ones(3))["rotation"] for _ in range(3000)]
    zeros = np.array([np.sum(np.abs(matrix) < 1e-7) for matrix in draws])
    # About one axis, four elements are 0; about two, one; about three, none.
    for count in (4, 1, 0):
        assert np.mean(zeros == count) == pytest.approx(1 / 3, abs=0.03)


def test_batches_hold_the_stored_cases_and_are_reproducible(cohort):
    cases = sorted(cohort.cases)
    first, same, other = (take(data(cohort, seed), 12) for seed in (0, 0, 1))
    assert equal(first, same)
    assert not equal(first, other)
    mixed = []
    for batch in first:
        shapes = {name: (array.shape, array.dtype.type) for name, array in batch.items()}
        assert shapes == batch_shapes(2, 16)
        for i in range(2):
            case, partner = (
                read_case(cohort.path(cases[batch[key][i]])) for key in ("case", "partner")
            )
            for name in ("ct", "pet", "label"):
                a, b = (getattr(c, name).astype(np.float64) for c in (case, partner))
                np.testing.assert_allclose(batch[name][i], (a + b) / 2, rtol=1e-6)
            mixed.append(batch["case"][i] != batch["partner"][i])
    assert 0 < sum(mixed) < len(mixed)


def test_a_batch_of_one_is_like_one_of_more(cohort):
    (one,) = take(data(cohort, batch=1), 1)
    (two,) = take(data(cohort, batch=2), 1)
    assert {k: (v.shape, v.dtype.type) for k, v in one.items()} == batch_shapes(1, 16)
    for name in one.keys() - {"patch_pick"}:  # see the next test
        np.testing.assert_array_equal(one[name][0], two[name][0])


def test_patches_on_the_tumour_are_forced_as_in_nnunet(cohort):
    """Of a batch of two the second, of six the last two (0.33); of one, a third of them."""
    for batch, on_tumour in ((2, [False, True]), (6, [False] * 4 + [True] * 2)):
        for found in take(data(cohort, batch=batch), 3):
            np.testing.assert_array_equal(found["patch_pick"] >= 0, on_tumour)
    single = [b["patch_pick"][0] >= 0 for b in take(data(cohort, batch=1), 300)]
    assert np.mean(single) == pytest.approx(0.33, abs=0.09)
    halves = [
        training_data(
            cohort, sorted(cohort.cases), batch=4, seed=0, augment=AUGMENT, part=(part, 2)
        )
        for part in (0, 1)
    ]
    first, second = (next(iter(half))["patch_pick"] >= 0 for half in halves)
    np.testing.assert_array_equal([*first, *second], [False, False, False, True])


def test_a_mixup_partner_is_another_case(cohort):
    always = AUGMENT | {"mixup_probability": 1.0}
    cases = sorted(cohort.cases)[:3]
    batches = take(iter(training_data(cohort, cases, batch=1, seed=0, augment=always)), 60)
    pairs = [(int(b["case"][0]), int(b["partner"][0])) for b in batches]
    assert all(a != b for a, b in pairs)
    assert len(set(pairs)) == 6
    (alone,) = take(iter(training_data(cohort, cases[:1], batch=1, seed=0, augment=always)), 1)
    np.testing.assert_array_equal(alone["ct"][0], read_case(cohort.path(cases[0])).ct)


def test_every_epoch_has_every_case_in_another_order(cohort):
    order = [int(b["case"][0]) for b in take(data(cohort, batch=1), 18)]
    epochs = [order[i : i + 6] for i in (0, 6, 12)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_iterators_state_brings_back_its_place(cohort):
    iterator = data(cohort)
    take(iterator, 5)
    state = iterator.get_state()
    expected = take(iterator, 4)
    fresh = data(cohort)
    fresh.set_state(state)
    assert equal(take(fresh, 4), expected)


def test_evaluation_goes_through_the_cases_in_order(cohort):
    cases = sorted(cohort.cases)[::-1]
    assert [case for case, _ in evaluation_data(cohort, cases)] == cases


def test_no_cases_is_an_error(cohort):
    with pytest.raises(ConfigError, match="0 cases"):
        training_data(cohort, [], batch=1, seed=0, augment=AUGMENT)
