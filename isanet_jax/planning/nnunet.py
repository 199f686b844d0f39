"""nnU-Net's planner (2.8.1): patch, batch and topology of its networks from a cohort's geometry.

Isensee et al. 2021, Nature Methods 18, and 2024 (arXiv 2404.09556) for the residual presets. Axes
are D, H, W throughout; nnU-Net puts the coarsest first, and so does this, within.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from isanet_jax.errors import ConfigError

_LEAST_EDGE = 4  # voxels of the coarsest level
_MOST_CHANNELS, _CHANNELS = 320, 32
_LOW_RESOLUTION_SHARE = 0.25  # of the median case, that a patch covers without a coarser stage
_COARSER = 1.03  # by which a coarser stage is sought


class Preset(NamedTuple):
    """A network and the memory that it is planned for.

    Attributes:
        system: of `isanet_jax.network.systems`.
        target: feature-map values of a patch, by which nnU-Net counts memory, of a batch of two.
        covered: share of a cohort's voxels that one batch may hold.
    """

    system: str
    target: float
    covered: float = 1.0


PRESETS = {
    "plain": Preset("nnunet", 560e6, 0.05),  # 8 GB
    "resenc_m": Preset("nnunet_resenc", 680e6),  # 8 GB
    "resenc_l": Preset("nnunet_resenc", 2100e6),  # 24 GB
    "resenc_xl": Preset("nnunet_resenc", 3600e6),  # 40 GB
}
RESIDUAL_BLOCKS = (1, 3, 4, *[6] * 20)


@dataclasses.dataclass(frozen=True)
class Topology:
    """How a network goes down.

    Attributes:
        patch: voxels, a multiple of what is halved.
        strides: of each level, along D, H, W; of the first, ones.
        kernels: of each level's convolutions, 1 or 3 along D, H, W.
    """

    patch: tuple[int, int, int]
    strides: tuple[tuple[int, int, int], ...]
    kernels: tuple[tuple[int, int, int], ...]

    @property
    def divisors(self) -> np.ndarray:
        """(3,) what the patch is a multiple of."""
        return np.prod(self.strides, 0)


class Plan(NamedTuple):
    """What nnU-Net would train.

    Attributes:
        spacing_mm: (3,) along D, H, W.
        topology: patch, strides and kernels.
        batch: cases of a step.
        batch_dice: whether the Dice loss is of a batch; where there is a coarser stage.
        coarser_mm: spacing of nnU-Net's low-resolution stage, which is not made here; None: none.
    """

    spacing_mm: tuple[float, float, float]
    topology: Topology
    batch: int
    batch_dice: bool
    coarser_mm: tuple[float, float, float] | None


def topology(spacing_mm, patch) -> Topology:
    """Halves the axes whose voxels are within a factor of two of the finest, while edges allow.

    Args:
        spacing_mm: (3,) along D, H, W.
        patch: (3,) voxels that are wanted; rounded up to what can be halved.
    """
    spacing, size = np.array(spacing_mm, float), np.array(patch, float)
    strides, kernels = [(1, 1, 1)], []
    kernel = np.ones(3, int)
    while True:
        large = size >= 2 * _LEAST_EDGE
        if not large.any():
            break
        halved = large & (spacing / spacing[large].min() < 2)
        if halved.sum() == 1 and size[halved][0] < 3 * _LEAST_EDGE:
            break
        # An axis is convolved over from the level on at which its voxels are no longer coarse.
        kernel[spacing / spacing.min() < 2] = 3
        strides.append(tuple(int(n) for n in np.where(halved, 2, 1)))
        kernels.append(tuple(int(n) for n in kernel))
        spacing, size = (
            np.where(halved, spacing * 2, spacing),
            np.where(halved, np.ceil(size / 2), size),
        )
    kernels.append((3, 3, 3))
    divisors = np.prod(strides, 0)
    whole = -(-np.asarray(patch) // divisors) * divisors
    return Topology(tuple(int(n) for n in whole), tuple(strides), tuple(kernels))


def feature_values(found: Topology, system: str, outputs: int) -> int:
    """Values of all convolutions' outputs for one patch: nnU-Net's measure of memory.

    Args:
        found: of the network.
        system: `nnunet` or `nnunet_resenc`.
        outputs: channels of the result, the background's with them.
    """
    widths = [min(_CHANNELS * 2**level, _MOST_CHANNELS) for level in range(len(found.strides))]
    voxels = np.prod(found.patch // np.cumprod(found.strides, 0), 1)
    is_residual = system == "nnunet_resenc"
    of_encoder = [0] * len(widths)
    for level, (width, stride) in enumerate(zip(widths, found.strides, strict=True)):
        count = 2 * RESIDUAL_BLOCKS[level] if is_residual else 2
        # A path past the first block is convolved where it changes channels or size.
        narrower = widths[max(level - 1, 0)]
        past = is_residual and (narrower != width or stride != (1, 1, 1))
        of_encoder[level] = (count + past) * width
    stem = widths[0] if is_residual else 0
    of_decoder = [(1 if is_residual else 2) * w + w for w in widths[:-1]]  # and the way up
    return int(
        np.dot(of_encoder, voxels) + np.dot(of_decoder, voxels[:-1]) + (stem + outputs) * voxels[0]
    )


def plan(spacing_mm, shapes, *, classes: int, preset: str = "plain") -> Plan:
    """Plans a cohort as nnU-Net does.

    Args:
        spacing_mm: (3,) along D, H, W, that the cases are resampled to
            (`isanet_jax.cases.spacing.auto_spacing` is nnU-Net's choice).
        shapes: (n, 3) voxels of each case on that grid.
        classes: that are told from the background.
        preset: of `PRESETS`.

    Raises:
        ConfigError: no such preset.
    """
    if preset not in PRESETS:
        raise ConfigError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    chosen, count = PRESETS[preset], len(shapes)
    coarsest = int(np.argmax(spacing_mm))
    order = [coarsest, *[axis for axis in range(3) if axis != coarsest]]
    back = np.argsort(order)
    spacing = np.asarray(spacing_mm, float)[order]
    median = np.median(np.asarray(shapes)[:, order], 0)
    found, batch = _fitted(spacing, median, count, chosen, classes + 1)

    covered = np.prod(found.patch, dtype=float)
    coarser, voxels = spacing.copy(), np.prod(median)
    is_coarser = False
    while covered / voxels < _LOW_RESOLUTION_SHARE:
        fine = coarser.max() / coarser > 2
        coarser = np.where(fine if fine.any() else True, coarser * _COARSER, coarser)
        shape = spacing / coarser * median
        voxels = np.prod(shape)
        less, _ = _fitted(coarser, np.round(shape), count, chosen, classes + 1)
        covered, is_coarser = np.prod(less.patch, dtype=float), True
    # A stage that is hardly coarser is not worth its training.
    is_coarser = is_coarser and np.prod(median) / voxels >= 2

    def in_order(values):
        return tuple(values[axis] for axis in back)

    return Plan(
        in_order([float(s) for s in spacing]),
        Topology(
            in_order(found.patch),
            tuple(in_order(s) for s in found.strides),
            tuple(in_order(k) for k in found.kernels),
        ),
        batch,
        is_coarser,
        in_order([float(s) for s in coarser]) if is_coarser else None,
    )


def _fitted(spacing, median, count, preset, outputs) -> tuple[Topology, int]:
    """The largest patch of about the median case's proportions within the target, and its batch."""
    inverse = 1 / spacing
    wanted = [round(i) for i in inverse * (256**3 / np.prod(inverse)) ** (1 / 3)]
    found = topology(spacing, np.minimum(wanted, median))
    while (values := feature_values(found, preset.system, outputs)) > preset.target:
        patch = np.array(found.patch)
        axis = int(np.argsort(patch / median)[-1])
        # What the smaller patch must be a multiple of: less, where it is halved less often.
        smaller = patch.copy()
        smaller[axis] -= found.divisors[axis]
        patch[axis] -= topology(spacing, smaller).divisors[axis]
        found = topology(spacing, patch)
    batch = round(preset.target / values * 2)
    most = round(np.prod(median) * count * preset.covered / math.prod(found.patch))
    return found, max(min(batch, most), 2)
