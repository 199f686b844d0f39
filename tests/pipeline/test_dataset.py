from dataclasses import replace

import jax
import numpy as np
import pytest

from isanet_jax.cases.case import StoredCase, read_case
from isanet_jax.errors import ConfigError
from isanet_jax.pipeline import dataset
from isanet_jax.pipeline.dataset import evaluation_data, training_data
from isanet_jax.pipeline.draw import (
    draw_augmentation,
    patch_start,
    read_shape,
    rotation_matrix,
    tumour_patches,
)
from isanet_jax.pipeline.inputs import Inputs, batch_shapes
from isanet_jax.settings.table import Augment

AUGMENT = Augment()

INPUTS = Inputs({"ct": "ct", "pet": "pet"}, ("tumour",), (16, 16, 16), (16, 16, 16))
PATCHES = INPUTS._replace(shape=(6, 8, 8), read=(13, 14, 14), is_patch=True)


def data(cohort, seed=0, batch=2, inputs=INPUTS, augment=AUGMENT):
    cases = sorted(cohort.cases)
    return iter(training_data(cohort, cases, inputs, batch=batch, seed=seed, augment=augment))


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def equal(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def shapes(batch):
    return jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), batch)


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
    always = replace(AUGMENT, **{"rotation_probability": 1.0})
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
        assert shapes(batch) == shapes(batch_shapes(2, INPUTS))
        for i in range(2):
            case, partner = (
                read_case(cohort.path(cases[batch[key][i]])) for key in ("case", "partner")
            )
            for name in ("ct", "pet"):
                a, b = (c.images[name].astype(np.float64) for c in (case, partner))
                np.testing.assert_allclose(batch["images"][name][i], (a + b) / 2, rtol=1e-6)
            label = case.label + partner.label  # of one class: 0 and 1, together twice the mean
            np.testing.assert_array_equal(batch["labels"]["tumour"][i], label)
            mixed.append(batch["case"][i] != batch["partner"][i])
    assert 0 < sum(mixed) < len(mixed)


def test_a_batch_of_one_is_like_one_of_more(cohort):
    (one,) = take(data(cohort, batch=1), 1)
    (two,) = take(data(cohort, batch=2), 1)
    assert shapes(one) == shapes(batch_shapes(1, INPUTS))
    assert equal(jax.tree.map(lambda x: x[0], one), jax.tree.map(lambda x: x[0], two))


def test_a_third_of_single_patches_is_around_the_tumour(cohort, monkeypatch):
    picks = []
    start_of = dataset.patch_start

    def watched(*arguments, **how):
        picks.append(arguments[-1] >= 0)
        return start_of(*arguments, **how)

    monkeypatch.setattr(dataset, "patch_start", watched)
    never = replace(AUGMENT, **{"mixup_probability": 0.0})
    take(data(cohort, batch=1, inputs=PATCHES, augment=never), 300)
    assert np.mean(picks) == pytest.approx(0.33, abs=0.09)


def test_which_of_a_batch_lie_on_the_tumour():
    drawn = np.array([True, False])
    np.testing.assert_array_equal(tumour_patches(drawn[:1], 0, 1, 0.33), [True])
    np.testing.assert_array_equal(tumour_patches(drawn, 0, 2, 0.33), [False, True])
    of_six = [tumour_patches(drawn[:1], i, 6, 0.33)[0] for i in range(6)]
    assert of_six == [False] * 4 + [True] * 2


def test_the_parts_of_a_batch_together_are_the_batch(cohort):
    cases = sorted(cohort.cases)
    options = {"batch": 4, "seed": 0, "augment": AUGMENT}
    whole = take(iter(training_data(cohort, cases, PATCHES, **options)), 3)
    halves = [
        take(iter(training_data(cohort, cases, PATCHES, **options, part=(part, 2))), 3)
        for part in (0, 1)
    ]
    for batch, *parts in zip(whole, *halves, strict=True):
        together = jax.tree.map(lambda a, b: np.concatenate([a, b]), *parts)
        assert equal(batch, together)


