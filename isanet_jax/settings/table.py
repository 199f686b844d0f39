"""Every setting of a run: default, what it may be, text, since when, and who reads it.

`configs/` changes some, `--config.NAME=VALUE` one. The checks, `--print-config`, the reference
page, the meaning of older runs and the check of a model's settings all come from here. A new
setting says `since`, and `before` where runs from before it did otherwise than its default.
"""

import dataclasses
import functools

from isanet_jax.cases.folds import ALL_CASES, FOLDS_BY, SELECTIONS
from isanet_jax.cases.grid import FITS, as_three
from isanet_jax.classes import TUMOUR
from isanet_jax.kinds import SOFT_TISSUE, WIDE, parse_images
from isanet_jax.settings.declare import (
    Flag,
    FoldOrAll,
    Names,
    Number,
    OneOf,
    Reader,
    Text,
    Triples,
    setting,
)
from isanet_jax.volume import VOXEL_MM

_PROBABILITY = Number(0.0, 1.0)
_COUNT = Number(0, 10**9, whole=True)
_ONE_OR_MORE = Number(1, 10**9, whole=True)
_BY_SYSTEM, _BY_LOSS = Reader("model.name"), Reader("loss.name")
_OF_VOLUMES = Reader("data.patch", (0, (0, 0, 0)))
_GATED, _FLOORED = Reader("optimizer.name", ("adam", "adamw")), ("restart", "cosine")

CONVOLUTIONS = ("auto", "native", "folded")  # forms of them
# Windows of HU, by name; None: of the training cases' tumours.
CT_WINDOWS = {"wide": (WIDE,), "soft": (SOFT_TISSUE,), "both": (WIDE, SOFT_TISSUE), "cohort": None}


