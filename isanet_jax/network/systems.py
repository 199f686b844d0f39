"""Every system that can be trained: ISA-Net and those that the paper compares it with.

To add one, write a file that says `SYSTEMS = {"name": System(...)}`, into this folder or anywhere
(see `isanet_jax.registry`); an attention module for the paper's backbone is one with
`SYSTEMS = {"name": two_branch(...)}`.
"""

import dataclasses
import functools

import jax
from flax import nnx

from isanet_jax.errors import CheckpointError, ConfigError
from isanet_jax.network.config import ModelConfig
from isanet_jax.network.initial import ShapesOnly
from isanet_jax.network.system import Output, System
from isanet_jax.registry import Registry
from isanet_jax.settings.declare import declared
from isanet_jax.settings.table import Config, Model

SYSTEMS: Registry = Registry("SYSTEMS", "isanet_jax.network.attention", "isanet_jax.network")


def find_system(name: str) -> System:
    """The system of a name. Raises ConfigError: there is none, with a list of all."""
    if name not in SYSTEMS:
        raise ConfigError(f"model.name is {name!r}; choose one of\n{describe_systems()}")
    return SYSTEMS[name]


def check_version(description: dict, folder) -> None:
    """Refuses a checkpoint of a system that has since been changed in what it computes.

    Args:
        description: of the run.
        folder: of the checkpoint, or the file.

    Raises:
        CheckpointError: it is of another version.
    """
    name = description.get("config", {}).get("model", {}).get("name")
    there = description.get("system_version", 1)
    if name in SYSTEMS and there != SYSTEMS[name].version:
        raise CheckpointError(
            f"the checkpoint in {folder} is of version {there} of {name}, and this program has "
            f"version {SYSTEMS[name].version}, which computes something else (CHANGELOG.md says "
            "what). Use the program it was trained with, or train it again in another --workdir"
        )


def describe_systems() -> str:
    """The systems, a line each."""
    return "\n".join(f"{name:12} {system.description}" for name, system in SYSTEMS.items())


def resolve(size, settings: dict, *, is_new: bool = True) -> ModelConfig:
    """The settings of a system, checked against what it reads.

    Args:
        size: voxels per axis of its input, one number or three (D, H, W).
        settings: of `ModelConfig`.
        is_new: refuse settings that are changed and that the system does not read; runs from before
            they were refused are loaded all the same.

    Raises:
        ConfigError: no such system, or settings that it does not have or cannot take.
    """
    name = settings.get("name", ModelConfig.name)
    system = find_system(name)
    config = ModelConfig(size=size, **(settings | _own_size(system, size, settings)))
    for key in unread_settings(name) if is_new else ():
        value, default = getattr(config, key), getattr(ModelConfig(), key)
        if value != default:
            raise ConfigError(
                f"model.{key} is {value!r}, and {name} has no such part; use {default!r}"
            )
    if config.levels < system.least_levels:
        raise ConfigError(
            f"model.levels is {config.levels}; {name} needs at least {system.least_levels}"
        )
    return config


def _own_size(system, size, settings):
    """Width and levels where the settings have none, or 0: the system's own."""
    shape = (size,) * 3 if isinstance(size, int) else size
    levels = len(settings.get("strides", ())) or min(map(system.levels, shape))
    own = {"width": system.width, "levels": levels}
    return {key: settings.get(key) or value for key, value in own.items()}


def unread_settings(name: str) -> list[str]:
    """The settings of `ModelConfig` that a system does not read."""
    read_by_some = {key for key, one in declared(Model).items() if one.read_by}
    return sorted(read_by_some - set(SYSTEMS[name].reads))


@functools.cache
def of_config(config: Config, *, is_split: bool | None = None) -> ModelConfig:
    """What a run's network is built from; its input is the patch, or the volume.

    Args:
        config: the settings.
        is_split: whether volumes are split over devices; None: as the settings say.

    Raises:
        ConfigError: see `resolve`.
    """
    values = {f.name: getattr(config.model, f.name) for f in dataclasses.fields(Model)}
    if config.mesh.space > 1 if is_split is None else is_split:
        values["convolution"] = "native"  # the folded forms mix the depth with other axes
    values |= {"images": config.data.channels, "classes": len(config.data.classes)}
    return resolve(config.data.input_shape, values, is_new=False)


def create(config: ModelConfig, key: jax.Array) -> tuple[nnx.GraphDef, dict]:
    """Builds a system: its static structure and its parameters, drawn from `key`.

    The parameters are nested dicts of arrays: to take nnx's own variables apart for each step's
    thousand arrays costs the host 20 ms.
    """
    module = SYSTEMS[config.name].make(config, rngs=nnx.Rngs(params=key))
    graphdef, params = nnx.split(module, nnx.Param)
    return graphdef, jax.device_put(nnx.to_pure_dict(params))


def create_abstract(config: ModelConfig) -> tuple[nnx.GraphDef, dict]:
    """`create` without its numbers: the parameters are shapes and types, and nothing is drawn."""
    graphdef, params = nnx.split(SYSTEMS[config.name].make(config, rngs=ShapesOnly()), nnx.Param)
    params = nnx.to_pure_dict(params)
    return graphdef, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)


def apply(graphdef: nnx.GraphDef, params: dict, image: jax.Array) -> Output:
    """The output for `image` (B, D, H, W, images): a pure function of its arguments."""
    return nnx.merge(graphdef, params)(image)


def count_parameters(params) -> int:
    """Number of scalars in `params`."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
