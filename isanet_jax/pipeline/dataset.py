"""Grain pipelines over prepared cases: what the host does for a training step."""

import functools
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import grain
import jax
import numpy as np

from isanet_jax.cases.case import StoredCase, read_case
from isanet_jax.cases.cohort import Cohort
from isanet_jax.cases.grid import as_three
from isanet_jax.errors import ConfigError
from isanet_jax.kinds import KINDS, WIDE, CtWindow
from isanet_jax.pipeline import intensity

PET_SCALES = ("case", "suv")
_SUV = 5.0  # of a PET of a fixed scale, becomes 1: about where tumours begin to stand out

# Bounds the memory: at 144^3 an element of the pipeline holds 36 MB.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


class Inputs(NamedTuple):
    """What a step is given of each case.

    Attributes:
        images: name -> kind.
        classes: names.
        shape: (D, H, W) of the network's input: the volume, or a patch.
        read: (D, H, W) of what is read for it: more than the patch, which may be rotated.
        is_patch: whether it is part of a case.
        has_ignored: whether there are voxels that losses leave out.
        ct_windows: how HU become the network's input; each is a channel.
        pet_scale: how SUV do, of `PET_SCALES`.
        is_misaligned: whether images may be moved against the first.
        has_intensity: whether intensities are augmented, see `isanet_jax.pipeline.intensity`.
    """

    images: Mapping[str, str]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    read: tuple[int, int, int]
    is_patch: bool = False
    has_ignored: bool = False
    ct_windows: tuple[CtWindow, ...] = (WIDE,)
    pet_scale: str = "case"
    is_misaligned: bool = False
    has_intensity: bool = False

    @property
    def of_volume(self) -> bool:
        """Whether the device standardises the PET, by the volume that it is given."""
        return not self.is_patch and self.pet_scale == "case"

    @property
    def channels(self) -> int:
        """Of the network's input."""
        return sum(len(self.ct_windows) if kind == "ct" else 1 for kind in self.images.values())


def read_shape(patch, augment: Mapping, spacings, largest) -> tuple[int, int, int]:
    """Voxels that hold whatever a patch may be rotated, scaled and moved out of.

    Args:
        patch: (3,) of the patch.
        augment: see `draw_augmentation`.
        spacings: (n, 3) mm along D, H, W, of all cases.
        largest: (3,) voxels of the largest case along each axis, of which no more are read
            but for the patch's own size.
    """
    degrees = augment["rotation_degrees"] if augment["rotation_probability"] else 0
    degrees = np.array(as_three(degrees))
    scale = max(augment["scaling_range"][1], 1.0) if augment["scaling_probability"] else 1.0
    is_moved = augment["misalignment_probability"] > 0
    if not degrees.any() and scale == 1 and not is_moved:
        return tuple(map(int, patch))
    turns = list(itertools.product(*(np.linspace(-a, a, 9) for a in degrees)))
    needed = np.zeros(3)
    for spacing_mm in np.unique(np.round(spacings, 3), axis=0):
        extents = [np.abs(rotation_matrix(turn, spacing_mm)) @ patch for turn in turns]
        extent = np.max(extents, 0) * scale
        if is_moved:
            # About all axes by the largest angles, which are small: no others need more.
            turn = rotation_matrix([augment["misalignment_degrees"]] * 3, spacing_mm)
            extent = np.abs(turn) @ extent + 2 * augment["misalignment_mm"] / spacing_mm
        needed = np.maximum(needed, extent)
    # Between the angles that were tried, and a voxel more on either side to interpolate with.
    needed = np.ceil(needed * 1.02).astype(int) + 3
    return tuple(map(int, np.maximum(np.minimum(needed, largest), patch)))


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


