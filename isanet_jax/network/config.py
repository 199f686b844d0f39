"""What a network is built from: the settings of its system, and the size of its input."""

import dataclasses

import numpy as np

from isanet_jax.errors import ConfigError
from isanet_jax.settings.declare import check_value, declared
from isanet_jax.settings.table import Model

IMAGES = ("ct", "pet")  # the paper's; also the order of the input's channels


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Model):
    """The settings of `isanet_jax.settings.table.Model`, and what the data says.

    The defaults are the paper's network; `isanet_jax.network.systems.resolve` makes it of settings
    in which width and levels may be 0, the system's own.

    Attributes:
        size: voxels per axis (D, H, W) of the input, one number where they are the same; multiples
            of 2^(levels - 1), or of the products of `strides`.
        images: names of the input's channels, in their order.
        classes: how many the network tells from the background; they may overlap.

    Raises:
        ConfigError: on a value that the network cannot take.
    """

    size: int | tuple[int, int, int] = 144
    images: tuple[str, ...] = IMAGES
    classes: int = 1
    width: int = 16
    levels: int = 5

    def __post_init__(self):
        for name, one in declared(Model).items():
            check_value(f"model.{name}", getattr(self, name), one)
        if self.levels < 2 or self.width < 1:
            raise ConfigError(
                f"model.levels is {self.levels} and model.width is {self.width}; they must be at "
                "least 2 and 1"
            )
        if self.classes < 1:
            raise ConfigError(f"model.classes is {self.classes}; at least one is needed")
        if self.prior != 0.5 and not self.bias:
            raise ConfigError(
                f"model.prior is {self.prior} and model.reading 'text', in which no convolution "
                "has a bias; use 0.5, or 'code'"
            )
        self._check_levels()
        for size, step in zip(self.shape, np.prod(self.level_strides, 0).tolist(), strict=True):
            if size < step or size % step:
                below = max(step, size // step * step)
                raise ConfigError(
                    f"the network makes its input {step} times smaller on its way down: a size of "
                    f"{size} is not a multiple of {step}. Use {below} or {below + step}, or fewer "
                    "model.levels"
                )
        self._check_images()

    def _check_levels(self):
        for name in ("strides", "kernels"):
            given = tuple(tuple(of_level) for of_level in getattr(self, name))
            object.__setattr__(self, name, given)
            if given and len(given) != self.levels:
                raise ConfigError(
                    f"model.{name} is {given!r}; give each of {self.levels} levels its own, or "
                    "none at all"
                )
        if self.level_strides[0] != (1, 1, 1):
            raise ConfigError(f"model.strides begins with {self.strides[0]}; give the first ones")

    def _check_images(self):
        if len(set(self.images)) < len(self.images) or not self.images:
            raise ConfigError(f"model.images is {self.images!r}; give each image's name once")
        if not self.modalities:
            object.__setattr__(self, "modalities", self.images)
        seen = tuple(name for name in self.images if name in self.modalities)
        if seen != self.modalities:
            raise ConfigError(
                f"model.modalities is {self.modalities!r}; choose from {self.images!r}, in this "
                "order"
            )
        if self.decoder == "shared" and len(self.modalities) == 1:
            raise ConfigError("model.decoder 'shared' needs several images; use 'dual' for one")
        weights, count = self.fusion_weights, len(self.images)
        if len(weights) != count and all(weight == 1 for weight in weights):
            weights = (1.0,) * count
            object.__setattr__(self, "fusion_weights", weights)
        if len(weights) != count:
            raise ConfigError(
                f"model.fusion_weights is {weights!r}; give a factor >= 0 for each of "
                f"{', '.join(self.images)}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the input (D, H, W)."""
        return (self.size,) * 3 if isinstance(self.size, int) else tuple(self.size)

    @property
    def level_strides(self) -> tuple[tuple[int, int, int], ...]:
        """By how much each level is smaller than the one before, along D, H, W."""
        return self.strides or ((1, 1, 1), *[(2, 2, 2)] * (self.levels - 1))

    @property
    def level_kernels(self) -> tuple[tuple[int, int, int], ...]:
        """Size of each level's convolutions, along D, H, W."""
        return self.kernels or ((3, 3, 3),) * self.levels

    @property
    def bias(self) -> bool:
        """Whether convolutions without a norm after them have a bias."""
        return self.reading == "code"

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.width * 2**level for level in range(self.levels))
