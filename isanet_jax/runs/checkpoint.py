"""Checkpoints of a run: the latest to resume from, and the best to predict with.

Two Orbax series of one checkpoint each. `latest` holds parameters, optimiser, step and key;
`best` the parameters alone. Both carry the run's description (config, preparation, folds) and the
progress (data iterator, best validation DSC, seconds taken) as JSON, and digests of all of it: a
disk that returns other bytes than were written is noticed when a checkpoint is loaded.
"""

import contextlib
from pathlib import Path
from typing import NamedTuple

import jax
import optax
from orbax.checkpoint import v1 as ocp

from isanet_jax.arguments import command, config_name
from isanet_jax.errors import CheckpointError
from isanet_jax.files import write_json
from isanet_jax.network.systems import SYSTEMS, check_version
from isanet_jax.runs.damage import (
    SAVED,
    damage,
    disk_errors,
    files_of,
    lost,
    read_saved,
    way_out,
    what_is_lacking,
)
from isanet_jax.runs.digest import digest_of, digest_of_text, shapes_of
from isanet_jax.runs.seen import check_same

_PARAMS, _REST = "params", "rest"
_OF_START = ("identities", "overlap")  # what is known of a network that a run started from
SERIES = ("best", "latest")
_VALUE = "value"


class TrainState(NamedTuple):
    """Everything that a step changes, and the key the parameters were drawn from.

    `key` is the raw data of a `jax.random.key`: all randomness of the run follows from it and
    from the data iterator's seed.
    """

    params: dict
    opt_state: optax.OptState
    step: jax.Array
    key: jax.Array


class Checkpoints:
    """Writes and reads the checkpoints of a run folder; a context manager.

    Saving copies the arrays and returns; files are written in the background, and a checkpoint
    appears under its name only when it is whole. One checkpoint is written at a time: Orbax's saves
    of two series side by side can take each other's signals, and each save that is not waited for
    keeps its thread and files open.

    Args:
        workdir: the run's folder.
        info: description of the run: `config`, `preparation`, `seen`, `split`, `cases` and
            `identities` (see `isanet_jax.runs.seen`).
    """

    def __init__(self, workdir, *, info: dict):
        model = info.get("config", {}).get("model", {}).get("name")
        version = SYSTEMS[model].version if model in SYSTEMS else 1
        self.info = {**info, "system_version": version}
        self._workdir = Path(workdir)
        self._series = {which: _open(workdir, which) for which in SERIES}
        self._saved = read_saved(workdir)
        self._pending = None

    def save_latest(self, step: int, state: TrainState, progress: dict) -> None:
        """Saves all that training needs to be resumed, once the best one before it is written."""
        rest = (state.opt_state, state.step, state.key)
        self._save("latest", step, {_PARAMS: state.params, _REST: rest}, progress)

    def save_best(self, step: int, state: TrainState, progress: dict) -> None:
        """Saves the parameters to predict with."""
        self._save("best", step, {_PARAMS: state.params}, progress)

    def _save(self, which, step, items, progress):
        self.wait()
        items = _stored(items)
        description = {**self.info, "progress": dict(progress)}
        digests = {name: digest_of(tree) for name, tree in items.items()}
        digests["description"] = digest_of_text(description)
        series = self._series[which]
        with disk_errors(series.directory):
            # overwrite: a run killed between the two saves repeats the epoch, and its results.
            response = series.save_checkpointables_async(
                step,
                items,
                force=True,
                overwrite=True,
                custom_metadata={**description, "digests": digests},
            )
        self._pending = which, step, response

    def wait(self) -> None:
        """Waits for what is being written.

        Raises:
            DataError: it could not be.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        which, step, response = pending
        with disk_errors(self._series[which].directory):
            if response is not None:
                response.result()
        folder = Path(self._series[which].directory) / str(step)
        files = {
            path.relative_to(folder).as_posix(): path.stat().st_size for path in files_of(folder)
        }
        self._saved[which] = {"step": step, "files": files}
        if jax.process_index() == 0:
            write_json(self._workdir / "checkpoints" / SAVED, self._saved)

    def load_latest(self, state: TrainState) -> tuple[TrainState, dict] | None:
        """The latest state and its progress, or None where nothing has been saved.

        Args:
            state: gives structure, shapes and placement.

        Raises:
            CheckpointError: damaged, missing after it had been saved, or of another network.
            ConfigError: the cases are not what they were.
        """
        series = self._series["latest"]
        if _step_of(series, self._workdir) is None:
            if "latest" in self._saved:
                raise lost(self._workdir, f"the checkpoint of step {self._saved['latest']['step']}")
            return None
        rest = (state.opt_state, state.step, state.key)

        def make_items(description):
            check_same(description, self.info, self._workdir)
            return {_PARAMS: state.params, _REST: rest}

        config = self.info.get("config")
        description, items = _load(series, make_items, self._workdir, config=config)
        self.describe(**{name: description[name] for name in _OF_START if name in description})
        return TrainState(items[_PARAMS], *items[_REST]), description["progress"]

    def describe(self, **more) -> None:
        """Adds to the run's description, for the checkpoints that follow."""
        self.info |= more

    def check_best(self) -> None:
        """Raises CheckpointError where the best checkpoint, or a file of it, is missing."""
        self.wait()
        folder = Path(self._series["best"].directory)
        step = _step_of(self._series["best"], self._workdir)
        lacking = step is not None and what_is_lacking(
            folder / str(step), self._saved.get("best", {})
        )
        if step is None or lacking:
            raise CheckpointError(
                f"{folder} holds no whole checkpoint{f' ({lacking})' if lacking else ''}, although "
                "the best one had been saved there: was it deleted? The latest one is there: "
                f"{command('eval')} --workdir {self._workdir} --checkpoint latest. To choose the "
                "best ones again, train in a new --workdir"
            )

    def close(self):
        """Waits for what is being written."""
        try:
            self.wait()
        finally:
            for series in self._series.values():
                with disk_errors(series.directory):
                    series.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        try:
            self.close()
        except Exception:
            if error is None:  # else the first error is the one to show
                raise