def draw_augmentation(
    generator: np.random.Generator, augment: Mapping, spacing_mm, images=(), channels: int = 0
) -> dict:
    """Random parameters of one element's augmentation (paper section 3.2, and nnU-Net's).

    Args:
        generator: source of randomness.
        augment: the settings of that name, see configs/hecktor.py.
        spacing_mm: (3,) voxel size of the case.
        images: names of the images; those after the first may be moved against it.
        channels: of the network's input, whose intensities may be changed.

    Returns:
        rotation (3, 3) float32, scaled; mirror (3,) bool, mixup and on_tumour, bools; patch_place
        (3,) and patch_pick () float32, see `patch_start`. Where the settings ask for them:
        off_centre (3,), by how much of the field the middle of what is left of it is moved;
        misalignment, image -> (3, 3), and shift, image -> (3,) voxels; intensity, see
        `isanet_jax.pipeline.intensity.draw_intensity`.
    """
    angles = np.zeros(3)
    if generator.random() < augment["rotation_probability"]:
        axes = np.arange(3)
        if not augment["rotation_of_all_axes"]:
            axes = generator.permutation(3)[: generator.integers(1, 4)]
        largest = np.array(as_three(augment["rotation_degrees"]), float)[axes]
        angles[axes] = generator.uniform(-largest, largest)
    mirror = np.zeros(3, bool)
    if generator.random() < augment["mirror_probability"]:
        mirror = generator.random(3) < 0.5
    on_tumour = generator.random() < augment["tumour_patch_probability"]
    drawn = {
        "rotation": rotation_matrix(angles, spacing_mm),
        "mirror": mirror,
        "mixup": generator.random() < augment["mixup_probability"],
        "patch_place": generator.random(3, np.float32),
        "patch_pick": np.float32(generator.random(dtype=np.float32)),
        "on_tumour": on_tumour,
    }
    # What came later is drawn last, and only where it is asked for: the others stay as they were.
    if augment["scaling_probability"]:
        is_scaled = generator.random() < augment["scaling_probability"]
        scale = generator.uniform(*augment["scaling_range"])
        drawn["rotation"] *= np.float32(scale if is_scaled else 1.0)
    if augment["misalignment_probability"]:
        drawn |= _draw_misalignment(generator, augment, np.asarray(spacing_mm), images[1:])
    if intensity.is_asked(augment):
        drawn["intensity"] = intensity.draw_intensity(generator, augment, channels)
    if augment["crop_probability"]:
        # A random resized crop (Szegedy et al. 2015), each side of the field on its own.
        is_cropped = generator.random() < augment["crop_probability"]
        low, high = generator.uniform(0, augment["crop_share"], (2, 3)) * is_cropped
        drawn["rotation"] *= (1 - low - high).astype(np.float32)
        drawn["off_centre"] = ((low - high) / 2).astype(np.float32)
    return drawn


def _draw_misalignment(generator, augment, spacing_mm, images):
    """A small rigid motion of each of the images."""
    is_drawn = generator.random() < augment["misalignment_probability"]
    degrees, mm = (augment[f"misalignment_{name}"] * is_drawn for name in ("degrees", "mm"))
    turns, shifts = {}, {}
    for name in images:
        turns[name] = rotation_matrix(generator.uniform(-1, 1, 3) * degrees, spacing_mm)
        shifts[name] = (generator.uniform(-1, 1, 3) * mm / spacing_mm).astype(np.float32)
    return {"misalignment": turns, "shift": shifts}


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


