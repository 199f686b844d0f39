"""A run's folder and the settings that it belongs to, also those of earlier versions."""

import json
from pathlib import Path

from isanet_jax.errors import ConfigError
from isanet_jax.files import check_folder, write_json
from isanet_jax.settings import Config, to_dict
from isanet_jax.settings.read import changed_constants, upgraded

_OF_ENSEMBLES = ("members", "snapshots")


def compare_workdir(workdir: Path, config: Config | dict) -> bool:
    """Checks the config of the run folder, if there is one, against this one.

    Args:
        workdir: the folder.
        config: of the run; of a comparison's ensemble, as dicts with `members`.

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
        recorded = _recorded(existing)
    except (OSError, ValueError, ConfigError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); use another --workdir") from error
    wanted = _recorded(to_dict(config))
    # On what and how a run is resumed is free: its state is the same.
    free = {name: wanted[name] for name in ("mesh", "channels_last", "deterministic")}
    constants = changed_constants(existing)
    differences = _differences(recorded | free, wanted) + [
        f"{name}: {value!r} there, and no longer a setting" for name, value in constants.items()
    ]
    if differences:
        raise ConfigError(
            f"{workdir} belongs to a run with another config:\n  "
            + "\n  ".join(differences)
            + "\nUse another --workdir, or the settings of that run to resume it"
        )
    return True


def claim_workdir(workdir: Path, config: Config | dict) -> None:
    """Writes the config into a new run folder, or checks it as `compare_workdir` does."""
    if not compare_workdir(workdir, config):
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "config.json", to_dict(config))


def _recorded(values):
    """What the folder is claimed with: a run's settings, or those of a comparison's ensemble."""
    if "members" not in values:
        return upgraded(values)
    own = {name: value for name, value in values.items() if name not in _OF_ENSEMBLES}
    members = [upgraded(one) for one in values["members"]]
    return upgraded(own) | {"members": members, "snapshots": values.get("snapshots", False)}


def _differences(a, b, prefix=""):
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            line
            for name in sorted(a.keys() | b.keys())
            for line in _differences(a.get(name), b.get(name), f"{prefix}{name}.")
        ]
    return [] if a == b else [f"{prefix[:-1]}: {a!r} there, {b!r} now"]