@dataclasses.dataclass(frozen=True)
class Data:
    """Which cases, and how the network is shown them."""

    cases: str = setting("cases/hecktor", Text(), "folder that isanet prepare made")
    images: tuple[str, ...] = setting(
        ("ct", "pet"),
        Names(),
        "images of a case by name, the network's channels; uptake:pet says the kind, too",
        since="2026-11-26",
    )
    classes: tuple[str, ...] = setting(
        (TUMOUR,),
        Names(),
        "classes of the label by name, those that are learnt",
        since="2026-11-26",
    )
    size: int | tuple[int, int, int] = setting(
        144,
        Number(1, 4096, whole=True, lengths=(3,), or_one=True),
        "voxels per axis of a case; or along D, H, W (feet-head, front-back, right-left)",
    )
    fit: str = setting(
        "crop", OneOf(FITS), "how the cases' grid was placed; whole: the body, of any shape"
    )
    spacing_mm: float | tuple[float, float, float] = setting(
        1.0,
        Number(*VOXEL_MM, lengths=(3,), or_one=True),
        "voxel size of crop and whole; or along right-left, front-back, feet-head",
    )
    phantoms: int = setting(
        0, Number(0, 10**6, whole=True), "where the folder is missing, make so many phantoms"
    )
    ct_window: str = setting(
        "wide",
        OneOf(tuple(CT_WINDOWS)),
        "HU that the network sees: wide, [-1024, 1024] as in the paper; soft, [-160, 240]; both, "
        "as two images, ct and ct_soft; cohort, those of the training cases' tumours, standardised "
        "(nnU-Net)",
        since="2026-11-26",
    )
    pet_scale: str = setting(
        "case",
        OneOf(("case", "suv")),
        "PET that the network sees: case, standardised by its case's mean and deviation (Eq. 17); "
        "suv, SUV over 5, the same for all",
        since="2026-11-26",
    )
    patch: int | tuple[int, int, int] = setting(
        0,
        Number(0, 4096, whole=True, lengths=(3,), or_one=True),
        "voxels per axis of the patches that are trained on; or along D, H, W; 0: whole volumes",
    )

    guidance: str = setting(
        "none",
        OneOf(("none", "clicks")),
        "further images that the network sees: clicks, two maps for each class of where a reader "
        "says that it is and is not, drawn from the network's own errors in training",
        since="2026-11-30",
    )

    @property
    def guided_classes(self) -> int:
        """For how many classes the network takes clicks."""
        return len(self.classes) if self.guidance == "clicks" else 0

    @property
    def patch_shape(self) -> tuple[int, int, int] | None:
        """The patch that is trained on, (D, H, W); None: whole volumes."""
        patch = as_three(self.patch)
        return patch if any(patch) else None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(D, H, W) of what the network sees: the patch, or the volume."""
        return self.patch_shape or as_three(self.size)

    @property
    def is_whole(self) -> bool:
        """Whether cases have any shape, and are seen in windows."""
        return self.fit == "whole"

    @property
    def pet_is_of_volume(self) -> bool:
        """Whether the device standardises the PET, by the volume that it is given."""
        return self.patch_shape is None and self.pet_scale == "case"

    @functools.cached_property
    def kinds(self) -> dict[str, str]:
        """The images of a case: name -> kind.

        Raises:
            ConfigError: see `isanet_jax.kinds.parse_images`.
        """
        return parse_images(",".join(self.images))

    @property
    def channels(self) -> tuple[str, ...]:
        """The network's channels: the images; of a CT in two windows, `ct` and `ct_soft`; maps of
        clicks.
        """
        both = self.ct_window == "both"
        maps = [f"clicks{number}" for number in range(2 * self.guided_classes)]
        return (*self._image_channels(both), *maps)

    def _image_channels(self, both):
        return tuple(
            channel
            for name, kind in self.kinds.items()
            for channel in ((name, f"{name}_soft") if kind == "ct" and both else (name,))
        )


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes of what is trained on (paper section 3.2, and nnU-Net's)."""

    rotation_probability: float = setting(0.5, _PROBABILITY, "that a case is rotated")
    rotation_degrees: float | tuple[float, float, float] = setting(
        45.0,
        Number(0.0, 180.0, lengths=(3,), or_one=True),
        "largest angle, either sign, about one to three axes; or about D, H and W each",
    )
    rotation_of_all_axes: bool = setting(
        False, Flag(), "rotate always about all three axes (nnU-Net)", since="2026-11-26"
    )
    scaling_probability: float = setting(
        0.0, _PROBABILITY, "that a case is scaled by 0.7 to 1.4", since="2026-11-26"
    )
    crop_probability: float = setting(
        0.0,
        _PROBABILITY,
        "that the field of view is cut on all sides and what is left is resized",
        since="2026-11-27",
        read_by=_OF_VOLUMES,
    )
    crop_share: float = setting(
        0.2,
        Number(0.0, 0.45),
        "of the field of view, at most so much is cut off each side",
        since="2026-11-27",
        read_by=_OF_VOLUMES,
    )
    misalignment_probability: float = setting(
        0.0,
        _PROBABILITY,
        "that PET and others are moved against the first image, whose label stays",
        since="2026-11-26",
    )
    misalignment_mm: float = setting(
        3.0, Number(0.0, 100.0), "at most, along each axis, either way", since="2026-11-26"
    )
    misalignment_degrees: float = setting(
        2.0, Number(0.0, 45.0), "at most, about each axis, either way", since="2026-11-26"
    )
    mirror_probability: float = setting(
        0.5, _PROBABILITY, "that a case is mirrored; each axis then with one half"
    )
    mixup_probability: float = setting(0.2, _PROBABILITY, "that a case is mixed with another one")
    tumour_patch_probability: float = setting(
        0.33,
        _PROBABILITY,
        "share of the patches that are centred on a voxel of the tumour; in a batch of two, one is",
    )
    patch_beyond: float = setting(
        0.0,
        Number(0.0, 0.5),
        "share of a patch that may lie beyond the case: its sides are then seen as often as its "
        "middle (nnU-Net: some 0.2)",
        since="2026-11-30",
    )
    noise_probability: float = setting(
        0.0, _PROBABILITY, "that a case has noise of sigma 0 to 0.1 added", since="2026-11-26"
    )
    blur_probability: float = setting(
        0.0,
        _PROBABILITY,
        "that a case is blurred, each image with one half, by 0.5 to 1 voxels",
        since="2026-11-26",
    )
    brightness_probability: float = setting(
        0.0, _PROBABILITY, "that a case's values are multiplied by 0.75 to 1.25", since="2026-11-26"
    )
    contrast_probability: float = setting(
        0.0, _PROBABILITY, "that a case's contrast is changed by 0.75 to 1.25", since="2026-11-26"
    )
    low_resolution_probability: float = setting(
        0.0,
        _PROBABILITY,
        "that a case loses resolution, each image with one half, by a zoom of 0.5 to 1",
        since="2026-11-26",
    )
    inverted_gamma_probability: float = setting(
        0.0, _PROBABILITY, "that the inverted values have a gamma of 0.7 to 1.5", since="2026-11-26"
    )
    gamma_probability: float = setting(
        0.0, _PROBABILITY, "that the values have a gamma of 0.7 to 1.5", since="2026-11-26"
    )

    @property
    def changes_intensity(self) -> bool:
        """Whether intensities are changed at all, see `isanet_jax.pipeline.intensity`."""
        return any(getattr(self, f"{name}_probability") > 0 for name in INTENSITIES)

    @property
    def without(self) -> "Augment":
        """None of it, but for where patches lie."""
        kept = self.tumour_patch_probability
        names = [f.name for f in dataclasses.fields(self) if f.name.endswith("_probability")]
        return dataclasses.replace(
            self, **dict.fromkeys(names, 0.0) | {"tumour_patch_probability": kept}
        )


