"""From the command line to a plain, checked dict of settings, and its use."""

import json
import re
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import config_flags

from isanet_jax import configs
from isanet_jax.cases.cohort import Cohort
from isanet_jax.cases.folds import ALL_CASES, FOLDS_BY, SELECTIONS
from isanet_jax.cases.grid import FITS, as_three
from isanet_jax.cases.ranges import tumour_window
from isanet_jax.classes import TUMOUR
from isanet_jax.configs import hecktor
from isanet_jax.distributed.placement import splits
from isanet_jax.errors import ConfigError
from isanet_jax.files import check_folder, write_json
from isanet_jax.kinds import SOFT_TISSUE, WIDE, CtWindow, parse_images
from isanet_jax.network import systems
from isanet_jax.network.config import ModelConfig
from isanet_jax.pipeline import intensity
from isanet_jax.pipeline.dataset import PET_SCALES, Inputs, read_shape
from isanet_jax.runtime import command, config_name
from isanet_jax.training.losses import LOSSES
from isanet_jax.training.optimizer import OPTIMIZERS
from isanet_jax.training.schedule import SCHEDULES
from isanet_jax.volume import VOXEL_MM


def parse_command_line(argv) -> tuple[dict, Path]:
    """Reads `--config FILE [--workdir DIR] [--config.name=value ...]`.

    Returns:
        The config as a plain dict, and the run's folder (`runs/` and the config's name and
        variant where none is given).

    Raises:
        ConfigError: an unknown flag or setting, a value of the wrong type, no config.
    """
    values = flags.FlagValues()
    argv = [argv[0], *with_packaged_config(argv[1:])]
    config_flags.DEFINE_config_file(
        "config", None, "configuration file", lock_config=True, flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    try:
        rest = values(argv)
        config = values.config and plain_config(values.config)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise ConfigError(_reason(str(error))) from error
    if len(rest) > 1:
        raise ConfigError(
            f"unexpected arguments {' '.join(rest[1:])}; settings are --config.name=value"
        )
    if not isinstance(config, dict):
        raise ConfigError(
            f"give --config FILE, as in: {command('train')} --config {config_name('hecktor')} "
            "--workdir runs/h0"
        )
    path, _, variant = values["config"].config_filename.partition(":")
    name = "_".join(filter(None, [Path(path).stem, *variant.split(",")]))
    return config, Path(values.workdir or f"runs/{name}")


def plain_config(config) -> dict:
    """A ConfigDict, or a dict, as the plain dict that a run keeps: tuples are lists, as in JSON."""
    values = config.to_dict() if hasattr(config, "to_dict") else config
    return json.loads(json.dumps(values))


def with_packaged_config(arguments: list[str]) -> list[str]:
    """The arguments, `--config NAME` made the path of this package's config of that name.

    `hecktor`, `own/xie2021`, `compare/table2:sts,smoke` are names; a path that exists stays.
    """
    found, is_next = [], False
    for word in arguments:
        if is_next or word.startswith("--config="):
            flag, _, value = word.rpartition("=") if not is_next else ("", "", word)
            resolved = packaged_config(value)
            found.append(f"{flag}={resolved}" if flag else resolved)
        else:
            found.append(word)
        is_next = word == "--config"
    return found


def packaged_config(name: str) -> str:
    """The path of this package's config of a name, its `:VARIANT` kept; else the name itself."""
    path, colon, variant = name.partition(":")
    if Path(path).exists():
        return name
    stem = path.removeprefix("configs/").removesuffix(".py")
    for folder in configs.__path__:
        packaged = Path(folder) / f"{stem}.py"
        if packaged.is_file() and Path(folder) in packaged.resolve().parents:
            return f"{packaged}{colon}{variant}"
    return name


def _reason(message):
    """An error of the flags on one line; of a config file that does not load, the cause alone."""
    if "Traceback" in message or "Failed loading config" in message:
        last = message.strip().splitlines()[-1].strip().rstrip("'")
        return f"--config: {re.sub(r'^[A-Za-z_.]*Error: ', '', last)}"
    return " ".join(message.split()).strip("'\"")


VALIDATIONS = ("cases", "patches")
# None: of the training cases.
CT_WINDOWS = {"wide": (WIDE,), "soft": (SOFT_TISSUE,), "both": (WIDE, SOFT_TISSUE), "cohort": None}
_SPLIT_SYSTEMS = ("isa", "unet")


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
        "train.validate_on": (config["train"]["validate_on"], VALIDATIONS),
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
        unread += [(f"loss.{name}", "loss.name 'dice_ce'") for name in _CROSS_ENTROPY]
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
    if model["name"] not in _SPLIT_SYSTEMS or patch_of(config):
        raise ConfigError(
            f"mesh.space is {space} with model.name {model['name']!r} and data.patch "
            f"{config['data']['patch']}; what can be split are whole volumes in "
            f"{' and '.join(_SPLIT_SYSTEMS)}. Use mesh.data"
        )
    if model["convolution"] == "folded":
        raise ConfigError("model.convolution is 'folded'; a split volume needs 'native' or 'auto'")
    if not splits(depth, space):
        raise ConfigError(
            f"data.size is {depth} and mesh.space {space}: the depth must be a multiple of it, "
            "with two planes or more on each device"
        )


def model_config(config: dict) -> ModelConfig:
    """The network's settings; its size is the patch's, or the volume's where there is none.

    Raises:
        ConfigError: see `isanet_jax.network.systems.resolve`.
    """
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config["model"].items()
    }
    if config["mesh"]["space"] > 1:
        values["convolution"] = "native"  # the folded forms mix the depth with other axes
    values["images"], values["classes"] = channel_names(config), len(class_names(config))
    return systems.resolve(input_shape(config), values, is_new=False)


