"""A run's record in an experiment tracker, of the user's own installation: MLflow or W&B.

Where the records go is the tracker's own setting (MLFLOW_TRACKING_URI, WANDB_MODE=offline, ...).
"""

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path

from isanet_jax.errors import ConfigError

_log = logging.getLogger(__name__)

TRACKERS = ("mlflow", "wandb")  # each a package of that name


def tracker_package(name: str):
    """The module of a tracker. Raises ConfigError: no such tracker, or it is not installed."""
    if name not in TRACKERS:
        raise ConfigError(f"--track is {name!r}; choose one of {', '.join(TRACKERS)}")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"--track {name} needs its package: pip install {name}") from error


class Tracker:
    """One run of a tracker; a resumed training continues it.

    Args:
        name: of `TRACKERS`.
        workdir: of the run; the tracker's run is called as it is.
        config: settings of the run.

    Raises:
        ConfigError: see `tracker_package`.
    """

    def __init__(self, name: str, workdir, config: Mapping):
        self._package, self._name = tracker_package(name), name
        self._is_lost = False
        remembered = Path(workdir) / f"{name}_run.txt"
        known = remembered.read_text(encoding="utf-8").strip() if remembered.exists() else None
        try:
            found = self._start(known, Path(workdir).name, dict(_flat(config)))
        except Exception as error:  # of another program's making, in a hundred ways
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"--track {name}: it refuses the run ({reason}). Look at its settings, such "
                "as where it keeps its records, or leave --track out"
            ) from error
        remembered.write_text(f"{found}\n", encoding="utf-8")

    def _start(self, known, title, settings):
        """Begins or continues the record; returns its ID."""
        if self._name == "mlflow":
            run = self._package.start_run(run_id=known, run_name=None if known else title)
            if not known:
                self._package.log_params({k: str(v)[:500] for k, v in settings.items()})
            return run.info.run_id
        self._run = self._package.init(
            project="isanet_jax", id=known, name=title, config=settings, resume="allow"
        )
        return self._run.id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Records scalars of a step. Where the tracker fails, that is said once, and no more is."""
        if self._is_lost:
            return
        try:
            if self._name == "mlflow":
                self._package.log_metrics(dict(values), step=step)
            else:
                self._run.log(dict(values), step=step)
        except Exception as error:  # a training does not end for its record's sake
            self._is_lost = True
            _log.warning(
                f"warning: {self._name} no longer accepts records ({type(error).__name__})"
            )

    def close(self) -> None:
        """Ends the record."""
        if self._is_lost:
            return
        if self._name == "mlflow":
            self._package.end_run()
        else:
            self._run.finish()


def _flat(settings, prefix=""):
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
