"""The network's settings, checked when they are made."""

import dataclasses
import math

import numpy as np

from isanet_jax.errors import ConfigError
from isanet_jax.network.convolution import FORMS

# Every name that the config accepts, in one place.
CHOICES = {
    "reading": ("code", "text"),
    "fusion": ("matmul", "matmul_scaled", "product"),
    "weight_scale": ("sum", "mean", "sigmoid"),
    "decoder": ("dual", "shared"),
    "dtype": ("float32", "bfloat16", "float64"),
    "convolution": FORMS,
    "remat": ("none", "convolutions", "blocks", "levels"),
}
IMAGES = ("ct", "pet")  # the paper's; also the order of the input's channels


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Settings of a system; the defaults are the paper's network.

    Attributes:
        name: of the system, see `isanet_jax.network.systems`.
        size: voxels per axis (D, H, W) of the input, one number where they are the same; multiples
            of 2^(levels - 1), or of the products of `strides`.
        images: names of the input's channels, in their order.
        classes: how many the network tells from the background; they may overlap.
        width: channels of level 1; doubled at every further level.
        levels: number of resolutions.
        strides: of each level along D, H, W, in the systems that take them (nnunet,
            nnunet_resenc): by how much it is smaller than the one before; (): 1, then 2s.
        kernels: of each level's convolutions along D, H, W, each 1 or 3; (): 3s.
        deep_supervision: losses on coarser levels too, in the systems that have it (nnunet,
            nnunet_resenc, xie2020, xie2021).
        encoder_attention: False keeps the attention at the bottleneck and in the decoders only.
        reading: where the paper's text and its authors' public code differ, which of them the
            network follows. `text`: no convolution has a bias, ISA's output convolution ends in a
            ReLU, and decoder levels have two residual blocks, too (docs/decisions.md).
        fusion: how ISA joins query and key (Eq. 5): per-slice matrix product as printed, the
            same over sqrt(W), or element-wise.
        weight_scale: `sum`: ISA's weights sum to 1 over the volume as printed; `mean`: their mean
            is 1; `sigmoid`, not of the paper: each is a gate of its own.
        modalities: those of the images that the network sees, in their order; (): all.
        fusion_weights: of each image, the factor of the parts that the decoder concatenates
            (Fig. 6); ones for two images are ones for any number.
        decoder: `dual` as in the paper, one for each image; or one `shared` by all.
        prior: the probability of every class that an untrained network's output is centred on, by
            the bias of its last convolution (Lin et al. 2017, Focal loss, section 3.3); 0.5: no
            bias. What is small begins to be learnt sooner with less.
        dtype: of the computation; parameters, normalisation statistics and softmax stay float32
            (float64, for checks of gradients, needs JAX_ENABLE_X64).
        convolution: form of the convolutions, see `isanet_jax.network.convolution`.
        remat: what a train step computes again in its backward pass, to need less memory: nothing;
            all but the convolutions; the inner values of each pair of residual blocks and of each
            attention; those of each level.

    Raises:
        ConfigError: on a value that the network cannot take.
    """

    name: str = "isa"
    size: int | tuple[int, int, int] = 144
    images: tuple[str, ...] = IMAGES
    classes: int = 1
    width: int = 16
    levels: int = 5
    strides: tuple[tuple[int, int, int], ...] = ()
    kernels: tuple[tuple[int, int, int], ...] = ()
    deep_supervision: bool = False
    encoder_attention: bool = True
    reading: str = "code"
    fusion: str = "matmul"
    weight_scale: str = "sum"
    modalities: tuple[str, ...] = ()
    fusion_weights: tuple[float, ...] = (1.0, 1.0)
    decoder: str = "dual"
    prior: float = 0.5
    dtype: str = "float32"
    convolution: str = "auto"
    remat: str = "none"

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"model.{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}"
                )
        if self.levels < 2 or self.width < 1:
            raise ConfigError(
                f"model.levels is {self.levels} and model.width is {self.width}; they must be at "
                "least 2 and 1"
            )
        if self.classes < 1:
            raise ConfigError(f"model.classes is {self.classes}; at least one is needed")
        if not 0 < self.prior < 1:
            raise ConfigError(f"model.prior is {self.prior}; it must be above 0 and below 1")
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
        for name, allowed in (("strides", (1, 2)), ("kernels", (1, 3))):
            given = tuple(tuple(of_level) for of_level in getattr(self, name))
            object.__setattr__(self, name, given)
            if given and (
                len(given) != self.levels
                or any(len(three) != 3 or not set(three) <= set(allowed) for three in given)
            ):
                raise ConfigError(
                    f"model.{name} is {given!r}; give each of {self.levels} levels three of "
                    f"{allowed[0]} and {allowed[1]}, or none at all"
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
        if len(weights) != count or not all(0 <= weight < math.inf for weight in weights):
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
