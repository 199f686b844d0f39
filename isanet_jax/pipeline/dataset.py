"""Grain pipelines over prepared cases: what the host does for a training step."""

import functools

import grain
import numpy as np

from isanet_jax.cases.case import Case, StoredCase, read_case
from isanet_jax.cases.cohort import Cohort
from isanet_jax.errors import ConfigError

IMAGES = ("ct", "pet", "label")
# Bounds the memory: at 144^3 an element of the pipeline holds 36 MB.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


def rotation_matrix(angles_deg, spacing_mm) -> np.ndarray:
    """Maps voxel offsets of a rotated image to those of its source.

    The rotation is rigid in mm, also where the spacing differs between the axes.

    Args:
        angles_deg: (3,) about the D, H and W axis, applied in this order.
        spacing_mm: (3,) voxel size along D, H and W.

    Returns:
        (3, 3) float32: offset from the centre in the output -> offset in the source, voxels.
    """
    rotation = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        one = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        one[i, i], one[i, j] = np.cos(angle), -np.sin(angle)
        one[j, i], one[j, j] = np.sin(angle), np.cos(angle)
        rotation = one @ rotation
    spacing_mm = np.asarray(spacing_mm)
    return (rotation * spacing_mm / spacing_mm[:, None]).astype(np.float32)


def draw_augmentation(generator: np.random.Generator, augment: dict, spacing_mm) -> dict:
    """Random parameters of one element's augmentation (paper section 3.2).

    Args:
        generator: source of randomness.
        augment: `rotation_probability`, `rotation_degrees` (largest angle), `mirror_probability`,
            `mixup_probability`, `tumour_patch_probability`.
        spacing_mm: (3,) voxel size of the case.

    Returns:
        rotation (3, 3) float32, mirror (3,) bool, mixup and on_tumour, bools; patch_place (3,) and
        patch_pick () float32, see `isanet_jax.pipeline.augment.crop_patch`.
    """
    angles = np.zeros(3)
    if generator.random() < augment["rotation_probability"]:
        axes = generator.permutation(3)[: generator.integers(1, 4)]
        largest = augment["rotation_degrees"]
        angles[axes] = generator.uniform(-largest, largest, len(axes))
    mirror = np.zeros(3, bool)
    if generator.random() < augment["mirror_probability"]:
        mirror = generator.random(3) < 0.5
    on_tumour = generator.random() < augment["tumour_patch_probability"]
    return {
        "rotation": rotation_matrix(angles, spacing_mm),
        "mirror": mirror,
        "mixup": generator.random() < augment["mixup_probability"],
        "patch_place": generator.random(3, np.float32),
        "patch_pick": np.float32(generator.random(dtype=np.float32)),
        "on_tumour": on_tumour,
    }


def tumour_patches(on_tumour: np.ndarray, first: int, batch: int, probability: float) -> np.ndarray:
    """Which elements of a batch have their patch on the tumour: (B,) bool.

    As in nnU-Net the last of a batch have, as many as the probability rounds to (of two, one); of
    batches of one, each has with the probability.

    Args:
        on_tumour: (B,) bool, drawn with the probability for each element.
        first: number, within the whole batch, of the first of these elements.
        batch: size of the whole batch.
        probability: `tumour_patch_probability`.
    """
    if batch == 1:
        return on_tumour
    return first + np.arange(len(on_tumour)) >= round(batch * (1 - probability))


def mixup(case: Case, partner: Case | None) -> dict[str, np.ndarray]:
    """Eq. 18 with lambda 0.5: the mean of two cases, or the one alone.

    Returns:
        ct (HU), pet (SUV), label (0, 0.5 or 1): (D, H, W) float32.
    """
    images = {name: getattr(case, name).astype(np.float32) for name in IMAGES}
    if partner is None:
        return images
    return {name: 0.5 * (image + getattr(partner, name)) for name, image in images.items()}


def training_data(
    cohort: Cohort, cases, *, batch: int, seed: int, augment: dict, part: tuple[int, int] = (0, 1)
):
    """Endless, seeded batches of cases, mixed up, with their augmentation's parameters.

    Args:
        cohort: the prepared cases.
        cases: IDs to train on.
        batch: elements per batch.
        seed: of shuffle, mixup partners and augmentation.
        augment: see `draw_augmentation`.
        part: (number, of how many) equal parts of each batch is read; together they are the same
            batches whatever their number.

    Returns:
        `grain.IterDataset` of dicts: ct (B, D, H, W) HU, pet SUV and label, all float32; rotation
        (B, 3, 3), mirror (B, 3), patch_place (B, 3) and patch_pick (B,); case and (mixup's) partner
        (B,) indices into `cases`, equal where there is no mixup.

    Raises:
        ConfigError: no cases, or a batch that is not positive.
    """
    if not cases or batch < 1:
        raise ConfigError(f"{len(cases)} cases to train on in batches of {batch}")
    stored = functools.cache(lambda index: StoredCase(cohort.path(cases[index])))

    def load(index, generator):
        index = int(index)
        case = stored(index).read()
        drawn = draw_augmentation(generator, augment, case.meta["spacing_mm"])
        # Drawn for every element, so that the probabilities do not shift the later draws. One of
        # the other cases: a case mixed with itself would be none.
        other = (index + 1 + int(generator.integers(max(len(cases) - 1, 1)))) % len(cases)
        is_mixed = drawn.pop("mixup") and other != index
        return {
            **mixup(case, stored(other).read() if is_mixed else None),
            **drawn,
            "case": np.int32(index),
            "partner": np.int32(other if is_mixed else index),
        }

    # repeat gives every pass its own shuffle and its own draws. A whole number of passes, since
    # grain cannot batch an endless dataset; 2^31 passes do not end.
    dataset = grain.MapDataset.range(len(cases)).seed(seed).shuffle().random_map(load)
    dataset = dataset.repeat(2**31)
    number, parts = part
    whole, batch = batch, batch // parts
    if batch == 1:  # without the copy that stacking makes
        dataset = dataset.map(lambda case: {k: np.asarray(v)[None] for k, v in case.items()})
    else:
        dataset = dataset.batch(batch, drop_remainder=True)

    def choose_patches(elements):
        drawn, probability = elements.pop("on_tumour"), augment["tumour_patch_probability"]
        chosen = tumour_patches(drawn, number * batch, whole, probability)
        return elements | {"patch_pick": np.where(chosen, elements["patch_pick"], np.float32(-1))}

    dataset = dataset.map(choose_patches)
    # The iterator's state counts batches, whatever the part.
    return dataset[number::parts].to_iter_dataset(_READ)


def batch_shapes(batch: int, size: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Name -> (shape, dtype) of the arrays of a batch of `training_data` at `size`^3."""
    arrays = dict.fromkeys(IMAGES, ((size,) * 3, np.float32)) | {
        "rotation": ((3, 3), np.float32),
        "mirror": ((3,), np.bool_),
        "patch_place": ((3,), np.float32),
        "patch_pick": ((), np.float32),
        "case": ((), np.int32),
        "partner": ((), np.int32),
    }
    return {name: ((batch, *shape), dtype) for name, (shape, dtype) in arrays.items()}


def evaluation_data(cohort: Cohort, cases):
    """Each case once, in order.

    Returns:
        `grain.IterDataset` of (ID, `isanet_jax.cases.case.Case`).
    """
    dataset = grain.MapDataset.source(list(cases)).map(
        lambda case: (case, read_case(cohort.path(case)))
    )
    return dataset.to_iter_dataset(_READ)
