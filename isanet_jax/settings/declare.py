"""How a setting is declared: its default, what it may be, its text, since when, who reads it.

A section of settings is a frozen dataclass whose fields are made by `setting`; everything else that
is said of them anywhere follows from that one line.
"""

import dataclasses
import math
from typing import NamedTuple

from isanet_jax.errors import ConfigError

_META = "setting"
_MANY = (10**6, 10**9, 2**32 - 1, math.inf)  # bounds that are as good as none
_LONGEST = 4096  # characters of a text, and values of a list


class Flag(NamedTuple):
    """True or False."""

    def problem(self, value):
        return None if isinstance(value, bool) else "it must be True or False"

    def __str__(self):
        return "True or False"


class Text(NamedTuple):
    """Any text."""

    def problem(self, value):
        fits = isinstance(value, str) and len(value) <= _LONGEST
        return None if fits else "it must be a text"

    def __str__(self):
        return "a text"


class OneOf(NamedTuple):
    """One of some names."""

    names: tuple[str, ...]

    def problem(self, value):
        fits = isinstance(value, str) and value in self.names
        return None if fits else f"choose one of {', '.join(self.names)}"

    def __str__(self):
        return ", ".join(self.names)


class Number(NamedTuple):
    """A number between two others.

    Attributes:
        least, most: of what it may be.
        whole: whether it must be a whole one.
        is_above: whether the least itself is too little.
        lengths: how many there may be of them in a list; (): it is one number alone.
        or_one: whether it may be one number, too, that counts for all.
    """

    least: float
    most: float
    whole: bool = False
    is_above: bool = False
    lengths: tuple[int, ...] = ()
    or_one: bool = False

    def problem(self, value):
        is_list = isinstance(value, (list, tuple))
        if is_list and len(value) not in self.lengths:
            return f"give {self._counts()}"
        if self.lengths and not is_list and not self.or_one:
            return f"give {self._counts()}"
        for number in value if is_list else (value,):
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if not is_number or not self.least <= number <= self.most or not math.isfinite(number):
                return f"it must be {self._one()}"
            if self.is_above and number == self.least:
                return f"it must be above {self.least:g}"
            if self.whole and number != int(number):
                return f"it must be {self._one()}"
        return None

    def _counts(self):
        words = {2: "two numbers", 3: "three numbers"}
        counts = [words.get(n, f"{n} numbers") for n in self.lengths]
        if len(counts) > 3:
            counts = ["a number for each"]
        return " or ".join((["one number"] if self.or_one else []) + counts)

    def _one(self):
        what = "a whole number" if self.whole else "a number"
        if self.is_above:
            return f"{what} above {self.least:g}"
        return f"{what}, {self.least:g} " + (
            "or more" if self.most in _MANY else f"to {self.most:g}"
        )

    def __str__(self):
        return self._one() + (f"; {self._counts()}" if self.lengths else "")


class Names(NamedTuple):
    """A list of different names."""

    may_be_empty: bool = False

    def problem(self, value):
        if not isinstance(value, (list, tuple)) or len(value) > _LONGEST:
            return "it must be a list of names"
        if not all(isinstance(name, str) and name for name in value):
            return "it must be a list of names"
        if len(set(value)) < len(value) or not (value or self.may_be_empty):
            return "give each name once"
        return None

    def __str__(self):
        return "names, each once"


class Triples(NamedTuple):
    """For each level three of some whole numbers, or nothing."""

    numbers: tuple[int, ...]

    def problem(self, value):
        wanted = f"give each level three of {' and '.join(map(str, self.numbers))}, or none at all"
        if not isinstance(value, (list, tuple)) or len(value) > _LONGEST:
            return wanted
        for three in value:
            if not isinstance(three, (list, tuple)) or len(three) != 3:
                return wanted
            if not all(isinstance(n, int) and n in self.numbers for n in three):
                return wanted
        return None

    def __str__(self):
        return f"for each level three of {' and '.join(map(str, self.numbers))}"


class FoldOrAll(NamedTuple):
    """The number of a fold, or a word that stands for none."""

    word: str

    def problem(self, value):
        is_fold = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**6
        fits = is_fold or value == self.word
        return None if fits else f"give the number of a fold, or {self.word}"

    def __str__(self):
        return f"the number of a fold, or {self.word}"


class Reader(NamedTuple):
    """Who reads a setting, where not every run does.

    Attributes:
        chosen: the setting by which it is decided: `model.name` and `loss.name` are names of a
            registry whose entries say in `reads` what they read.
        values: with which of its values the setting is read; (): the registry says.
    """

    chosen: str
    values: tuple = ()


class Setting(NamedTuple):
    """What is said of a setting.

    Attributes:
        text: what it means, for people.
        allowed: what it may be: a thing with `problem(value)`, which is None or what is wanted.
        since: the day from which on runs have it, as 2026-11-26.
        before: what a run from before it meant by leaving it out; the default where it was that.
        read_by: see `Reader`; None: by every run.
        of_several_types: whether it may be one number or three, or a number or a word.
    """

    text: str
    allowed: object
    since: str
    before: object
    read_by: Reader | None
    of_several_types: bool


FIRST_DAY = "2026-11-24"
_SAME = object()


def setting(
    default, allowed, text: str, *, since: str = FIRST_DAY, before=_SAME, read_by=None
) -> dataclasses.Field:
    """A field of a section; see `Setting`."""
    made = Setting(
        text,
        allowed,
        since,
        default if before is _SAME else before,
        read_by,
        isinstance(allowed, FoldOrAll) or (isinstance(allowed, Number) and allowed.or_one),
    )
    return dataclasses.field(default=default, metadata={_META: made})


def declared(made: type) -> dict[str, Setting]:
    """`section.name` -> setting, of a config and its sections, in their order."""
    found = {}
    for field in dataclasses.fields(made):
        if dataclasses.is_dataclass(field.default_factory):
            inner = declared(field.default_factory)
            found |= {f"{field.name}.{name}": each for name, each in inner.items()}
        else:
            found[field.name] = field.metadata[_META]
    return found


def value_of(values, name: str):
    """The value of `section.name` in nested dicts or dataclasses."""
    for part in name.split("."):
        values = values[part] if isinstance(values, dict) else getattr(values, part)
    return values


def check_value(name: str, value, one: Setting) -> None:
    """Raises ConfigError where a value is not what its setting may be."""
    if problem := one.allowed.problem(value):
        raise ConfigError(f"{name} is {value!r}; {problem}")


def frozen(value):
    """Lists as tuples, at any depth."""
    return tuple(map(frozen, value)) if isinstance(value, (list, tuple)) else value


def thawed(value):
    """Tuples as lists, at any depth, as JSON has them."""
    return list(map(thawed, value)) if isinstance(value, (list, tuple)) else value
