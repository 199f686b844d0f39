"""How a probability becomes a mask: rules that `isanet tune` chooses and predictions apply."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage

from isanet_jax.errors import ConfigError
from isanet_jax.volume import CONNECTED_26

THRESHOLD = 0.5
_RANGES = {"threshold": (0.0, 1.0), "smallest_ml": (0.0, 1e6), "least_suv_max": (0.0, 1e6)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules of one class; by default a voxel counts if its probability is at least 0.5.

    Attributes:
        threshold: least probability of a voxel.
        smallest_ml: least volume of a 26-connected component.
        least_suv_max: least SUVmax of a component.
        largest_only: whether the largest component alone is kept.

    Raises:
        ConfigError: a value that no rule can have.
    """

    threshold: float = THRESHOLD
    smallest_ml: float = 0.0
    least_suv_max: float = 0.0
    largest_only: bool = False

    def __post_init__(self):
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not low <= value <= high or (name == "threshold" and not value):
                raise ConfigError(f"{name} is {value!r}; give a number from {low:g} to {high:g}")
        if not isinstance(self.largest_only, bool):
            raise ConfigError(f"largest_only is {self.largest_only!r}; give true or false")

    def mask(self, probability: np.ndarray, voxel_ml: float, suv=None) -> np.ndarray:
        """The mask of a probability.

        Args:
            probability: (I, J, K).
            voxel_ml: volume of a voxel.
            suv: () -> (I, J, K) SUV there, called where a rule needs it; None: there is no PET.

        Raises:
            ConfigError: a rule needs the PET, and there is none.
        """
        mask = probability >= self.threshold
        if not (self.smallest_ml or self.least_suv_max or self.largest_only) or not mask.any():
            return mask
        if self.least_suv_max and suv is None:
            raise ConfigError("the rules have a least SUVmax, and there is no PET")
        parts, count = ndimage.label(mask, CONNECTED_26)
        ml = np.bincount(parts.ravel(), minlength=count + 1)[1:] * voxel_ml
        hottest = np.full(count, np.inf)
        if self.least_suv_max:
            hottest = ndimage.maximum(suv(), parts, np.arange(1, count + 1))
        kept = np.concatenate([[False], self.kept(ml, hottest)])
        return kept[parts]

    def kept(self, ml: np.ndarray, suv_max: np.ndarray) -> np.ndarray:
        """Returns which of a mask's components stay, bool, from their volumes and SUVmax."""
        kept = (ml >= self.smallest_ml) & (suv_max >= self.least_suv_max)
        if self.largest_only and kept.any():
            kept &= np.arange(len(ml)) == np.where(kept, ml, -1).argmax()
        return kept


def read_rules(path, classes) -> dict[str, Rules]:
    """The rules of a file that `isanet tune` wrote, for some classes.

    Raises:
        ConfigError: no such file, one that holds something else, or not of these classes.
    """
    path = Path(path)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["classes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_rules(path, error) from error
    return parse_rules(stored, classes, path)


def parse_rules(stored: Mapping, classes, where) -> dict[str, Rules]:
    """Rules as JSON has them, see `write_form`, for some classes.

    Args:
        stored: class -> its rule's attributes.
        classes: names of those that are needed.
        where: the file, for messages.

    Raises:
        ConfigError: something else, or not of these classes.
    """
    try:
        rules = {name: Rules(**values) for name, values in stored.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise _no_rules(where, error) from error
    if lacking := [name for name in classes if name not in rules]:
        raise ConfigError(
            f"{where} has no rules for {', '.join(lacking)}; it has {', '.join(rules)}"
        )
    return {name: rules[name] for name in classes}


def _no_rules(where, error):
    return ConfigError(
        f"{where} holds no rules ({type(error).__name__}: {error}); make it with isanet tune"
    )


def default_rules(classes) -> dict[str, Rules]:
    """One half for each class."""
    return {name: Rules() for name in classes}


def write_form(rules: Mapping[str, Rules]) -> dict[str, dict]:
    """Returns them as JSON has them."""
    return {name: dataclasses.asdict(rule) for name, rule in rules.items()}
