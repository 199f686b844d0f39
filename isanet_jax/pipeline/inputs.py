"""What a step is given of each case, and the arrays of a batch."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from isanet_jax.cases.cohort import Cohort
from isanet_jax.cases.grid import as_three
from isanet_jax.cases.ranges import tumour_window
from isanet_jax.kinds import WIDE, CtWindow
from isanet_jax.pipeline import intensity
from isanet_jax.pipeline.draw import read_shape
from isanet_jax.settings.table import CT_WINDOWS, Config


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
        pet_scale: how SUV do: `case` or `suv`.
        is_misaligned: whether images may be moved against the first.
        has_intensity: whether intensities are augmented, see `isanet_jax.pipeline.intensity`.
        guided_classes: for how many classes clicks are drawn, see `isanet_jax.network.guidance`.
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
    guided_classes: int = 0

    @property
    def of_volume(self) -> bool:
        """Whether the device standardises the PET, by the volume that it is given."""
        return not self.is_patch and self.pet_scale == "case"

    @property
    def channels(self) -> int:
        """The number of channels of the network's input."""
        return sum(len(self.ct_windows) if kind == "ct" else 1 for kind in self.images.values())


def make_inputs(config: Config, cohort: Cohort | None = None, cases=()) -> Inputs:
    """What the steps of a run are given.

    Args:
        config: of the run.
        cohort: its cases; None, to plan: cases of cubic voxels.
        cases: IDs of those that are trained on.
    """
    data, augment = config.data, config.augment
    read, has_ignored = data.input_shape, False
    if cohort is not None:
        has_ignored = bool(cohort.settings["ignore"])
    if data.patch_shape:
        entries = list(cohort.cases.values()) if cohort is not None else []
        spacings = [entry["spacing_mm"] for entry in entries] or [(1.0, 1.0, 1.0)]
        largest = np.max([entry["shape"] for entry in entries], 0) if entries else (10**6,) * 3
        # Planned cubes are of the config's size.
        if not entries and not data.is_whole:
            largest = as_three(data.size)
        read = read_shape(np.array(data.patch_shape), augment, spacings, largest)
    ct_windows = CT_WINDOWS[data.ct_window]
    if ct_windows is None:
        ct_windows = (tumour_window(cohort, cases) if cohort is not None else WIDE,)
    return Inputs(
        data.kinds,
        data.classes,
        data.input_shape,
        read,
        bool(data.patch_shape),
        has_ignored,
        ct_windows,
        data.pet_scale,
        is_misaligned=augment.misalignment_probability > 0,
        has_intensity=augment.changes_intensity,
        guided_classes=data.guided_classes,
    )


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
