"""Settings from dicts, as configs, command lines and stored runs have them, to frozen parts."""

import dataclasses
from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict, FieldReference

from isanet_jax.arguments import command, config_name
from isanet_jax.errors import ConfigError
from isanet_jax.settings.declare import check_value, declared, frozen, thawed, value_of
from isanet_jax.settings.table import Config

DECLARED = declared(Config)  # section.name -> Setting
_SECTIONS = {
    field.name: field.default_factory
    for field in dataclasses.fields(Config)
    if field.default_factory is not dataclasses.MISSING
}
# What were settings once, and are now constants: their only value.
_CONSTANTS = {
    "augment.scaling_range": (0.7, 1.4),
    "augment.noise_sigma": (0.0, 0.1),
    "augment.blur_sigma": (0.5, 1.0),
    "augment.brightness_range": (0.75, 1.25),
    "augment.contrast_range": (0.75, 1.25),
    "augment.low_resolution_zoom": (0.5, 1.0),
    "augment.gamma_range": (0.7, 1.5),
}
# The cross-entropy, as it was said before loss.name.
_CROSS_ENTROPY = {"alpha": 0.5, "gamma": 0.0, "focal_weight": 2.0}


def defaults() -> ConfigDict:
    """Every setting with its default, to be changed."""
    config = ConfigDict()
    for name, one in DECLARED.items():
        section, _, key = name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        value = value_of(Config(), name)
        if one.of_several_types:
            value = FieldReference(value, field_type=object)
        (config[section] if section else config)[key] = value
    return config


def read(values: Mapping) -> Config:
    """The settings of a run, each checked by what it may be.

    How they fit each other is checked by `isanet_jax.training.check.check_config`.

    Args:
        values: nested dicts, or a ConfigDict.

    Raises:
        ConfigError: a setting that is lacking, is none, or is what it may not be.
    """
    if isinstance(values, Config):
        return values
    values = to_dict(values)
    missing = [name for name in _SECTIONS if not isinstance(values.get(name), dict)]
    if missing:
        raise ConfigError(
            f"the config has no {', '.join(missing)}; it must have every setting, as one that "
            "begins with isanet_jax.configs.hecktor.get_config() has"
        )
    given = dict(_named(values))
    for name in given:
        if name not in DECLARED:
            shows = f"{command('train')} --config {config_name('hecktor')} --print-config"
            raise ConfigError(f"there is no setting {name}; {shows} shows all")
    for name, one in DECLARED.items():
        if name not in given:
            raise ConfigError(f"the config has no setting {name}")
        check_value(name, given[name], one)
    parts = {
        name: made(**{k: frozen(v) for k, v in values[name].items()})
        for name, made in _SECTIONS.items()
    }
    return Config(**{k: parts.get(k, frozen(v)) for k, v in values.items()})


def read_stored(values: Mapping) -> Config:
    """The settings of a run or a model that any version has written.

    Raises:
        ConfigError: they are no settings, or settings of a newer version.
    """
    return read(upgraded(values))


def upgraded(values: Mapping) -> dict:
    """Settings of any version as this version writes them: what was left out, with its meaning.

    Raises:
        ConfigError: they are no settings at all.
    """
    if not isinstance(values, dict) or not all(
        isinstance(values.get(name), dict) for name in _SECTIONS
    ):
        raise ConfigError("these are no settings of a run")
    sections = {name: dict(values[name]) for name in _SECTIONS}
    values = dict(values) | sections
    loss = values["loss"]
    if "name" not in loss and loss.items() >= _CROSS_ENTROPY.items():
        focal = {name: value_of(Config(), f"loss.{name}") for name in _CROSS_ENTROPY}
        loss |= focal | {"name": "dice_ce"}
    for name, one in DECLARED.items():
        section, _, key = name.rpartition(".")
        (values[section] if section else values).setdefault(key, thawed(one.before))
    for name in _CONSTANTS:
        section, _, key = name.rpartition(".")
        values[section].pop(key, None)
    if values["model"]["modalities"] == values["data"]["images"]:
        values["model"]["modalities"] = []  # all of them, as it is said now
    return values


def changed_constants(values: Mapping) -> dict[str, object]:
    """What a stored run set otherwise that is a constant now: name -> its value there."""
    given = dict(_named(values))
    return {
        name: given[name]
        for name, constant in _CONSTANTS.items()
        if name in given and frozen(given[name]) != constant
    }


def changed(config: Config, changes: Mapping[str, object]) -> Config:
    """The settings with some changed: `section.name` -> value.

    Raises:
        ConfigError: see `read`.
    """
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        if name not in DECLARED:
            raise ConfigError(f"there is no setting {name}")
        check_value(name, value, DECLARED[name])
        if section:
            part = dataclasses.replace(getattr(config, section), **{key: frozen(value)})
            config = dataclasses.replace(config, **{section: part})
        else:
            config = dataclasses.replace(config, **{key: frozen(value)})
    return config


def to_dict(config) -> dict:
    """A Config, ConfigDict or dict as a run keeps it: tuples are lists, as in JSON."""
    if dataclasses.is_dataclass(config):
        config = {
            field.name: (to_dict(value) if dataclasses.is_dataclass(value) else value)
            for field in dataclasses.fields(config)
            for value in [getattr(config, field.name)]
        }
    values = config.to_dict() if hasattr(config, "to_dict") else config
    return {
        name: to_dict(value) if isinstance(value, Mapping) else thawed(value)
        for name, value in values.items()
    }


def unread(config: Config, reads: Mapping[str, Mapping[str, tuple]]) -> dict[str, tuple]:
    """Settings that differ from their default and that nothing which was chosen reads.

    Args:
        config: the settings.
        reads: setting whose values are a registry's names -> name -> the settings, of its section,
            that its entry reads.

    Returns:
        `section.setting` -> (its default, what was chosen that does not read it).
    """
    found = {}
    for name, one in DECLARED.items():
        if one.read_by is None or value_of(config, name) == value_of(Config(), name):
            continue
        by, values = one.read_by
        chosen = value_of(config, by)
        if values:
            is_read = chosen in values
        else:
            is_read = name.rpartition(".")[2] in reads[by].get(chosen, ())
        if not is_read:
            found[name] = value_of(Config(), name), f"{by} {thawed(chosen)!r}"
    return found


def _named(values, prefix="") -> Iterator[tuple[str, object]]:
    """(`section.name`, value) of nested dicts."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _named(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
