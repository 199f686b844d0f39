"""What is random in an element of a batch, drawn on the host: all of it is in the batch then."""

import itertools

import numpy as np

from isanet_jax.cases.grid import as_three
from isanet_jax.pipeline import intensity
from isanet_jax.settings.table import Augment

SCALES = (0.7, 1.4)  # of augment.scaling_probability; above 1 things become smaller (nnU-Net)


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
    generator: np.random.Generator, augment: Augment, spacing_mm, images=(), channels: int = 0
) -> dict:
    """Random parameters of one element's augmentation (paper section 3.2, and nnU-Net's).

    Args:
        generator: source of randomness.
        augment: the settings.
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
    if generator.random() < augment.rotation_probability:
        axes = np.arange(3)
        if not augment.rotation_of_all_axes:
            axes = generator.permutation(3)[: generator.integers(1, 4)]
        largest = np.array(as_three(augment.rotation_degrees), float)[axes]
        angles[axes] = generator.uniform(-largest, largest)
    mirror = np.zeros(3, bool)
    if generator.random() < augment.mirror_probability:
        mirror = generator.random(3) < 0.5
    on_tumour = generator.random() < augment.tumour_patch_probability
    drawn = {
        "rotation": rotation_matrix(angles, spacing_mm),
        "mirror": mirror,
        "mixup": generator.random() < augment.mixup_probability,
        "patch_place": generator.random(3, np.float32),
        "patch_pick": np.float32(generator.random(dtype=np.float32)),
        "on_tumour": on_tumour,
    }
    # What came later is drawn last, and only where it is asked for: the others stay as they were.
    if augment.scaling_probability:
        is_scaled = generator.random() < augment.scaling_probability
        scale = generator.uniform(*SCALES)
        drawn["rotation"] *= np.float32(scale if is_scaled else 1.0)
    if augment.misalignment_probability:
        drawn |= _draw_misalignment(generator, augment, np.asarray(spacing_mm), images[1:])
    if augment.changes_intensity:
        drawn["intensity"] = intensity.draw_intensity(generator, augment, channels)
    if augment.crop_probability:
        # A random resized crop (Szegedy et al. 2015), each side of the field on its own.
        is_cropped = generator.random() < augment.crop_probability
        low, high = generator.uniform(0, augment.crop_share, (2, 3)) * is_cropped
        drawn["rotation"] *= (1 - low - high).astype(np.float32)
        drawn["off_centre"] = ((low - high) / 2).astype(np.float32)
    return drawn


def _draw_misalignment(generator, augment, spacing_mm, images):
    """A small rigid motion of each of the images."""
    is_drawn = generator.random() < augment.misalignment_probability
    degrees, mm = (x * is_drawn for x in (augment.misalignment_degrees, augment.misalignment_mm))
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


def patch_start(shape, patch, place, voxels, pick: float, *, beyond: float = 0.0) -> np.ndarray:
    """Where a patch of a case begins: anywhere, or around a voxel of a class.

    Args:
        shape, patch: (3,) voxels of the case and the patch.
        place: (3,) in [0, 1), where the patch lies between the case's ends.
        voxels: list of (n, 3), of each class that the case has.
        pick: below 0, or without a class: use `place`; in [0, 1): centre on that share of the
            voxels of all classes in a row, each class having the same share (nnU-Net), as far as
            the patch stays in the case.
        beyond: share of the patch that may lie beyond the case (`augment.patch_beyond`).

    Returns:
        (3,) int; where the case is smaller than the patch, it is in the middle.
    """
    room, margin = np.array(shape) - patch, np.rint(beyond * np.array(patch)).astype(int)
    start = np.floor(place * (room + 2 * margin + 1)).astype(int) - margin
    if pick >= 0 and voxels:
        index, share = divmod(pick * len(voxels), 1)
        of_class = voxels[int(index)]
        start = of_class[int(share * len(of_class))] - np.array(patch) // 2
        start = np.clip(start, -margin, np.maximum(room, 0) + margin)
    return np.where(room < 0, room // 2, start)


def read_shape(patch, augment: Augment, spacings, largest) -> tuple[int, int, int]:
    """Voxels that hold whatever a patch may be rotated, scaled and moved out of.

    Args:
        patch: (3,) of the patch.
        augment: see `draw_augmentation`.
        spacings: (n, 3) mm along D, H, W, of all cases.
        largest: (3,) voxels of the largest case along each axis, of which no more are read
            but for the patch's own size.
    """
    degrees = augment.rotation_degrees if augment.rotation_probability else 0
    degrees = np.array(as_three(degrees))
    scale = max(SCALES[1], 1.0) if augment.scaling_probability else 1.0
    is_moved = augment.misalignment_probability > 0
    if not degrees.any() and scale == 1 and not is_moved:
        return tuple(map(int, patch))
    turns = list(itertools.product(*(np.linspace(-a, a, 9) for a in degrees)))
    needed = np.zeros(3)
    for spacing_mm in np.unique(np.round(spacings, 3), axis=0):
        extents = [np.abs(rotation_matrix(turn, spacing_mm)) @ patch for turn in turns]
        extent = np.max(extents, 0) * scale
        if is_moved:
            # About all axes by the largest angles, which are small: no others need more.
            turn = rotation_matrix([augment.misalignment_degrees] * 3, spacing_mm)
            extent = np.abs(turn) @ extent + 2 * augment.misalignment_mm / spacing_mm
        needed = np.maximum(needed, extent)
    # Between the angles that were tried, and a voxel more on either side to interpolate with.
    needed = np.ceil(needed * 1.02).astype(int) + 3
    return tuple(map(int, np.maximum(np.minimum(needed, largest), patch)))