def check_record(workdir) -> None:
    """Refuses to begin anew in a folder whose checkpoints are gone while its record is there.

    Raises:
        CheckpointError: says what would start anew.
    """
    workdir = Path(workdir)
    record = workdir / "metrics.jsonl"
    has_steps = record.is_file() and record.stat().st_size > 0
    if has_steps and not (workdir / "checkpoints" / "latest").is_dir():
        raise lost(workdir, "checkpoints/latest")


def load_params(workdir, make_params, *, which="best") -> tuple[object, dict]:
    """The parameters of a run and the run's description.

    Args:
        workdir: the run's folder.
        make_params: description -> parameters of the right structure and shapes; they are loaded
            onto this process's first device.
        which: of `SERIES`.

    Returns:
        (parameters, description).

    Raises:
        CheckpointError: no run, no checkpoint yet, a damaged one, or one of another network.
    """
    folder = Path(workdir).absolute() / "checkpoints" / which
    if not folder.is_dir():
        if (Path(workdir) / "checkpoints").is_dir():
            raise CheckpointError(f"{folder} is missing{way_out(workdir, which)}")
        raise CheckpointError(
            f"{workdir} holds no trained network; train one first: {command('train')} --config "
            f"{config_name('hecktor')} --workdir {workdir}"
        )
    with contextlib.closing(_open(workdir, which, cleanup=False)) as series:
        if _step_of(series, workdir) is None:
            if which in read_saved(workdir):
                raise CheckpointError(
                    f"{folder} holds no whole checkpoint any more: its files were deleted or "
                    f"damaged{way_out(workdir, which)}"
                )
            raise CheckpointError(f"{workdir} holds no finished checkpoint yet; train on")
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def make_items(description):
            def placed(x):
                return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)

            return {_PARAMS: jax.tree.map(placed, make_params(description))}

        description, items = _load(series, make_items, Path(workdir))
        return items[_PARAMS], description


