"""Every system that can be trained: ISA-Net and those that the paper compares it with.

To add one, write its module in a file of this folder (an attention module for the paper's
backbone: in attention/) and add its line here.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
from flax import nnx

from isanet_jax.errors import ConfigError
from isanet_jax.network.attention.cbam import CBAM
from isanet_jax.network.attention.isa import ISA
from isanet_jax.network.attention.se import SE
from isanet_jax.network.attention.sk import SK
from isanet_jax.network.backbone import TwoBranchNet
from isanet_jax.network.blocks import Output
from isanet_jax.network.cascade import Cascade
from isanet_jax.network.config import ModelConfig
from isanet_jax.network.iantsen import Iantsen2020
from isanet_jax.network.nnunet import nnunet_levels, xie2020, xie2021
from isanet_jax.network.vnet import VNet


class System(NamedTuple):
    """A system's one-line description, its constructor, and its own width and levels."""

    description: str
    make: Callable[..., nnx.Module]  # (config, *, rngs)
    width: int = 16
    levels: Callable[[int], int] = lambda size: 5
    two_branch: bool = False


def _two_branch(description, attention):
    return System(description, partial(TwoBranchNet, attention=attention), two_branch=True)


SYSTEMS = {
    "isa": _two_branch("ISA-Net (Huang 2022)", ISA),
    "unet": _two_branch("its backbone without attention", None),
    "se": _two_branch("the backbone with squeeze-excitation", SE),
    "sk": _two_branch("the backbone with selective kernels", SK),
    "cbam": _two_branch("the backbone with CBAM", CBAM),
    "vnet": System("V-Net (Milletari 2016)", VNet),
    "iantsen2020": System("residual U-Net with SE-Norm, HECKTOR 2020", Iantsen2020, 24),
    "xie2020": System("nnU-Net with scSE, HECKTOR 2020", xie2020, 32, nnunet_levels),
    "xie2021": System("nnU-Net with SE-Norm, HECKTOR 2021", xie2021, 32, nnunet_levels),
    "an2021": System("cascade of three residual U-Nets, HECKTOR 2021", Cascade),
}
# Settings of the two-branch network alone; another system takes their defaults only.
_TWO_BRANCH_ONLY = ("encoder_attention", "decoder", "fusion_weights")


def describe_systems() -> str:
    """The systems, a line each."""
    return "\n".join(f"{name:12} {system.description}" for name, system in SYSTEMS.items())


def resolve(size: int, settings: dict) -> ModelConfig:
    """The settings of a system; a width or number of levels of 0 is the system's own.

    Raises:
        ConfigError: no such system, or settings that it does not have or cannot take.
    """
    name = settings["name"]
    if name not in SYSTEMS:
        raise ConfigError(f"model.name is {name!r}; choose one of\n{describe_systems()}")
    system = SYSTEMS[name]
    own = {"width": system.width, "levels": system.levels(size)}
    own = {key: value for key, value in own.items() if not settings[key]}
    config = ModelConfig(size=size, **(settings | own))
    fixed = () if system.two_branch else _TWO_BRANCH_ONLY
    for key in fixed:
        value, default = getattr(config, key), getattr(ModelConfig(), key)
        if value != default:
            raise ConfigError(
                f"model.{key} is {value!r}, and {name} has no such part; use {default!r}"
            )
    if name == "an2021" and config.levels < 3:
        raise ConfigError(f"model.levels is {config.levels}; an2021's cascade needs at least 3")
    return config


def create(config: ModelConfig, key: jax.Array) -> tuple[nnx.GraphDef, nnx.State]:
    """Builds a system: its static structure and its parameters, drawn from `key`."""
    module = SYSTEMS[config.name].make(config, rngs=nnx.Rngs(params=key))
    return nnx.split(module, nnx.Param)


def apply(graphdef: nnx.GraphDef, params: nnx.State, image: jax.Array) -> Output:
    """The output for `image` (B, D, H, W, 2): a pure function of its arguments."""
    return nnx.merge(graphdef, params)(image)


def count_parameters(params: nnx.State) -> int:
    """Number of scalars in `params`."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
