"""What settings may be: of a run on its own, and against the cases that it trains on."""

from isanet_jax.cases.cohort import Cohort
from isanet_jax.cases.folds import ALL_CASES, FOLDS_BY, SELECTIONS
from isanet_jax.cases.grid import FITS, as_three
from isanet_jax.configs import hecktor
from isanet_jax.distributed.placement import splits
from isanet_jax.errors import ConfigError
from isanet_jax.network import systems
from isanet_jax.pipeline.dataset import PET_SCALES
from isanet_jax.runtime import command
from isanet_jax.training.config import (
    CT_WINDOWS,
    class_names,
    image_kinds,
    model_config,
    patch_of,
    plain_config,
)
from isanet_jax.training.losses import LOSSES
from isanet_jax.training.optimizer import OPTIMIZERS
from isanet_jax.training.schedule import SCHEDULES
from isanet_jax.volume import VOXEL_MM

_VALIDATIONS = ("cases", "patches")
_INFINITY = float("inf")
# Section.setting -> (least, most) of what it may be; lists are checked value by value.
_RANGES = {
    "seed": (0, 2**32 - 1),
    "data.size": (1, 4096),
    "data.spacing_mm": VOXEL_MM,
    "data.phantoms": (0, 10**6),
    "data.patch": (0, 4096),
    "augment.rotation_probability": (0.0, 1.0),
    "augment.rotation_degrees": (0.0, 180.0),
    "augment.scaling_probability": (0.0, 1.0),
    "augment.scaling_range": (0.1, 10.0),
    "augment.crop_probability": (0.0, 1.0),
    "augment.crop_share": (0.0, 0.45),
    "augment.misalignment_probability": (0.0, 1.0),
    "augment.misalignment_mm": (0.0, 100.0),
    "augment.misalignment_degrees": (0.0, 45.0),
    "augment.noise_probability": (0.0, 1.0),
    "augment.noise_sigma": (0.0, 10.0),
    "augment.blur_probability": (0.0, 1.0),
    "augment.blur_sigma": (0.1, 1.0),
    "augment.brightness_probability": (0.0, 1.0),
    "augment.brightness_range": (0.1, 10.0),
    "augment.contrast_probability": (0.0, 1.0),
    "augment.contrast_range": (0.1, 10.0),
    "augment.low_resolution_probability": (0.0, 1.0),
    "augment.low_resolution_zoom": (0.1, 1.0),
    "augment.inverted_gamma_probability": (0.0, 1.0),
    "augment.gamma_probability": (0.0, 1.0),
    "augment.gamma_range": (0.1, 10.0),
    "augment.mirror_probability": (0.0, 1.0),
    "augment.mixup_probability": (0.0, 1.0),
    "augment.tumour_patch_probability": (0.0, 1.0),
    "model.width": (0, 4096),
    "model.levels": (0, 12),
    "model.fusion_weights": (0.0, 1e6),
    "model.prior": (1e-6, 1 - 1e-6),
    "loss.dice_smooth": (0.0, 1e6),
    "loss.alpha": (0.0, 1.0),
    "loss.gamma": (0.0, 100.0),
    "loss.focal_weight": (0.0, 1e6),
    "optimizer.floor_learning_rate": (0.0, _INFINITY),
    "optimizer.restart_epochs": (1, 10**9),
    "optimizer.warmup_epochs": (0, 10**9),
    "optimizer.average": (0.0, 0.9999999),
    "optimizer.b1": (0.0, 0.999999),
    "optimizer.b2": (0.0, 0.999999),
    "optimizer.momentum": (0.0, 0.999999),
    "optimizer.weight_decay": (0.0, 1e6),
    "optimizer.clip_norm": (0.0, _INFINITY),
    "inner_fold": (0, 10**6),
    "train.epochs": (1, 10**9),
    "train.batch": (1, 10**6),
    "train.steps_per_epoch": (0, 10**9),
    "train.validate_every": (1, 10**9),
    "mesh.data": (1, 10**6),
    "mesh.space": (1, 10**6),
}
_SECTIONS = (
    *("seed", "fold", "fold_by", "selection", "inner_fold", "init", "data", "augment", "model"),
    *("loss", "optimizer", "train", "predict", "mesh", "channels_last", "deterministic"),
)