INTENSITIES = (
    *("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma"),
)


@dataclasses.dataclass(frozen=True)
class Model:
    """The network. A system reads some of them; others are refused."""

    name: str = setting("isa", Text(), "the system; help lists all")
    width: int = setting(
        0,
        Number(0, 4096, whole=True),
        "channels of level 1, doubled at every further one; 0: the system's own (isa: 16)",
    )
    levels: int = setting(
        0, Number(0, 12, whole=True), "number of resolutions; 0: the system's own (isa: 5)"
    )
    strides: tuple[tuple[int, int, int], ...] = setting(
        (),
        Triples((1, 2)),
        "by how much each level is smaller than the one before along D, H, W; (): 1, then 2s. "
        "configs/nnunet.py plans them",
        since="2026-11-26",
        read_by=_BY_SYSTEM,
    )
    kernels: tuple[tuple[int, int, int], ...] = setting(
        (),
        Triples((1, 3)),
        "size of each level's convolutions along D, H, W; (): 3s",
        since="2026-11-26",
        read_by=_BY_SYSTEM,
    )
    deep_supervision: bool = setting(
        False, Flag(), "losses on coarser levels, too", read_by=_BY_SYSTEM
    )
    encoder_attention: bool = setting(
        True,
        Flag(),
        "False: attention at the bottleneck and in the decoders only",
        read_by=_BY_SYSTEM,
    )
    reading: str = setting(
        "code",
        OneOf(("code", "text")),
        "where the paper's text and its authors' code differ, which one the network follows. text: "
        "no convolution has a bias, ISA's output convolution ends in a ReLU, and decoder levels "
        "have two residual blocks (docs/decisions.md)",
        since="2026-11-25",
        read_by=_BY_SYSTEM,
    )
    fusion: str = setting(
        "matmul",
        OneOf(("matmul", "matmul_scaled", "product")),
        "how ISA joins query and key (Eq. 5): per-slice matrix product as printed, the same over "
        "sqrt(W), or element-wise",
        read_by=_BY_SYSTEM,
    )
    weight_scale: str = setting(
        "sum",
        OneOf(("sum", "mean", "sigmoid")),
        "ISA's weights: their sum over the volume is 1 as printed; or their mean is; or each is a "
        "gate of its own (not of the paper)",
        read_by=_BY_SYSTEM,
    )
    modalities: tuple[str, ...] = setting(
        (), Names(may_be_empty=True), "those of the images that the network sees; (): all"
    )
    fusion_weights: tuple[float, ...] = setting(
        (1.0, 1.0),
        Number(0.0, 1e6, lengths=tuple(range(1, 65))),
        "of each image, the factor of the parts that the decoder joins (Fig. 6)",
        read_by=_BY_SYSTEM,
    )
    decoder: str = setting(
        "dual",
        OneOf(("dual", "shared")),
        "one decoder for each image as in the paper, or one shared by all",
        read_by=_BY_SYSTEM,
    )
    prior: float = setting(
        0.5,
        Number(1e-6, 1 - 1e-6),
        "probability of every class that training starts from, by the bias of the last convolution "
        "(Lin et al. 2017, Focal loss, section 3.3); with less, small lesions are learnt sooner",
        since="2026-11-27",
    )
    dtype: str = setting(
        "float32",
        OneOf(("float32", "bfloat16", "float64")),
        "of the computation; parameters, norms' statistics and softmax stay float32",
    )
    convolution: str = setting(
        "auto",
        OneOf(CONVOLUTIONS),
        "form of the convolutions; auto: native on GPUs, folded on CPUs",
    )
    remat: str = setting(
        "none",
        OneOf(("none", "convolutions", "blocks", "levels")),
        "what the backward pass computes again, to need less memory: nothing; all but the "
        "convolutions; the inner values of blocks and attention; those of each level",
        since="2026-11-25",
    )