def patch_of(config: dict) -> tuple[int, int, int] | None:
    """The patch that is trained on, (D, H, W); None: whole volumes."""
    patch = as_three(config["data"]["patch"])
    return patch if any(patch) else None


def input_shape(config: dict) -> tuple[int, int, int]:
    """Of what the network sees: the patch, or the volume."""
    return patch_of(config) or as_three(config["data"]["size"])


def pet_scaling(config: dict) -> tuple[str, bool]:
    """How a run's PET is scaled (`data.pet_scale`), and whether the network does it.

    It does so by the volume that it is given; runs from before there was a choice: the case's.
    """
    pet_scale = config["data"].get("pet_scale", "case")
    return pet_scale, not patch_of(config) and pet_scale == "case"


def image_kinds(config: dict) -> dict[str, str]:
    """The images of a case: name -> kind; of runs from before there were others, CT and PET.

    Raises:
        ConfigError: see `isanet_jax.kinds.parse_images`.
    """
    return parse_images(",".join(config["data"].get("images", ("ct", "pet"))))


def channel_names(config: dict) -> tuple[str, ...]:
    """The network's channels: the images; of a CT in two windows, `ct` and `ct_soft`."""
    in_both = config["data"].get("ct_window") == "both"
    return tuple(
        channel
        for name, kind in image_kinds(config).items()
        for channel in ((name, f"{name}_soft") if kind == "ct" and in_both else (name,))
    )


def ct_windows_of(description: dict) -> tuple[CtWindow, ...]:
    """How a trained network is shown its CT; its description is of any version of this program."""
    several = description.get("ct_windows") or [description.get("ct_window", WIDE)]
    return tuple(CtWindow(*window) for window in several)


def class_names(config: dict) -> tuple[str, ...]:
    """The classes that are learnt; of runs from before there were several, the tumour."""
    return tuple(config["data"].get("classes", (TUMOUR,)))