def patch_start(shape, patch, place, voxels, pick: float) -> np.ndarray:
    """Where a patch of a case begins: anywhere, or around a voxel of a class.

    Args:
        shape, patch: (3,) voxels of the case and the patch.
        place: (3,) in [0, 1), where the patch lies between the case's ends.
        voxels: list of (n, 3), of each class that the case has.
        pick: below 0, or without a class: use `place`; in [0, 1): centre on that share of the
            voxels of all classes in a row, each class having the same share (nnU-Net), as far as
            the patch stays in the case.

    Returns:
        (3,) int, below 0 where the case is smaller than the patch: it is then in the middle.
    """
    room = np.array(shape) - patch
    start = np.floor(place * (room + 1)).astype(int)
    if pick >= 0 and voxels:
        index, share = divmod(pick * len(voxels), 1)
        of_class = voxels[int(index)]
        start = of_class[int(share * len(of_class))] - np.array(patch) // 2
        start = np.clip(start, 0, np.maximum(room, 0))
    return np.where(room < 0, room // 2, start)


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


def statistics_of(case, kinds: Mapping[str, str], pet_scale: str) -> dict:
    """What the images of a case are standardised by: name -> mean and standard deviation.

    Args:
        case: `isanet_jax.cases.case.Case`.
        kinds: name -> kind.
        pet_scale: `case`, by its own; `suv`, every PET alike.
    """
    fixed = {name for name, kind in kinds.items() if kind == "pet" and pet_scale == "suv"}
    return {name: (0.0, _SUV) if name in fixed else case.statistics[name] for name in kinds}


def _scale(kind, statistics, of_volume):
    """(subtracted, factor) that the host standardises an image by; None: the device does it."""
    if kind == "ct" or (kind == "pet" and of_volume):
        return None
    mean, sd = map(np.float32, statistics)
    return mean, 1 / np.sqrt(sd * sd + np.float32(1e-5))


def standardised(
    images: Mapping[str, np.ndarray],
    statistics: Mapping[str, tuple[float, float]],
    kinds: Mapping[str, str],
    *,
    of_volume: bool,
) -> tuple[dict[str, np.ndarray], dict[str, np.float32]]:
    """Images as the device is given them, and what they are beyond their fields.

    CT stays HU, and PET of whole volumes SUV: see `isanet_jax.pipeline.augment.normalise`. Others
    have their case's mean subtracted and are divided by its standard deviation.

    Args:
        images: name -> (D, H, W).
        statistics: name -> mean and standard deviation, see
            `isanet_jax.cases.prepare.image_statistics`.
        kinds: name -> kind.
        of_volume: whether whole volumes are given.

    Returns:
        name -> float32 of the image's shape, and name -> () float32.
    """
    found, outside = {}, {}
    for name, kind in kinds.items():
        x, beyond = images[name].astype(np.float32), np.float32(KINDS[kind].outside)
        if scale := _scale(kind, statistics[name], of_volume):
            mean, factor = scale
            x, beyond = (x - mean) * factor, (beyond - mean) * factor
        found[name], outside[name] = x, beyond
    return found, outside


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
    # Where what is read begins; the patch, not rotated, is to be within it, too.
    origin = np.floor(start + middle - reach).astype(int) - 1
    origin = np.minimum(np.clip(origin, 0, np.maximum(shape - read, 0)), start)
    if centre is not None:
        origin = np.round(start + middle - centre).astype(int)
    needed = origin, np.minimum(np.ceil(start + middle + reach).astype(int) + 2, origin + read)
    low = np.clip(origin, 0, shape)
    box = low, np.clip(needed[1], low, shape)
    case = stored.read(*box)
    return _part(case, inputs, (start + middle - origin).astype(np.float32), box, needed)


def _halves(mask):
    """Of a mask's voxels 2: twice the share of a class, so that a mixed label is whole, too."""
    return mask.view(np.uint8) << np.uint8(1)


def _part(case, inputs, centre, box, needed) -> _Element:
    """A part of a case in arrays of the size that is read.

    Args:
        case: what was read.
        inputs: see `Inputs`.
        centre: of the patch, in what is read.
        box: (first, one beyond the last) voxel of the case that was read.
        needed: the same of what the patch is made of, and may reach beyond the case. Nothing else
            is written: of large arrays, pages that are not touched cost nothing.
    """
    origin = needed[0]
    start, stop, end = box[0] - origin, box[1] - origin, needed[1] - origin
    inside = tuple(map(slice, start, stop))

    def placed(data, value, dtype):
        out = np.zeros(inputs.read, dtype)
        if value:
            for axis in range(3):
                for beyond in (slice(0, start[axis]), slice(stop[axis], end[axis])):
                    out[(*[slice(None)] * axis, beyond)] = value
        out[inside] = data
        return out

    images, outside = {}, {}
    known = statistics_of(case, inputs.images, inputs.pet_scale)
    for name, kind in inputs.images.items():
        beyond, scale = np.float32(KINDS[kind].outside), _scale(kind, known[name], False)
        if scale:
            beyond = (beyond - scale[0]) * scale[1]
        images[name], outside[name] = placed(case.images[name], beyond, np.float32), beyond
        if scale:
            part = images[name][inside]
            part -= scale[0]
            part *= scale[1]
    masks = case.masks(inputs.classes)
    labels = {name: placed(_halves(mask), 0, np.uint8) for name, mask in masks.items()}
    ignored = placed(case.ignored, 0, np.uint8) if inputs.has_ignored else None
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
    augment: dict,
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
        augment: see `draw_augmentation`.
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
    probability = augment["tumour_patch_probability"]

    @functools.cache
    def stored(index):
        return StoredCase(cohort.path(cases[index]), inputs.images)

    @functools.cache
    def voxels(index):
        found = [stored(index).samples(name) for name in inputs.classes]
        return [of_class for of_class in found if len(of_class)]

    def read(index, drawn, pick, centre=None):
        start = None
        if inputs.is_patch:
            place = drawn["patch_place"], voxels(index), pick
            start = patch_start(stored(index).shape, inputs.shape, *place)
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


# Of what is drawn, what the device is given.
_GIVEN = ("rotation", "mirror", "misalignment", "shift", "intensity")


def batch_shapes(batch: int, inputs: Inputs) -> dict:
    """The arrays of a batch of `training_data`, as nested dicts of `jax.ShapeDtypeStruct`."""

    def array(*shape, dtype=np.float32):
        return jax.ShapeDtypeStruct((batch, *shape), dtype)

    mask = array(*inputs.read, dtype=np.uint8)
    asked = {}
    if inputs.is_misaligned:
        moved = tuple(inputs.images)[1:]
        asked["misalignment"] = dict.fromkeys(moved, array(3, 3))
        asked["shift"] = dict.fromkeys(moved, array(3))
    if inputs.has_intensity:
        asked["intensity"] = intensity.parameter_shapes(batch, inputs.channels)
    return asked | {
        "images": dict.fromkeys(inputs.images, array(*inputs.read)),
        "labels": dict.fromkeys(inputs.classes, mask),
        **({"ignored": mask} if inputs.has_ignored else {}),
        "outside": dict.fromkeys(inputs.images, array()),
        "rotation": array(3, 3),
        "mirror": array(3, dtype=np.bool_),
        "centre": array(3),
        "case": array(dtype=np.int32),
        "partner": array(dtype=np.int32),
    }


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
        lambda case: (case, read_case(cohort.path(case), images))
    )
    return dataset.to_iter_dataset(_READ)
