"""The kinds of images that a case may hold: their units, their surroundings, and their limits."""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from isanet_jax.errors import ConfigError, DataError
from isanet_jax.volume import Volume

AIR_HU = -1024.0
# SUV of the hottest organ (bladder) stays in the hundreds; activity in Bq/ml is in the thousands.
MAX_SUV = 1000.0
_LEAST_SUV = -50.0  # noise goes below 0; a CT goes to -1024
_LEAST_RANGE_HU = 50.0  # the noise of one tissue alone spans more
_LARGEST = 1e30  # of values in no unit: beyond it, sums of squares overflow
IMAGE_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
# Words that files and tables use for something else.
_RESERVED = (
    *("case", "patient", "centre", "fold", "label", "mask", "meta", "label_reference", "samples"),
    *("x1", "x2", "y1", "y2", "z1", "z2"),
)


class CtWindow(NamedTuple):
    """HU -> (clipped to [low, high] - subtracted) / divided."""

    low: float
    high: float
    subtracted: float
    divided: float


WIDE = CtWindow(-1024.0, 1024.0, 0.0, 1024.0)  # Eq. 16
SOFT_TISSUE = CtWindow(-160.0, 240.0, 40.0, 200.0)  # window 400 HU wide, level 40


class Kind(NamedTuple):
    """What all images of a kind have in common.

    Attributes:
        label: how messages call it.
        unit: of its values, "" where they have none.
        outside: value beyond the field of an image.
        dtype: that its values are stored in.
        check: (image, where) -> warnings; raises DataError on values that are none of this kind.
            `where` has `case` and `file`, for the message.
        body: values -> which of them are the patient's, bool.
        doubts: image -> what is possible and unusual about its values.
    """

    label: str
    unit: str
    outside: float
    dtype: type
    check: Callable[[Volume, dict], list[str]]
    body: Callable[[np.ndarray], np.ndarray]
    doubts: Callable[[Volume], list[str]] = lambda _: []


def _check_ct(ct, where):
    low, high = float(ct.data.min()), float(ct.data.max())
    if high - low < _LEAST_RANGE_HU or low >= 0 or high <= AIR_HU:
        raise DataError(
            f"CT values from {low:g} to {high:g}",
            **where,
            wanted="HU, where air is near -1000 and water 0",
            action="Export the CT with its rescale slope and intercept applied, not as a picture "
            "of grey values, and not scaled for another network",
        )
    return []


def _doubts_of_ct(ct):
    doubts = []
    if ct.data.max() < 200:
        doubts.append(f"CT reaches {ct.data.max():.0f} HU only: no bone in the field?")
    if ct.data.min() > -900:
        doubts.append(f"CT begins at {ct.data.min():.0f} HU: no air in the field?")
    return doubts


def _check_pet(pet, where):
    low, high = float(pet.data.min()), float(pet.data.max())
    if low < _LEAST_SUV:
        raise DataError(
            f"PET values from {low:g} to {high:g}",
            **where,
            wanted="body-weight SUV, which is hardly below 0",
            action="This looks like HU: is it a CT?",
        )
    if high > MAX_SUV or high <= 0 or low == high:
        raise DataError(
            f"PET values from {low:g} to {high:g}",
            **where,
            wanted=f"body-weight SUV, above 0 and below {MAX_SUV:g}",
            action="This looks like Bq/ml: multiply by weight in g over decay-corrected dose in Bq"
            if high > MAX_SUV
            else "The image is empty",
        )
    return [f"PET has negative SUV (down to {low:.3g})"] if low < -0.1 else []


def _doubts_of_pet(pet):
    if pet.data.max() < 1.5:
        return [f"PET reaches SUV {pet.data.max():.2f} only: is it SUV?"]
    return []


def _check_values(label):
    def check(image, where):
        low, high = float(image.data.min()), float(image.data.max())
        if low == high or max(abs(low), abs(high)) > _LARGEST:
            raise DataError(
                f"{label} values from {low:g} to {high:g}",
                **where,
                wanted="an image",
                action="Export it again" if low == high else "Scale it",
            )
        return []

    return check


def _is_bright(values):
    """A tenth of the bright voxels' value and more: tissue, in images without a unit."""
    return values > 0.1 * np.percentile(values, 99)


KINDS = {
    "ct": Kind("CT", "HU", AIR_HU, np.int16, _check_ct, lambda hu: hu > -300, _doubts_of_ct),
    "pet": Kind("PET", "SUV", 0.0, np.float32, _check_pet, lambda suv: suv > 0.15, _doubts_of_pet),
    "mr": Kind("MR", "", 0.0, np.float32, _check_values("MR"), _is_bright),
    "other": Kind("image", "", 0.0, np.float32, _check_values("image"), _is_bright),
}
_KIND_OF_WORD = {
    "ct": "ct", "pet": "pet", "pt": "pet", "suv": "pet", "mr": "mr", "mri": "mr", "flair": "mr",
    "dwi": "mr", "adc": "mr", "stir": "mr",
}  # fmt: skip


def kind_of(name: str) -> str:
    """The kind that an image's name says, as `pet`, `mr_t1`, `t2` do; else `other`."""
    word = name.partition("_")[0]
    return "mr" if re.match(r"t[12]", word) else _KIND_OF_WORD.get(word, "other")


def parse_images(text: str) -> dict[str, str]:
    """Reads "ct,pet,mr_t1" or "ct,pet,uptake:pet": name -> kind, in this order.

    The first image is the one on whose grid predictions and scores are.

    Raises:
        ConfigError: a name that cannot be one, is given twice, or a kind that there is none of.
    """
    images = {}
    for part in text.split(","):
        name, colon, kind = part.strip().partition(":")
        if not IMAGE_NAME.fullmatch(name) or name in _RESERVED:
            raise ConfigError(
                f"the image {name!r} cannot be called so; use small letters, digits and '_', and "
                f"none of {', '.join(_RESERVED)}"
            )
        if name in images:
            raise ConfigError(f"the image {name!r} is named twice")
        images[name] = kind if colon else kind_of(name)
        if images[name] not in KINDS:
            raise ConfigError(
                f"the image {name!r} is of the kind {kind!r}; choose from {', '.join(KINDS)}"
            )
    return images


def pet_name(kinds) -> str | None:
    """The name of the (first) PET among images, name -> kind; None: there is none."""
    return next((name for name, kind in kinds.items() if kind == "pet"), None)


def shown(name: str, kind: str) -> str:
    """How messages call an image: `CT`, `PET`, and others by their name, too: `MR t1`."""
    label = KINDS[kind].label
    return label if name == kind else f"{label} {name.removeprefix(f'{kind}_')}"