def check_config(config: dict) -> None:
    """Checks what can be checked before any data is read.

    Raises:
        ConfigError: names the setting, its value and what would work.
    """
    _check_sections(config)
    fold = config["fold"]
    if fold != ALL_CASES and not (type(fold) is int and fold >= 0):
        raise ConfigError(f"fold is {fold!r}; give the number of a fold, or {ALL_CASES}")
    for name, (least, most) in _RANGES.items():
        *section, key = name.split(".")
        values = config[section[0]] if section else config
        if key not in values:
            raise ConfigError(f"the config has no setting {name}; configs/hecktor.py has them all")
        value = values[key]
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(number, (int, float)) or not least <= number <= most:
                limit = "or more" if most in (10**6, 10**9, _INFINITY) else f"to {most:g}"
                raise ConfigError(f"{name} is {value!r}; it must be a number, {least:g} {limit}")
    rates = config["optimizer"]
    peak, floor = rates["peak_learning_rate"], rates["floor_learning_rate"]
    if not 0 < peak < _INFINITY:
        raise ConfigError(f"optimizer.peak_learning_rate is {peak!r}; it must be above 0")
    if rates["schedule"] != "poly" and floor > peak:
        raise ConfigError(
            f"optimizer.floor_learning_rate is {floor:g}, above the peak_learning_rate, {peak:g}"
        )
    choices = {
        "selection": (config["selection"], SELECTIONS),
        "fold_by": (config["fold_by"], FOLDS_BY),
        "data.fit": (config["data"]["fit"], FITS),
        "data.ct_window": (config["data"]["ct_window"], CT_WINDOWS),
        "data.pet_scale": (config["data"]["pet_scale"], PET_SCALES),
        "loss.name": (config["loss"]["name"], LOSSES),
        "train.validate_on": (config["train"]["validate_on"], _VALIDATIONS),
        "optimizer.name": (config["optimizer"]["name"], OPTIMIZERS),
        "optimizer.schedule": (config["optimizer"]["schedule"], SCHEDULES),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(allowed)}")
    _check_patch(config["data"], config["train"])
    for name, value in config["augment"].items():
        is_span = isinstance(value, list) and not name.endswith("degrees")
        if is_span and (len(value) != 2 or value[0] > value[1]):
            raise ConfigError(f"augment.{name} is {value}; give the least and the most")
    model_config(config)
    _check_unread(config)
    _check_split(config)
    batch, data = config["train"]["batch"], config["mesh"]["data"]
    if batch % data:
        raise ConfigError(
            f"train.batch is {batch} and mesh.data is {data}: the batch must be a multiple of the "
            "devices it is split over"
        )


def resolved_config(config: dict) -> dict:
    """The config, checked, with the width and the levels that its network will have.

    Raises:
        ConfigError: see `check_config`.
    """
    check_config(config)
    model = model_config(config)
    return config | {"model": config["model"] | {"width": model.width, "levels": model.levels}}


def _check_sections(config):
    """Refuses what is no config of a run at all."""
    if "methods" in config:
        raise ConfigError(
            "this config is of a comparison, and not of a run; it is run by: "
            f"{command('compare')} --config FILE"
        )
    missing = [name for name in _SECTIONS if name not in config]
    if missing:
        raise ConfigError(
            f"the config has no {', '.join(missing)}; it must have every setting of "
            "configs/hecktor.py, as one that begins with hecktor.get_config() has"
        )


def unread_settings(config: dict) -> dict[str, tuple[object, str]]:
    """Settings that differ from their default and that nothing which was chosen reads.

    Returns:
        `section.setting` -> (its default, what was chosen that does not read it).
    """
    model, loss, optimizer = config["model"], config["loss"], config["optimizer"]
    chosen = f"model.name {model['name']!r}"
    unread = [(f"model.{name}", chosen) for name in systems.unread_settings(model["name"])]
    if loss["name"] == "dice_ce":
        unread += [
            (f"loss.{name}", "loss.name 'dice_ce'") for name in ("alpha", "gamma", "focal_weight")
        ]
    if not loss["dice_squared"]:
        unread.append(("loss.dice_smooth", "loss.dice_squared False"))
    of_other = ("b1", "b2") if optimizer["name"] == "sgd" else ("momentum",)
    chosen = f"optimizer.name {optimizer['name']!r}"
    unread += [(f"optimizer.{name}", chosen) for name in of_other]
    names = {
        "restart": ("warmup_epochs",),
        "poly": ("floor_learning_rate", "restart_epochs", "warmup_epochs"),
        "cosine": ("restart_epochs",),
    }[optimizer["schedule"]]
    chosen = f"optimizer.schedule {optimizer['schedule']!r}"
    unread += [(f"optimizer.{name}", chosen) for name in names]
    if any(as_three(config["data"]["patch"])):
        chosen = f"data.patch {config['data']['patch']}"
        unread += [(f"augment.crop_{name}", chosen) for name in ("probability", "share")]
    defaults = plain_config(hecktor.get_config())
    ignored = {}
    for name, why in unread:
        section, key = name.split(".")
        if config[section][key] != defaults[section][key]:
            ignored[name] = defaults[section][key], why
    return ignored