def test_patches_are_what_the_case_has_there(cohort):
    """Not rotated: the patch within what was read is a part of the case, wherever it is."""
    still = replace(AUGMENT, **{"rotation_probability": 0.0, "mixup_probability": 0.0})
    cases = sorted(cohort.cases)
    for batch in take(data(cohort, inputs=PATCHES, augment=still), 12):
        assert shapes(batch) == shapes(batch_shapes(2, PATCHES))
        for i in range(2):
            case = read_case(cohort.path(cases[batch["case"][i]]))
            start = np.round(batch["centre"][i] - (np.array(PATCHES.shape) - 1) / 2).astype(int)
            patch = tuple(slice(a, a + n) for a, n in zip(start, PATCHES.shape, strict=True))
            ct = batch["images"]["ct"][i][patch]
            windows = np.lib.stride_tricks.sliding_window_view(case.images["ct"], PATCHES.shape)
            assert (windows == ct).all((3, 4, 5)).any()
            pet = batch["images"]["pet"][i][patch]
            mean, sd = case.statistics["pet"]
            windows = np.lib.stride_tricks.sliding_window_view(case.images["pet"], PATCHES.shape)
            expected = (windows - mean) / np.sqrt(sd**2 + 1e-5)
            assert np.isclose(expected, pet, atol=1e-4).all((3, 4, 5)).any()


