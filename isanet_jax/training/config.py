"""From the command line to a plain dict of settings, and what it means."""

import json
import re
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import config_flags

from isanet_jax import configs
from isanet_jax.cases.cohort import Cohort
from isanet_jax.cases.grid import as_three
from isanet_jax.cases.ranges import tumour_window
from isanet_jax.classes import TUMOUR
from isanet_jax.errors import ConfigError
from isanet_jax.kinds import SOFT_TISSUE, WIDE, CtWindow, parse_images
from isanet_jax.network import systems
from isanet_jax.network.config import ModelConfig
from isanet_jax.pipeline import intensity
from isanet_jax.pipeline.dataset import Inputs, read_shape
from isanet_jax.runtime import command, config_name


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


# None: of the training cases.
CT_WINDOWS = {"wide": (WIDE,), "soft": (SOFT_TISSUE,), "both": (WIDE, SOFT_TISSUE), "cohort": None}


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