def read_progress(workdir) -> dict:
    """The progress of a run's latest checkpoint.

    Raises:
        CheckpointError: none, or a damaged one.
    """
    with contextlib.closing(_open(workdir, "latest", cleanup=False)) as series:
        return _description(series, _step_of(series, workdir), workdir)[0]["progress"]


def _stored(items):
    """Returns it as checkpoints have it: a network's arrays lie under `value`, as nnx's do."""

    def stored(tree):
        return jax.tree.map(lambda x: {_VALUE: x}, tree) if isinstance(tree, dict) else tree

    return {
        name: jax.tree.map(stored, tree, is_leaf=lambda x: isinstance(x, dict))
        for name, tree in items.items()
    }


def _plain(items):
    """The inverse of `_stored`."""

    def is_array(tree):
        return isinstance(tree, dict) and tree.keys() == {_VALUE}

    return jax.tree.map(lambda x: x[_VALUE] if is_array(x) else x, items, is_leaf=is_array)


def _open(workdir, which, *, cleanup=True):
    return ocp.training.Checkpointer(
        Path(workdir).absolute() / "checkpoints" / which,
        preservation_policy=ocp.training.preservation_policies.LatestN(1),
        cleanup_tmp_directories=cleanup,
    )


def _step_of(series, workdir):
    """The step of a series' checkpoint, or None."""
    folder = Path(series.directory)
    steps = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    with damage(max(steps, default=folder / "0", key=lambda path: int(path.name)), workdir):
        return None if series.latest is None else series.latest.step


def _load(series, make_items, workdir, *, config=None):
    """(description, items) of the latest checkpoint, once both are known to be what was saved.

    Args:
        series: Orbax's.
        make_items: description -> name -> arrays that give structure, shapes and placement.
        workdir: for messages.
        config: of the run that loads it, which may be another than the checkpoint's; None: the
            items follow from the description.
    """
    step = _step_of(series, workdir)
    folder = Path(series.directory) / str(step)
    description, digests = _description(series, step, workdir)
    check_version(description, folder)
    items = _stored(make_items(description))
    with damage(folder, workdir):
        metadata = series.checkpointables_metadata(step).metadata
        found, wanted = shapes_of(metadata[_PARAMS]), shapes_of(items[_PARAMS])
        different = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
        is_of_another = config is not None and any(
            config.get(name) != description["config"].get(name) for name in ("model", "data")
        )
        if different and digests and not is_of_another:
            name = different[0]
            raise ValueError(f"params/_METADATA or params/d: {name} is {found.get(name, 'absent')}")
    if different:
        name = different[0]
        raise CheckpointError(
            f"the checkpoint in {series.directory} is of another network than this config's: "
            f"{name} is {found.get(name, 'absent')} there and {wanted.get(name, 'absent')} here. "
            "Use the config it was trained with, or another --workdir"
        )
    with damage(folder, workdir):
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items
        )
        loaded = series.load_checkpointables(step, abstract)
        for name, tree in loaded.items():
            if digests and digest_of(tree) != digests[name]:
                raise ValueError(f"the arrays in {name}/d are not those that were saved")
    return description, _plain(loaded)


def _description(series, step, workdir):
    """(description, digests) of a step's checkpoint; digests are None in runs of before them."""
    with damage(Path(series.directory) / str(step), workdir):
        description = dict(series.metadata(step).custom_metadata or {})
        if "progress" not in description:
            raise ValueError("_CHECKPOINT_METADATA does not describe the run")
        digests = description.pop("digests", None)
        if digests and digests["description"] != digest_of_text(description):
            raise ValueError("_CHECKPOINT_METADATA is not what was saved")
    return description, digests
