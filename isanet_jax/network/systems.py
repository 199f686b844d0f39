"""Every system that can be trained: ISA-Net and those that the paper compares it with.

To add one, put a file into this folder that says `SYSTEMS = {"name": System(...)}`; an attention
module for the paper's backbone into attention/, with `SYSTEMS = {"name": two_branch(...)}`.
"""

import importlib
import pkgutil

import jax
from flax import nnx

from isanet_jax import network
from isanet_jax.errors import ConfigError
from isanet_jax.network import attention
from isanet_jax.network.blocks import Output, ShapesOnly, System
from isanet_jax.network.config import ModelConfig


def find_systems() -> dict[str, System]:
    """Name -> system, of all files in this folder and in attention/."""
    systems = {}
    for package in (attention, network):
        for file in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if file.name == __name__:
                continue
            here = getattr(importlib.import_module(file.name), "SYSTEMS", {})
            if clash := systems.keys() & here.keys():
                raise ImportError(f"{file.name}: there is a system {clash.pop()!r} already")
            systems |= here
    return systems


SYSTEMS = find_systems()
# Settings that only the systems that say so read; others take their defaults only.
_READ_BY_SOME = (
    *("deep_supervision", "encoder_attention", "reading", "fusion", "weight_scale"),
    *("fusion_weights", "decoder", "strides", "kernels"),
)


def find_system(name: str) -> System:
    """The system of a name. Raises ConfigError: there is none, with a list of all."""
    if name not in SYSTEMS:
        raise ConfigError(f"model.name is {name!r}; choose one of\n{describe_systems()}")
    return SYSTEMS[name]


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
    config = ModelConfig(size=size, **settings)
    name, system = config.name, find_system(config.name)
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


def unread_settings(name: str) -> list[str]:
    """The settings of `ModelConfig` that a system does not read."""
    return sorted(set(_READ_BY_SOME) - set(SYSTEMS[name].reads))


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
