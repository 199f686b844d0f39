"""Grain pipelines over prepared cases: what the host does for a training step."""

import functools
import math
from typing import NamedTuple

import grain
import jax
import numpy as np

from isanet_jax.cases.case import StoredCase
from isanet_jax.cases.cohort import Cohort
from isanet_jax.errors import ConfigError
from isanet_jax.kinds import KINDS
from isanet_jax.pipeline.draw import draw_augmentation, patch_start, tumour_patches
from isanet_jax.pipeline.inputs import Inputs
from isanet_jax.pipeline.normalise import scale_of, standardised, statistics_of
from isanet_jax.settings.table import Augment

# Bounds the memory: at 144^3 an element of the pipeline holds 36 MB.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
_ALIGNED = 64  # bytes
# Of what is drawn, what the device is given.
_GIVEN = ("rotation", "mirror", "misalignment", "shift", "intensity")


class _Element(NamedTuple):
    """A case, or what is read of it.

    Attributes:
        images, labels, ignored: see `training_data`.
        outside: image -> its value beyond the field.
        centre: (3,) of the patch, in voxels of what was read.
    """

    images: dict
    labels: dict
    ignored: np.ndarray | None
    outside: dict
    centre: np.ndarray


def _read_element(stored: StoredCase, inputs: Inputs, start, drawn, centre=None) -> _Element:
    """What a rotated patch is made of, or the whole case.

    Args:
        stored: the case.
        inputs: what is given of it.
        start: (3,) of the patch, see `patch_start`.
        drawn: see `draw_augmentation`.
        centre: (3,) where the patch's centre is to lie in what is read; None: where most of what is
            read is within the case.
    """
    if not inputs.is_patch:
        case, shape = stored.read(), np.array(inputs.shape, np.float32)
        centre = (shape - 1) / 2 + drawn.get("off_centre", np.float32(0)) * shape
        known = statistics_of(case, inputs.images, inputs.pet_scale)
        of_volume = {"of_volume": inputs.of_volume}
        images, outside = standardised(case.images, known, inputs.images, **of_volume)
        labels = {name: _halves(mask) for name, mask in case.masks(inputs.classes).items()}
        ignored = case.ignored.view(np.uint8) if inputs.has_ignored else None
        return _Element(images, labels, ignored, outside, centre)
    shape, read = np.array(stored.shape), np.array(inputs.read)
    middle = (np.array(inputs.shape) - 1) / 2
    reaches = [np.abs(drawn["rotation"]) @ middle]
    for name, turn in drawn.get("misalignment", {}).items():
        reaches.append(np.abs(turn @ drawn["rotation"]) @ middle + np.abs(drawn["shift"][name]))
    reach = np.max(reaches, 0) + 1e-3
    first = np.floor(start + middle - reach).astype(int) - 1
    beyond = np.ceil(start + middle + reach).astype(int) + 2
    # Where what is read begins; the patch, not rotated, is to be within it, too.
    origin = np.minimum(np.clip(first, 0, np.maximum(shape - read, 0)), start)
    origin = np.maximum(origin, np.add(start, inputs.shape) - read)
    if centre is not None:
        origin = np.round(start + middle - centre).astype(int)
    needed = np.clip((first, beyond), origin, origin + read)
    return _part(stored, inputs, (start + middle - origin).astype(np.float32), origin, needed)


def _halves(mask):
    """Returns twice a mask, so that the shares of two mixed labels are whole numbers."""
    return mask.view(np.uint8) << np.uint8(1)