@pytest.mark.parametrize("inputs", [INPUTS, PATCHES._replace(read=PATCHES.shape)])
def test_a_pet_of_fixed_scale_is_suv_over_five_in_every_case(cohort, inputs):
    fixed = inputs._replace(pet_scale="suv")
    assert not fixed.of_volume  # the device leaves it as it comes
    plain = AUGMENT.without
    own, alike = (
        take(data(cohort, batch=1, inputs=one, augment=plain), 4) for one in (inputs, fixed)
    )
    names = sorted(cohort.cases)
    for with_own, with_fixed in zip(own, alike, strict=True):
        stored = read_case(cohort.path(names[with_own["case"][0]]))
        suv = with_own["images"]["pet"]
        if inputs.is_patch:
            mean, sd = stored.statistics["pet"]
            suv = suv * np.sqrt(sd**2 + 1e-5) + mean
        np.testing.assert_allclose(with_fixed["images"]["pet"], suv / 5, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(with_fixed["images"]["ct"], with_own["images"]["ct"])


def test_patches_are_mixed_where_they_lie(cohort):
    """The mean of two patches, each of its own place, and not of what was read around them."""
    one, other = (StoredCase(cohort.path(case)) for case in sorted(cohort.cases)[:2])
    starts, still = ((0, 8, 3), (10, 0, 8)), {"rotation": np.eye(3)}
    elements = [dataset._read_element(one, PATCHES, starts[0], still)]
    elements.append(dataset._read_element(other, PATCHES, starts[1], still, elements[0].centre))
    mixed = dataset.mixup(*elements)
    begin = np.round(mixed.centre - (np.array(PATCHES.shape) - 1) / 2).astype(int)
    found = mixed.images["ct"][
        tuple(slice(a, a + n) for a, n in zip(begin, PATCHES.shape, strict=True))
    ]
    parts = [
        stored.read(start, np.add(start, PATCHES.shape)).images["ct"].astype(float)
        for stored, start in zip((one, other), starts, strict=True)
    ]
    np.testing.assert_allclose(found, np.mean(parts, 0), rtol=1e-6)


def test_a_patch_begins_anywhere_or_around_a_voxel_of_a_class():
    shape, patch = (20, 12, 6), (8, 8, 8)
    voxels = [np.array([[10, 3, 2], [0, 0, 0]]), np.array([[19, 11, 5]])]

    def start(pick, place=(0.0, 0.999, 0.5)):
        return patch_start(shape, patch, np.array(place), voxels, pick).tolist()

    assert start(-1.0) == [0, 4, -1]  # of 13 and 5 starts; too small a case lies in the middle
    assert start(0.0) == [6, 0, -1]  # around the first voxel of the first class
    assert start(0.3) == [0, 0, -1]  # of the second, as far as the patch stays within
    assert start(0.9) == [12, 4, -1]  # the second class has the same share, with one voxel
    assert patch_start(shape, patch, np.zeros(3), [], 0.5).tolist() == [0, 0, -1]

    def beyond(pick, place):
        return patch_start(shape, patch, np.array(place), voxels, pick, beyond=0.25).tolist()

    assert beyond(-1.0, (0.0, 0.0, 0.0)) == [-2, -2, -1]
    assert beyond(-1.0, (0.999, 0.999, 0.999)) == [14, 6, -1]
    assert beyond(0.3, (0, 0, 0)) == [-2, -2, -1]  # around [0, 0, 0], a quarter beyond
    assert beyond(0.9, (0, 0, 0)) == [14, 6, -1]  # around [19, 11, 5]


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_patch_that_lies_beyond_its_case_is_filled_up(cohort, share):
    """Held against a padded copy, at every corner and side."""
    stored = StoredCase(cohort.path(min(cohort.cases)))
    inputs = PATCHES._replace(read=PATCHES.shape)
    still = {"rotation": np.eye(3, dtype=np.float32)}
    case, room = stored.read(), 99
    mean, sd = case.statistics["pet"]
    own = {"ct": case.images["ct"], "pet": (case.images["pet"] - mean) / np.sqrt(sd**2 + 1e-5)}
    outside = {"ct": -1024.0, "pet": -mean / np.sqrt(sd**2 + 1e-5)}
    for place in np.ndindex(3, 3, 3):
        given = np.array([0.0, 0.5, 0.999])[list(place)], [], -1.0
        start = patch_start(stored.shape, inputs.shape, *given, beyond=share)
        element = dataset._read_element(stored, inputs, start, still)
        part = tuple(
            slice(room + a, room + a + n) for a, n in zip(start, inputs.shape, strict=True)
        )
        for name, image in own.items():
            padded = np.pad(image.astype(np.float32), room, constant_values=outside[name])
            np.testing.assert_allclose(element.images[name], padded[part], atol=1e-4)
        label = np.pad(2 * (case.label & 1), room)[part]
        np.testing.assert_array_equal(element.labels["tumour"], label)
        assert element.centre.tolist() == [(n - 1) / 2 for n in inputs.shape]


def test_what_is_read_holds_every_rotated_patch():
    """The corners of patches that are turned by any of the angles, with a voxel to spare."""
    patch, largest = np.array([9, 12, 15]), (100, 100, 100)
    still = replace(AUGMENT, **{"rotation_probability": 0.0})
    for spacing in ([1, 1, 1], [3, 1, 2]):
        read = np.array(read_shape(patch, AUGMENT, [spacing], largest))
        generator = np.random.default_rng(0)
        for _ in range(300):
            matrix = rotation_matrix(generator.uniform(-45, 45, 3), spacing)
            assert (2 * np.abs(matrix) @ ((patch - 1) / 2) + 2 <= read).all()
    assert read_shape(patch, still, [[1, 1, 1]], largest) == (9, 12, 15)
    assert read_shape(patch, AUGMENT, [[1, 1, 1]], (10, 40, 40))[0] == 10


def test_a_mixup_partner_is_another_case(cohort):
    always = replace(AUGMENT, **{"mixup_probability": 1.0})
    cases = sorted(cohort.cases)[:3]
    batches = take(iter(training_data(cohort, cases, INPUTS, batch=1, seed=0, augment=always)), 60)
    pairs = [(int(b["case"][0]), int(b["partner"][0])) for b in batches]
    assert all(a != b for a, b in pairs)
    assert len(set(pairs)) == 6
    (alone,) = take(
        iter(training_data(cohort, cases[:1], INPUTS, batch=1, seed=0, augment=always)), 1
    )
    case = read_case(cohort.path(cases[0]))
    np.testing.assert_array_equal(alone["images"]["ct"][0], case.images["ct"])


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
        training_data(cohort, [], INPUTS, batch=1, seed=0, augment=AUGMENT)


def test_scaled_and_moved_patches_are_image_everywhere(cohort):
    """What is read reaches as far as the farthest of the images, and each is moved by its own."""
    settings = replace(AUGMENT, **{
        "scaling_probability": 1.0, "misalignment_probability": 1.0, "misalignment_mm": 40.0,
        "misalignment_degrees": 10.0, "mixup_probability": 0.0,
    })  # fmt: skip
    spacings = [entry["spacing_mm"] for entry in cohort.cases.values()]
    read = read_shape(np.array((6, 5, 4)), settings, spacings, (10**6,) * 3)
    inputs = PATCHES._replace(shape=(6, 5, 4), read=read, is_misaligned=True)
    middle = (np.array(inputs.shape) - 1) / 2
    corners = np.array(np.meshgrid(*[(-m, m) for m in middle])).reshape(3, -1)
    stored = StoredCase(cohort.path(min(cohort.cases)))
    generator = np.random.default_rng(0)
    for _ in range(200):
        drawn = draw_augmentation(generator, settings, spacings[0], ("ct", "pet"))
        assert 0.7 <= np.cbrt(np.linalg.det(drawn["rotation"])) <= 1.4
        turn, shift = drawn["misalignment"]["pet"], drawn["shift"]["pet"]
        assert np.abs(shift * spacings[0]).max() <= 40
        share = generator.choice([0.0, 0.25, 0.5])  # of the patch, beyond the case
        place = drawn["patch_place"], [], -1
        start = patch_start(stored.shape, inputs.shape, *place, beyond=share)
        element = dataset._read_element(stored, inputs, start, drawn)
        origin = (start + middle - element.centre)[:, None]
        for matrix, offset in ((np.eye(3), np.zeros(3)), (turn, shift)):
            places = matrix @ drawn["rotation"] @ corners
            places += (element.centre + offset)[:, None]
            in_case = (places + origin >= 0) & (
                places + origin <= np.array(stored.shape)[:, None] - 1
            )
            in_read = (places >= 0) & (places <= np.array(read)[:, None] - 1)
            assert (in_read | ~in_case).all()
    for batch in take(data(cohort, inputs=inputs, augment=settings), 2):
        assert shapes(batch) == shapes(batch_shapes(2, inputs))
    still = replace(settings, **{"misalignment_probability": 1e-9})
    (batch,) = take(data(cohort, inputs=inputs, augment=still), 1)
    np.testing.assert_array_equal(batch["misalignment"]["pet"][0], np.eye(3))


CROPPED = replace(AUGMENT, **{"crop_probability": 1.0, "crop_share": 0.3})


def test_a_cropped_field_is_what_is_left_of_it_resized(cohort):
    """Held against SciPy, by where each voxel's centre lies within the field."""
    from scipy import ndimage

    from isanet_jax.pipeline.augment import augment

    still = dict.fromkeys(("rotation_probability", "mirror_probability", "mixup_probability"), 0.0)
    stored = {n: read_case(cohort.path(case)) for n, case in enumerate(sorted(cohort.cases))}
    lows, highs = [], []
    for batch in take(data(cohort, augment=replace(CROPPED, **still)), 6):
        assert shapes(batch) == shapes(batch_shapes(2, INPUTS))
        images, labels, _ = augment(batch, INPUTS.shape)
        for element, index in enumerate(batch["case"]):
            kept = np.diag(batch["rotation"][element])
            off = (batch["centre"][element] + 0.5) / 16 - 0.5
            low = (1 - kept) / 2 + off
            lows += list(low)
            highs += list((1 - kept) / 2 - off)
            share = low + (np.arange(16)[:, None] + 0.5) / 16 * kept  # of the field, each axis
            places = np.stack(np.meshgrid(*(16 * share - 0.5).T, indexing="ij"))
            case, fill = stored[int(index)], float(batch["outside"]["ct"][element])
            ct = ndimage.map_coordinates(
                case.images["ct"].astype(float), places, order=1, mode="grid-constant", cval=fill
            )
            np.testing.assert_allclose(images["ct"][element], ct, atol=0.01)  # of HU
            tumour = ndimage.map_coordinates(
                case.masks(("tumour",))["tumour"].astype(float), places, order=0
            )
            assert np.mean(labels["tumour"][element] != tumour) < 1e-3  # ties round otherwise
    for sides in (lows, highs):
        assert min(sides) > -1e-6
        assert max(sides) < 0.3 + 1e-6
        assert np.mean(sides) == pytest.approx(0.15, abs=0.04)


def test_a_cropped_field_is_turned_rigidly_and_the_other_draws_stay():
    spacing_mm = np.array([3.0, 1.0, 2.0])
    for seed in range(50):
        draws = [
            draw_augmentation(np.random.default_rng(seed), settings, spacing_mm)
            for settings in (AUGMENT, CROPPED)
        ]
        without, cropped = (one.pop("rotation") * spacing_mm[:, None] for one in draws)
        columns = cropped / np.linalg.norm(cropped, axis=0)
        np.testing.assert_allclose(columns.T @ columns, np.eye(3), atol=1e-6)
        np.testing.assert_allclose(columns, without / np.linalg.norm(without, axis=0), atol=1e-6)
        assert np.abs(draws[1].pop("off_centre")).max() <= 0.15
        assert equal(*draws)
