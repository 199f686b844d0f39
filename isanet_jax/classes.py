"""The classes of a label by name, and how a voxel says which of them it belongs to.

A voxel may belong to several classes (nnU-Net's regions), so a label holds a bit for each: of the
k-th class, 2^k. The bit after the last class's marks voxels that losses and metrics leave out.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from isanet_jax.errors import ConfigError

CLASS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}")
MOST_CLASSES = 15  # and `ignore`: the bits of uint16
TUMOUR = "tumour"


class Code(NamedTuple):
    """What a class is, in the words of a terminology: DICOM PS3.3 table 8.8-1.

    Attributes:
        scheme: the terminology, as SCT (SNOMED CT).
        value: the concept in it.
        meaning: in words.
    """

    scheme: str
    value: str
    meaning: str


NEOPLASM = Code("SCT", "108369006", "Neoplasm")
_CODE_LENGTHS = Code(16, 16, 64)


def parse_code(text: str) -> Code:
    """Reads "SCT:86049000:Neoplasm, Primary". Raises ConfigError."""
    parts = [part.strip() for part in text.split(":", 2)]
    if len(parts) != 3 or not all(
        0 < len(part) <= most and part.isprintable() and "\\" not in part
        for part, most in zip(parts, _CODE_LENGTHS, strict=True)
    ):
        raise ConfigError(
            f"the code {text!r} is not understood; give SCHEME:VALUE:MEANING, as in "
            "SCT:86049000:Neoplasm, Primary"
        )
    return Code(*parts)


@dataclasses.dataclass(frozen=True)
class Classes:
    """What the values of a label stand for.

    Attributes:
        values: name -> the values that belong to the class, in the order of the network's logits.
        ignore: values of voxels that nothing is known of.
        others: values that are known and of no class (HECKTOR: nodes beside the primary).
        codes: name -> what DICOM segments say that it is, where it is not just a neoplasm.

    Raises:
        ConfigError: no classes, too many, a name or a value that cannot be one.
    """

    values: Mapping[str, tuple[int, ...]] = dataclasses.field(
        default_factory=lambda: {TUMOUR: (1,)}
    )
    ignore: tuple[int, ...] = ()
    others: tuple[int, ...] = ()
    codes: Mapping[str, Code] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not 1 <= len(self.values) <= MOST_CLASSES:
            raise ConfigError(f"{len(self.values)} classes; give 1 to {MOST_CLASSES}")
        for name, values in self.values.items():
            if not CLASS_NAME.fullmatch(name):
                raise ConfigError(
                    f"a class cannot be called {name!r}; use at most 31 letters, digits, '_', '-' "
                    "and '.'"
                )
            if not values or 0 in values:
                raise ConfigError(
                    f"the class {name} has the values {list(values)}; give at least one, and not "
                    "0, which is no class"
                )
            if both := set(values) & {*self.ignore, *self.others}:
                raise ConfigError(
                    f"the value {min(both)} is of the class {name}, and is to be left out, too"
                )
        if unknown := self.codes.keys() - self.values.keys():
            raise ConfigError(
                f"a code for {min(unknown)}, not a class; there are {', '.join(self.values)}"
            )
        if len(self.values) > 1:
            self._check_order()

    def _check_order(self):
        for name, value in self.written.items():
            if value is not None:
                continue
            wider_first = dict(sorted(self.values.items(), key=lambda item: -len(item[1])))
            lost = [n for n, value in _written(wider_first).items() if value is None]
            if lost:
                parts = ", ".join(self._parts(lost[0]))
                advice = f"Leave out {lost[0]}, which is {parts} together"
            else:
                advice = f"Name wider classes first: {', '.join(wider_first)}"
            raise ConfigError(
                f"the class {name} is within classes that are named after it: a mask in which "
                f"each voxel has one value cannot show it. {advice}"
            )

    def _parts(self, name):
        own = set(self.values[name])
        return [other for other in self.values if other != name and own & set(self.values[other])]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, in their order."""
        return tuple(self.values)

    @property
    def written(self) -> dict[str, int | None]:
        """The value that a predicted mask has for each class; later ones are drawn over earlier.

        Of a single class 1, whatever its values were.
        """
        return {self.names[0]: 1} if len(self.values) == 1 else _written(self.values)

    def drawn(self, masks: Mapping[str, np.ndarray]) -> np.ndarray:
        """The label of masks: of each voxel the value of the last class that has it, else 0.

        Args:
            masks: class -> bool.
        """
        written = self.written
        largest = max(written.values())
        out = np.zeros(next(iter(masks.values())).shape, np.uint8 if largest < 256 else np.uint16)
        for name in self.names:
            out[masks[name]] = written[name]
        return out

    def as_drawn(self, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The masks as one value for each voxel says them: what every format and every score has.

        A voxel of a class that is part of another one belongs to that, too, whatever its own
        probability or rules said; one of two classes that have no voxel in common belongs to the
        last.
        """
        if len(self.values) == 1:
            return dict(masks)
        label = self.drawn(masks)
        return {name: np.isin(label, self.values[name]) for name in self.names}

    @property
    def dtype(self) -> type:
        """The type of a label of bits."""
        return np.uint8 if len(self.values) < 8 else np.uint16

    def bits(self, label: np.ndarray) -> np.ndarray:
        """The bits of a label of values; those that are neither a class's nor ignored have none."""
        out = np.zeros(label.shape, self.dtype)
        for index, values in enumerate((*self.values.values(), self.ignore)):
            if values:
                out |= (np.isin(label, values).astype(self.dtype) << index).astype(self.dtype)
        return out

    def any_of(self, bits: np.ndarray) -> np.ndarray:
        """Returns the voxels of a label of bits that belong to any class, bool."""
        return bits & self.dtype((1 << len(self.values)) - 1) > 0

    def to_json(self) -> dict:
        """Returns them as the manifest has them."""
        return {
            "classes": {name: list(values) for name, values in self.values.items()},
            "ignore": list(self.ignore),
            "others": list(self.others),
            **({"codes": {n: list(c) for n, c in self.codes.items()}} if self.codes else {}),
        }


def _written(values):
    """Class -> its least value that no later class has; None where each is another's, too."""
    names = list(values)
    later = [{v for after in names[i + 1 :] for v in values[after]} for i in range(len(names))]
    return {
        name: min((v for v in values[name] if v not in covered), default=None)
        for name, covered in zip(names, later, strict=True)
    }


def class_mask(bits: np.ndarray, index: int) -> np.ndarray:
    """Returns the voxels of a label of bits that belong to the class of an index, bool."""
    return (bits >> index) & 1 > 0


def class_masks(bits: np.ndarray, settings: Mapping, names) -> dict[str, np.ndarray]:
    """Name -> bool, of a label of bits and the settings (`Classes.to_json`) that it was made by."""
    every = list(settings["classes"])
    return {name: class_mask(bits, every.index(name)) for name in names}


def ignored_mask(bits: np.ndarray, settings: Mapping) -> np.ndarray | None:
    """Returns the voxels of such a label that nothing is known of, bool; None if there are none."""
    return class_mask(bits, len(settings["classes"])) if settings["ignore"] else None


def split_classes(texts) -> dict[str, tuple[str, ...]]:
    """Reads ("gtvp=1", "gtvn=2,3"): name -> words, values or names. Raises ConfigError."""
    classes = {}
    for text in texts:
        name, _, values = text.partition("=")
        words = tuple(word.strip() for word in values.split(","))
        if not all(words) or name in classes:
            raise ConfigError(
                f"the class {text!r} is not understood, or named twice; give NAME=VALUE[,VALUE], "
                "as in gtvp=1 gtvn=2"
            )
        classes[name] = words
    return classes


def class_values(classes: Mapping[str, tuple]) -> dict[str, tuple[int, ...]]:
    """The words of classes as the values that they must be. Raises ConfigError."""
    try:
        return {name: tuple(int(word) for word in words) for name, words in classes.items()}
    except ValueError as error:
        listed = " ".join(f"{name}={','.join(map(str, words))}" for name, words in classes.items())
        raise ConfigError(
            f"the classes {listed} are not understood; give each its values in the label, as in "
            "gtvp=1 gtvn=2 (names are for regions of DICOM)"
        ) from error


def parse_classes(texts) -> dict[str, tuple[int, ...]]:
    """Reads ("gtvp=1", "gtvn=2,3"): name -> values. Raises ConfigError."""
    return class_values(split_classes(texts))
