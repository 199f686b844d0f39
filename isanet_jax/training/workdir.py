"""A run's folder and the settings that it belongs to, also those of earlier versions."""

import json
from pathlib import Path

from isanet_jax.classes import TUMOUR
from isanet_jax.configs import hecktor
from isanet_jax.errors import ConfigError
from isanet_jax.files import check_folder, write_json
from isanet_jax.training.config import plain_config


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
