"""How cases are prepared: the settings that a manifest keeps."""

import dataclasses
from collections.abc import Mapping

from isanet_jax.cases.grid import (
    as_three,
)
from isanet_jax.classes import TUMOUR, Classes, Code
from isanet_jax.datasets.layout import PET_CT
from isanet_jax.errors import ConfigError
from isanet_jax.kinds import pet_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How cases are made.

    Attributes:
        size: voxels per axis of `crop` and `resize`, one number or three (D, H, W).
        fit: `crop`, `resize` or `whole`, see `isanet_jax.cases.grid.case_grid`.
        spacing_mm: voxel size of `crop` and `whole`, one number or three along the patient's axes
            (right-left, front-back, feet-head).
        images: name -> kind, see `isanet_jax.kinds`. Predictions and scores are on the
            grid of the first.
        classes: what the label's values stand for.
        region: `given`, the scan's box or else the whole field (of `whole`: the body in it);
            `head`, found on the PET where the scan has no box.

    Raises:
        ConfigError: settings that contradict each other.
    """

    size: int | tuple[int, int, int] = 144
    fit: str = "crop"
    spacing_mm: float | tuple[float, float, float] = 1.0
    images: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(PET_CT))
    classes: Classes = dataclasses.field(default_factory=Classes)
    region: str = "given"

    def __post_init__(self):
        if self.region == "head" and not pet_name(self.images):
            raise ConfigError("the head is found on the PET, and there is none among the images")

    def to_json(self) -> dict:
        """Returns them as the manifest has them; those of `whole` without a size."""
        return {
            "size": None if self.fit == "whole" else _short(self.size),
            "fit": self.fit,
            "spacing_mm": _short(self.spacing_mm),
            "images": dict(self.images),
            **self.classes.to_json(),
            "region": self.region,
        }


def _short(value):
    """One number where it is the same for every axis, else a list."""
    three = as_three(value)
    return three[0] if len(set(three)) == 1 else list(three)


def settings_of(stored: Mapping) -> Settings:
    """The settings that a manifest or a checkpoint has, those of older versions too."""
    values = dict(stored)
    if "classes" not in values:  # before there were several
        values["classes"] = {TUMOUR: values.get("label_values", [1])}
        values["others"] = values.get("other_values", [])
    classes = {name: tuple(numbers) for name, numbers in values["classes"].items()}
    spacing = values["spacing_mm"]
    return Settings(
        size=_size_of(values["size"]),
        fit=values["fit"],
        spacing_mm=tuple(spacing) if isinstance(spacing, list) else spacing,
        images=values.get("images", dict(PET_CT)),
        classes=Classes(
            classes,
            tuple(values.get("ignore", ())),
            tuple(values["others"]),
            {name: Code(*code) for name, code in values.get("codes", {}).items()},
        ),
        region=values.get("region", "given"),
    )


def _size_of(stored):
    """Returns the size; a `whole` case has none."""
    if stored is None:
        return Settings.size
    return tuple(stored) if isinstance(stored, list) else stored