@dataclasses.dataclass(frozen=True)
class Loss:
    """What is minimised. A loss reads some of them; others are refused."""

    name: str = setting(
        "dice_focal",
        Text(),
        "dice_focal, as in the paper; dice_ce: Dice + cross-entropy",
        since="2026-11-26",
    )
    batch_dice: bool = setting(
        False, Flag(), "Dice of a batch's cases together, not of each", since="2026-11-26"
    )
    dice_squared: bool = setting(False, Flag(), "V-Net's form of Dice")
    dice_smooth: float = setting(
        1e-3,
        Number(0.0, 1e6),
        "added above and below in V-Net's form",
        read_by=Reader("loss.dice_squared", (True,)),
    )
    alpha: float = setting(
        0.5, Number(0.0, 1.0), "of the focal loss: weight of the tumour", read_by=_BY_LOSS
    )
    gamma: float = setting(
        2.0,
        Number(0.0, 100.0),
        "of the focal loss: how much less well-classified voxels count",
        read_by=_BY_LOSS,
    )
    focal_weight: float = setting(
        1.0, Number(0.0, 1e6), "factor of the focal loss", read_by=_BY_LOSS
    )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Steps, and their size."""

    name: str = setting("adam", OneOf(("adam", "adamw", "sgd")), "sgd is with Nesterov momentum")
    peak_learning_rate: float = setting(
        3e-4, Number(0.0, 1e38, is_above=True), "at the start, and at each restart"
    )
    schedule: str = setting(
        "restart",
        OneOf(("restart", "poly", "cosine")),
        "restart: cosine with warm restarts; poly: (1 - e/E)^0.9; cosine: after a warm-up, down "
        "once",
    )
    floor_learning_rate: float = setting(
        1e-6,
        Number(0.0, 1e38),
        "where restart and cosine end",
        read_by=Reader("optimizer.schedule", _FLOORED),
    )
    warmup_epochs: int = setting(
        0,
        _COUNT,
        "of cosine, from 0 to the peak",
        since="2026-11-26",
        read_by=Reader("optimizer.schedule", ("cosine",)),
    )
    restart_epochs: int = setting(
        25, _ONE_OR_MORE, "between two restarts", read_by=Reader("optimizer.schedule", ("restart",))
    )
    b1: float = setting(0.9, Number(0.0, 0.999999), "momentum factor", read_by=_GATED)
    b2: float = setting(0.99, Number(0.0, 0.999999), "factor of the squares", read_by=_GATED)
    momentum: float = setting(
        0.99, Number(0.0, 0.999999), "of sgd", read_by=Reader("optimizer.name", ("sgd",))
    )
    weight_decay: float = setting(
        0.0, Number(0.0, 1e6), "L2 penalty, added to the gradient; of adamw, taken off the weights"
    )
    clip_norm: float = setting(
        0.0, Number(0.0, 1e38), "largest norm of the whole gradient; 0: not clipped"
    )
    average: float = setting(
        0.0,
        Number(0.0, 0.9999999),
        "what an exponential average of the weights keeps at each step, as 0.999; it is what is "
        "validated and predicts. 0: the weights themselves",
        since="2026-11-26",
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """How long, in which batches, and what is looked at meanwhile."""

    epochs: int = setting(300, _ONE_OR_MORE, "of steps_per_epoch steps each")
    batch: int = setting(1, Number(1, 10**6, whole=True), "cases in a step, over all devices")
    steps_per_epoch: int = setting(0, _COUNT, "0: each training case once")
    validate_every: int = setting(1, _ONE_OR_MORE, "epochs between validations and checkpoints")
    validate_on: str = setting(
        "cases",
        OneOf(("cases", "patches")),
        "cases: each whole, and the best single validation counts; patches: 50 drawn ones, and the "
        "best exponential average counts (nnU-Net)",
        since="2026-11-26",
    )


@dataclasses.dataclass(frozen=True)
class Predict:
    """How a trained network predicts."""

    mirror: bool = setting(False, Flag(), "the mean over the eight mirror images")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices."""

    data: int = setting(1, Number(1, 10**6, whole=True), "devices that a batch is split over")
    space: int = setting(1, Number(1, 10**6, whole=True), "devices that a volume is split over")


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run."""

    seed: int = setting(
        0, Number(0, 2**32 - 1, whole=True), "of parameters, shuffle and augmentation"
    )
    fold: int | str = setting(
        0,
        FoldOrAll(ALL_CASES),
        "test fold; all: every case is trained on, and the last checkpoint is kept",
    )
    fold_by: str = setting(
        "fold", OneOf(FOLDS_BY), "the cases' own folds; centre: fold k leaves out the k-th centre"
    )
    selection: str = setting(
        "paper",
        OneOf(SELECTIONS),
        "paper: the checkpoint is chosen on the fold that is reported (optimistic); nested: on the "
        "next fold, which is then not trained on; none: all other folds are trained on, and the "
        "last checkpoint is kept (nnU-Net)",
    )
    inner_fold: int = setting(
        0,
        Number(0, 10**6, whole=True),
        "of nested: how many folds after the next one instead",
        since="2026-11-27",
    )
    init: str = setting(
        "",
        Text(),
        "model (isanet bundle) or run whose parameters a new training starts from; empty: drawn",
        since="2026-11-26",
    )
    init_seen: bool = setting(
        False,
        Flag(),
        "go on although init has seen cases of the test or selection fold; every table says so",
        since="2026-11-30",
    )
    channels_last: bool = setting(
        True,
        Flag(),
        "on GPUs: the layout that tensor cores compute in; False: as XLA chooses",
        since="2026-11-26",
    )
    deterministic: bool = setting(
        False,
        Flag(),
        "on GPUs: the same numbers in every run, for an unknown part of time",
        since="2026-11-26",
    )
    data: Data = dataclasses.field(default_factory=Data)
    augment: Augment = dataclasses.field(default_factory=Augment)
    model: Model = dataclasses.field(default_factory=Model)
    loss: Loss = dataclasses.field(default_factory=Loss)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    train: Train = dataclasses.field(default_factory=Train)
    predict: Predict = dataclasses.field(default_factory=Predict)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)

    @property
    def mirrors_input(self) -> bool:
        """Whether the mirror images at prediction are of what the network sees at once.

        Those of a cube that is seen in patches are of the whole cube, around its windows.
        """
        return self.predict.mirror and (self.data.patch_shape is None or self.data.is_whole)
