"""What a network's description must be, where it comes from a file that anybody may have made.

Everything that is read of `model.json` is declared here, as a config's settings are declared in
`isanet_jax.settings.table`; what is not declared is refused.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from isanet_jax.cases.grid import FITS, as_three
from isanet_jax.cases.preparation import settings_of
from isanet_jax.classes import CLASS_NAME
from isanet_jax.errors import ConfigError
from isanet_jax.kinds import IMAGE_NAME, KINDS
from isanet_jax.network import systems
from isanet_jax.runs.seen import BEFORE, ROLES
from isanet_jax.settings import Config, read_stored
from isanet_jax.settings.declare import Flag, Number, OneOf, Text
from isanet_jax.settings.table import CT_WINDOWS
from isanet_jax.volume import VOXEL_MM

_MOST = 10**6  # entries of a list


class Matching(NamedTuple):
    """A text of a certain form."""

    pattern: re.Pattern
    what: str

    def problem(self, value):
        fits = isinstance(value, str) and self.pattern.fullmatch(value)
        return None if fits else f"it must be {self.what}"


class Maybe(NamedTuple):
    """None, or something."""

    of: object

    def problem(self, value):
        return None if value is None else self.of.problem(value)


class Listed(NamedTuple):
    """A list.

    Attributes:
        of: what each of it is.
        count: how many there are; None: any number.
    """

    of: object
    count: int | None = None

    def problem(self, value):
        if not isinstance(value, list) or len(value) > _MOST:
            return "it must be a list"
        if self.count is not None and len(value) != self.count:
            return f"it must be a list of {self.count}"
        problems = (self.of.problem(one) for one in value)
        return next((f"{number}: {p}" for number, p in enumerate(problems) if p), None)


class Mapped(NamedTuple):
    """An object of any keys of a form.

    Attributes:
        key: what each key is.
        of: what each value is.
    """

    key: object
    of: object

    def problem(self, value):
        if not isinstance(value, dict) or len(value) > _MOST:
            return "it must be an object"
        for key, one in value.items():
            if problem := self.key.problem(key):
                return f"the key {key!r}: {problem}"
            if problem := self.of.problem(one):
                return f"{key}: {problem}"
        return None


class Object(NamedTuple):
    """An object of known keys.

    Attributes:
        needed: key -> what its value is.
        more: the same, of keys that may be lacking.
    """

    needed: Mapping[str, object]
    more: Mapping[str, object]

    def problem(self, value):
        if not isinstance(value, dict):
            return "it must be an object"
        if lacking := sorted(self.needed.keys() - value.keys()):
            return f"{lacking[0]} is lacking"
        every = {**self.needed, **self.more}
        if unknown := sorted(map(str, value.keys() - every.keys())):
            return f"{unknown[0]!r} is unknown"
        problems = ((key, every[key].problem(one)) for key, one in value.items())
        return next((f"{key}: {problem}" for key, problem in problems if problem), None)


class _CtWindow(NamedTuple):
    """Four numbers, see `isanet_jax.kinds.CtWindow`."""

    def problem(self, value):
        if problem := Listed(Number(-1e5, 1e5), 4).problem(value):
            return problem
        low, high, _, divided = value
        return None if low < high and divided > 0 else "it must be [low, high, subtracted, above 0]"


class _Settings(NamedTuple):
    """Settings of a run, of any version."""

    def problem(self, value):
        try:
            read_stored(value)
        except ConfigError as error:
            return str(error)
        except (AttributeError, TypeError, KeyError) as error:
            return f"{type(error).__name__}: {error}"
        return None


_COUNT = Number(0, 10**9, whole=True)
_VALUE = Number(-(2**31), 2**31, whole=True)
_MM = Number(0.0, 1e6)
_DIGEST = Matching(re.compile("[0-9a-f]{64}"), "a SHA-256")
_CLASS = Matching(CLASS_NAME, "the name of a class")
_IMAGE = Matching(IMAGE_NAME, "the name of an image")
_IDENTITIES = Listed(Object({}, {"patient": _DIGEST, "content": _DIGEST, "file": _DIGEST}))


class _Seen(NamedTuple):
    """What the scans were like that were trained on, see `isanet_jax.cases.ranges.scan_ranges`."""

    def problem(self, value):
        if value == {}:  # of before it was kept
            return None
        both = Listed(Listed(_MM, 3), 2)
        of_value = Listed(Number(-1e30, 1e30), 2)
        needed, more = {"spacing_mm": both, "field_mm": both}, {}
        if isinstance(value, dict) and "ct_hu" in value:  # of before there were other images
            needed |= {"ct_hu": of_value, "pet_suv": of_value}
        else:
            needed["largest"] = Mapped(_IMAGE, of_value)
        return Object(needed, more).problem(value)


_PREPARATION = Object(
    {
        "size": Maybe(Number(1, 4096, whole=True, lengths=(3,), or_one=True)),
        "fit": OneOf(FITS),
        "spacing_mm": Number(*VOXEL_MM, lengths=(3,), or_one=True),
    },
    {
        "images": Mapped(_IMAGE, OneOf(tuple(KINDS))),
        "classes": Mapped(_CLASS, Listed(_VALUE)),
        **dict.fromkeys(("ignore", "others", "label_values", "other_values"), Listed(_VALUE)),
        "codes": Mapped(_CLASS, Listed(Text(), 3)),
        "region": OneOf(("given", "head")),
    },
)
DESCRIPTION = Object(
    {
        "config": _Settings(),
        "preparation": _PREPARATION,
        "progress": Object({"best_dsc": Maybe(Number(-1.0, 1.0)), "best_epoch": _COUNT}, {}),
        "split": Object(dict.fromkeys(ROLES, Listed(Text())), {}),
        "counts": Object(dict.fromkeys(ROLES, _COUNT), dict.fromkeys(BEFORE, _COUNT)),
        "weights": Matching(re.compile(r"weights\d{1,4}\.safetensors"), "the name of weights"),
        "sha256": _DIGEST,
    },
    {
        "seen": _Seen(),
        "ct_window": _CtWindow(),
        "ct_windows": Listed(_CtWindow()),
        "system_version": Number(1, 10**6, whole=True),
        "identities": Object(dict.fromkeys((*ROLES, *BEFORE), _IDENTITIES), {}),
        "overlap": Object({}, dict.fromkeys(ROLES, _COUNT)),
    },
)
_RULE = Object(
    {},
    {
        "threshold": Number(0.0, 1.0, is_above=True),
        "smallest_ml": Number(0.0, 1e6),
        "least_suv_max": Number(0.0, 1e6),
        "largest_only": Flag(),
    },
)
MODEL = Object(
    {
        "format": Number(1, 1, whole=True),
        "networks": Listed(DESCRIPTION),
        "rules": Mapped(_CLASS, _RULE),
    },
    {"program": Matching(re.compile(r"[\w .+-]{1,100}"), "a program's name")},
)


def check_model(model: Mapping) -> None:
    """Whether what a model's file says can be meant.

    Raises:
        ValueError: names the place, what is wrong there, and what is wanted.
    """
    if problem := MODEL.problem(model):
        raise ValueError(problem)
    networks = model["networks"]
    if not networks:
        raise ValueError("it describes no network")
    if len({network["weights"] for network in networks}) < len(networks):
        raise ValueError("two of its networks name the same weights")
    for number, network in enumerate(networks):
        config = read_stored(network["config"])
        for problem in _contradictions(config, network):
            raise ValueError(f"networks: {number}: {problem}")
        if config.model.name in systems.SYSTEMS:  # else whoever loads it says so
            systems.of_config(config)


def _contradictions(config: Config, network: Mapping):
    """What the settings of a network and what else is said of it say differently."""
    prepared, data = settings_of(network["preparation"]), config.data
    if data.fit != prepared.fit:
        yield f"data.fit is {data.fit} and its cases' {prepared.fit}"
    if not data.is_whole and as_three(data.size) != as_three(prepared.size):
        yield f"data.size is {data.size} and its cases' {prepared.size}"
    if data.fit != "resize" and as_three(data.spacing_mm) != as_three(prepared.spacing_mm):
        yield f"data.spacing_mm is {data.spacing_mm} and its cases' {prepared.spacing_mm}"
    lacking = [name for name in data.classes if name not in prepared.classes.values]
    if lacking:
        yield f"its cases have no class {lacking[0]}"
    if any(prepared.images.get(name) != kind for name, kind in data.kinds.items()):
        yield f"its images are {dict(data.kinds)} and its cases' {dict(prepared.images)}"
    windows, fixed = network.get("ct_windows"), CT_WINDOWS[data.ct_window]
    if windows and fixed and [tuple(window) for window in windows] != [*map(tuple, fixed)]:
        yield f"ct_windows is {windows}, and data.ct_window {data.ct_window}"
    if strange := network.get("seen", {}).get("largest", {}).keys() - prepared.images.keys():
        yield f"seen has the image {min(strange)}, and its cases have none"