def make_inputs(config: dict, cohort: Cohort | None = None, cases=()) -> Inputs:
    """What the steps of a config are given.

    Args:
        config: of a run.
        cohort: its cases; None, to plan: cases of cubic voxels.
        cases: IDs of those that are trained on.
    """
    patch, shape, augment = patch_of(config), input_shape(config), config["augment"]
    read, has_ignored = shape, False
    if cohort is not None:
        has_ignored = bool(cohort.settings["ignore"])
    if patch:
        entries = list(cohort.cases.values()) if cohort is not None else []
        spacings = [entry["spacing_mm"] for entry in entries] or [(1.0, 1.0, 1.0)]
        largest = np.max([entry["shape"] for entry in entries], 0) if entries else (10**6,) * 3
        # Planned cubes are of the config's size.
        if not entries and config["data"]["fit"] != "whole":
            largest = as_three(config["data"]["size"])
        read = read_shape(np.array(patch), augment, spacings, largest)
    ct_windows = CT_WINDOWS[config["data"]["ct_window"]]
    if ct_windows is None:
        ct_windows = (tumour_window(cohort, cases) if cohort is not None else WIDE,)
    return Inputs(
        image_kinds(config),
        class_names(config),
        shape,
        read,
        bool(patch),
        has_ignored,
        ct_windows,
        config["data"]["pet_scale"],
        is_misaligned=augment["misalignment_probability"] > 0,
        has_intensity=intensity.is_asked(augment),
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


def compare_workdir(workdir: Path, config: dict) -> bool:
    """Checks the config of the run folder, if there is one, against this one.

    Returns:
        Whether there is one.

    Raises:
        ConfigError: the folder belongs to a run of another config; every difference is listed.
    """
    check_folder(workdir)
    path = workdir / "config.json"
    if not path.exists():
        return False
    try:
        existing = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(existing, dict):
            raise ValueError("no settings in it")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); use another --workdir") from error
    existing = _with_later_settings(existing, config)
    # On what and how a run is resumed is free: its state is the same.
    free = {name: config[name] for name in ("mesh", "channels_last", "deterministic")}
    differences = _differences(existing | free, _with_later_settings(config, config))
    if differences:
        raise ConfigError(
            f"{workdir} belongs to a run with another config:\n  "
            + "\n  ".join(differences)
            + "\nUse another --workdir, or the settings of that run to resume it"
        )
    return True


def claim_workdir(workdir: Path, config: dict) -> None:
    """Writes the config into a new run folder, or checks it as `compare_workdir` does."""
    if not compare_workdir(workdir, config):
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "config.json", config)


# Settings that came later, with what runs from before them had.
_LATER = {
    "model": {"remat": "none", "reading": "code", "strides": [], "kernels": [], "prior": 0.5},
    "loss": {"name": "dice_focal", "batch_dice": False},
    "data": {
        "images": ["ct", "pet"],
        "classes": [TUMOUR],
        "ct_window": "wide",
        "pet_scale": "case",
    },
    "train": {"validate_on": "cases"},
    "optimizer": {"warmup_epochs": 0, "average": 0.0},
}
_LATER_ALONE = {"init": "", "inner_fold": 0}
# The cross-entropy, as it was said before loss.name.
_CROSS_ENTROPY = {"alpha": 0.5, "gamma": 0.0, "focal_weight": 2.0}


def _with_later_settings(existing, config):
    """A config from before some settings existed, with what it then meant."""
    filled = {k: v for k, v in _LATER_ALONE.items() if k in config} | existing
    loss = existing.get("loss")
    if isinstance(loss, dict) and "name" not in loss and loss.items() >= _CROSS_ENTROPY.items():
        defaults = hecktor.get_config().loss.to_dict()
        focal = {name: defaults[name] for name in _CROSS_ENTROPY}
        existing = existing | {"loss": loss | focal | {"name": "dice_ce"}}
        filled = filled | existing
    # Augmentation that an older config does not name was not there; its default is not to be drawn.
    augmentation = {"augment": plain_config(hecktor.get_config())["augment"]}
    for section, settings in (_LATER | augmentation).items():
        if section in config and isinstance(existing.get(section), dict):
            known = {k: v for k, v in settings.items() if k in config[section]}
            filled[section] = known | existing[section]
    model, images = filled.get("model"), filled.get("data", {}).get("images")
    if isinstance(model, dict) and model.get("modalities") == images:
        filled["model"] = model | {"modalities": []}  # all of them, as it is said now
    if "members" in config and "members" in existing:  # of a comparison's ensemble
        filled["members"] = [_with_later_settings(one, config) for one in existing["members"]]
    return filled


def _differences(a, b, prefix=""):
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            line
            for name in sorted(a.keys() | b.keys())
            for line in _differences(a.get(name), b.get(name), f"{prefix}{name}.")
        ]
    return [] if a == b else [f"{prefix[:-1]}: {a!r} there, {b!r} now"]