def _zeros(shape, dtype):
    """Zeros that JAX takes over as they are on a CPU: it copies what is not aligned so."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.zeros(size + _ALIGNED, np.uint8)
    start = -buffer.ctypes.data % _ALIGNED
    return buffer[start : start + size].view(dtype).reshape(shape)


def _part(stored, inputs, centre, origin, needed) -> _Element:
    """A part of a case in arrays of the size that is read.

    Args:
        stored: the case.
        inputs: see `Inputs`.
        centre: of the patch, in what is read.
        origin: voxel of the case where the arrays begin.
        needed: (first, one beyond the last) voxel of the case that the patch is made of; may lie
            beyond it. Nothing else is written: of large arrays, pages not touched cost nothing.
    """
    box = np.clip(needed, 0, stored.shape)
    start, stop = box[0] - origin, box[1] - origin
    begin, end = needed - origin
    inside = tuple(map(slice, start, stop))
    images = {name: _zeros(inputs.read, np.float32) for name in inputs.images}
    case = stored.read(*box, into={name: array[inside] for name, array in images.items()})
    known, outside = statistics_of(case, inputs.images, inputs.pet_scale), {}
    for name, kind in inputs.images.items():
        beyond, scale = np.float32(KINDS[kind].outside), scale_of(kind, known[name], False)
        if scale:
            beyond = (beyond - scale[0]) * scale[1]
            case.images[name][...] -= scale[0]
            case.images[name][...] *= scale[1]
        outside[name] = beyond
        if beyond:
            for axis in range(3):
                for strip in (slice(begin[axis], start[axis]), slice(stop[axis], end[axis])):
                    images[name][(*[slice(None)] * axis, strip)] = beyond

    def placed(mask):
        out = _zeros(inputs.read, np.uint8)
        out[inside] = mask
        return out

    labels = {name: placed(_halves(mask)) for name, mask in case.masks(inputs.classes).items()}
    ignored = placed(case.ignored) if inputs.has_ignored else None
    return _Element(images, labels, ignored, outside, centre)


def mixup(one: _Element, other: _Element) -> _Element:
    """Eq. 18 with lambda 0.5: the mean of two elements, of one centre.

    Unknown is what is so in one of them.
    """

    def mean(a, b):
        return {name: 0.5 * (array + b[name]) for name, array in a.items()}

    labels = {name: (label + other.labels[name]) // 2 for name, label in one.labels.items()}
    ignored = None if one.ignored is None else np.maximum(one.ignored, other.ignored)
    images = mean(one.images, other.images)
    return _Element(images, labels, ignored, mean(one.outside, other.outside), one.centre)


def training_data(
    cohort: Cohort,
    cases,
    inputs: Inputs,
    *,
    batch: int,
    seed: int,
    augment: Augment,
    part: tuple[int, int] = (0, 1),
):
    """Endless, seeded batches of cases or patches, mixed up, with their augmentation's parameters.

    Of a patch, what it may be rotated out of is read, and nothing else of the case.

    Args:
        cohort: the prepared cases.
        cases: IDs to train on.
        inputs: what is given of each case.
        batch: elements per batch.
        seed: of shuffle, mixup partners, patches and augmentation.
        augment: the settings.
        part: (number, of how many) equal parts of each batch is read; together they are the same
            batches whatever their number.

    Returns:
        `grain.IterDataset` of dicts: images, name -> (B, D, H, W) float32, see `standardised`;
        labels, class -> (B, D, H, W) uint8, twice the share of the class: 0, 1 or 2; ignored (B, D,
        H, W) uint8, where the cohort has such voxels; outside, image -> (B,) float32, its value
        beyond its field. Of patches, only what they may be made of holds values. rotation (B, 3,
        3), mirror (B, 3) and centre (B, 3), of the volume or patch in voxels; case and (mixup's)
        partner (B,) indices into `cases`, equal where there is no mixup. Where `augment` asks for
        them, misalignment and shift, image -> (B, 3, 3) and (B, 3), and intensity, see
        `isanet_jax.pipeline.intensity.draw_intensity`.

    Raises:
        ConfigError: no cases, or a batch that is not positive.
    """
    if not cases or batch < 1:
        raise ConfigError(f"{len(cases)} cases to train on in batches of {batch}")
    number, parts = part
    probability = augment.tumour_patch_probability

    @functools.cache
    def stored(index):
        return cohort.stored(cases[index], inputs.images)

    @functools.cache
    def voxels(index):
        found = [stored(index).samples(name) for name in inputs.classes]
        return [of_class for of_class in found if len(of_class)]

    def read(index, drawn, pick, centre=None):
        start = None
        if inputs.is_patch:
            place = drawn["patch_place"], voxels(index), pick
            start = patch_start(
                stored(index).shape, inputs.shape, *place, beyond=augment.patch_beyond
            )
        return _read_element(stored(index), inputs, start, drawn, centre)

    def draw(index, generator):
        index = int(index)
        spacing_mm = cohort.cases[cases[index]]["spacing_mm"]
        drawn = draw_augmentation(
            generator, augment, spacing_mm, tuple(inputs.images), inputs.channels
        )
        # Drawn for every element, so that the probabilities do not shift the later draws. One of
        # the other cases: a case mixed with itself would be none.
        other = (index + 1 + int(generator.integers(max(len(cases) - 1, 1)))) % len(cases)
        is_mixed = drawn.pop("mixup") and other != index
        return drawn | {"case": index, "partner": other if is_mixed else index}

    def load(number_of_all, drawn):
        place = np.array([drawn["on_tumour"]]), number_of_all % batch, batch
        pick = float(drawn["patch_pick"]) if tumour_patches(*place, probability)[0] else -1.0
        element = read(drawn["case"], drawn, pick)
        if drawn["partner"] != drawn["case"]:
            element = mixup(element, read(drawn["partner"], drawn, pick, element.centre))
        found = element._asdict() | {name: drawn[name] for name in _GIVEN if name in drawn}
        if element.ignored is None:
            del found["ignored"]
        return found | {name: np.int32(drawn[name]) for name in ("case", "partner")}

    # repeat gives every pass its own shuffle and its own draws. A whole number of passes, since
    # grain cannot batch an endless dataset; 2^31 passes do not end.
    dataset = grain.MapDataset.range(len(cases)).seed(seed).shuffle().random_map(draw)
    dataset = dataset.repeat(2**31)
    dataset = dataset.map_with_index(load)
    own = batch // parts
    if own == 1:  # without the copy that stacking makes
        dataset = dataset.map(lambda case: jax.tree.map(lambda v: np.asarray(v)[None], case))
    else:
        dataset = dataset.batch(own, drop_remainder=True)
    # The iterator's state counts batches, whatever the part.
    return dataset[number::parts].to_iter_dataset(_READ)


def evaluation_data(cohort: Cohort, cases, images=None):
    """Each case once, in order.

    Args:
        cohort: the prepared cases.
        cases: IDs.
        images: names of those to read; None: all.

    Returns:
        `grain.IterDataset` of (ID, `isanet_jax.cases.case.Case`).
    """
    dataset = grain.MapDataset.source(list(cases)).map(
        lambda case: (case, cohort.stored(case, images).read())
    )
    return dataset.to_iter_dataset(_READ)