def _check_patch(data, train):
    """Refuses patches that the cases do not have."""
    for name in ("size", "spacing_mm", "patch"):
        if isinstance(data[name], list) and len(data[name]) != 3:
            raise ConfigError(f"data.{name} is {data[name]}; give one number, or three")
    patch, size = as_three(data["patch"]), as_three(data["size"])
    if any(patch) and not all(patch):
        raise ConfigError(f"data.patch is {data['patch']}; give 0, or voxels along each axis")
    if not any(patch) and train["validate_on"] == "patches":
        raise ConfigError(
            "train.validate_on is 'patches', and data.patch is 0: whole volumes are validated on "
            "cases"
        )
    if data["fit"] == "whole":
        if not any(patch):
            raise ConfigError(
                "data.fit is 'whole', and data.patch is 0: cases of any shape are trained on in "
                "patches, as in --config.data.patch=96"
            )
    elif any(p > n for p, n in zip(patch, size, strict=True)):
        raise ConfigError(
            f"data.patch is {data['patch']}; it must be 0 (whole volumes) or at most data.size, "
            f"{data['size']}"
        )


def _check_unread(config):
    """Refuses settings that would change nothing."""
    for name, (default, why) in unread_settings(config).items():
        section, key = name.split(".")
        raise ConfigError(
            f"{name} is {config[section][key]!r}, and nothing reads it with {why}; use {default!r}"
        )


def _check_split(config):
    """Refuses volumes split over devices where the network cannot be."""
    space, depth = config["mesh"]["space"], as_three(config["data"]["size"])[0]
    if space <= 1:
        return
    model = config["model"]
    if not systems.SYSTEMS[model["name"]].can_split or patch_of(config):
        splitting = [name for name, system in systems.SYSTEMS.items() if system.can_split]
        raise ConfigError(
            f"mesh.space is {space} with model.name {model['name']!r} and data.patch "
            f"{config['data']['patch']}; what can be split are whole volumes in "
            f"{' and '.join(splitting)}. Use mesh.data"
        )
    if model["convolution"] == "folded":
        raise ConfigError("model.convolution is 'folded'; a split volume needs 'native' or 'auto'")
    if not splits(depth, space):
        raise ConfigError(
            f"data.size is {depth} and mesh.space {space}: the depth must be a multiple of it, "
            "with two planes or more on each device"
        )


def check_cohort(config: dict, cohort: Cohort) -> None:
    """Refuses cases that were prepared otherwise than the config says.

    Raises:
        ConfigError: the difference, and the overrides that would accept the cases.
    """
    fit = config["data"]["fit"]
    compared = ["fit", *(["size"] * (fit != "whole")), *(["spacing_mm"] * (fit != "resize"))]
    differing = [n for n in compared if cohort.settings[n] != config["data"][n]]
    if differing:
        stored = ", ".join(f"{n} {cohort.settings[n]}" for n in differing)
        wanted = ", ".join(f"{n} {config['data'][n]}" for n in differing)
        accept = " ".join(_override(n, cohort.settings[n]) for n in differing)
        raise ConfigError(
            f"the cases in {cohort.folder} were prepared with {stored}; the config says {wanted}. "
            f"Prepare them again, or train on them as they are with {accept}"
        )
    for name, wanted in (("images", image_kinds(config)), ("classes", class_names(config))):
        stored = cohort.settings[name]
        lacking = [n for n in wanted if n not in stored]
        if lacking or (name == "images" and any(stored[n] != kind for n, kind in wanted.items())):
            raise ConfigError(
                f"the cases in {cohort.folder} have the {name} {', '.join(stored)}; the config "
                f"says {', '.join(wanted)}. Prepare them again with --{name}, or train on them as "
                f"they are with {_override(name, tuple(stored))}"
            )


def _override(name, value):
    """The flag that sets a setting of `data`, as a shell takes it."""
    text = str(value).replace(" ", "")
    return f"--config.data.{name}=" + (f'"{text}"' if isinstance(value, (list, tuple)) else text)
