"""Checkpoints of a run: the latest to go on from, and the best to predict with.

Two Orbax series of one checkpoint each. `latest` holds parameters, optimiser, step and key;
`best` the parameters alone. Both carry the run's description (config, preparation, folds) and the
progress (data iterator, best validation DSC) as JSON.
"""

import contextlib
from pathlib import Path

import jax
from orbax.checkpoint import v1 as ocp

from isanet_jax.errors import CheckpointError, DataError
from isanet_jax.training.step import TrainState

_PARAMS, _REST = "params", "rest"


class Checkpoints:
    """Writes and reads the checkpoints of a run folder; a context manager.

    Saving copies the arrays and returns; files are written in the background, and a checkpoint
    appears under its name only when it is whole.
    """

    def __init__(self, workdir, *, info: dict):
        self.info = info
        self._series = {which: _open(workdir, which) for which in ("latest", "best")}

    def save_latest(self, step: int, state: TrainState, progress: dict) -> None:
        """Saves all that training needs to go on."""
        rest = (state.opt_state, state.step, state.key)
        self._save("latest", step, {_PARAMS: state.params, _REST: rest}, progress)

    def save_best(self, step: int, state: TrainState, progress: dict) -> None:
        """Saves the parameters to predict with."""
        self._save("best", step, {_PARAMS: state.params}, progress)

    def _save(self, which, step, items, progress):
        # overwrite: a run killed between the two saves repeats the epoch, and its results.
        metadata = {**self.info, "progress": dict(progress)}
        with _disk_errors(self._series[which].directory):
            self._series[which].save_checkpointables_async(
                step, items, force=True, overwrite=True, custom_metadata=metadata
            )

    def load_latest(self, state: TrainState) -> tuple[TrainState, dict] | None:
        """The latest state and its progress, or None where nothing has been saved.

        Args:
            state: gives structure, shapes and placement.
        """
        series = self._series["latest"]
        if series.latest is None:
            return None
        rest = (state.opt_state, state.step, state.key)
        items = _load(series, {_PARAMS: state.params, _REST: rest})
        progress = series.metadata(series.latest.step).custom_metadata["progress"]
        return TrainState(items[_PARAMS], *items[_REST]), progress

    def close(self):
        """Waits for what is being written."""
        for series in self._series.values():
            with _disk_errors(series.directory):
                series.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        try:
            self.close()
        except Exception:
            if error is None:  # else the first error is the one to show
                raise


def load_best(workdir, make_params) -> tuple[object, dict]:
    """The best parameters of a run and the run's description.

    Args:
        workdir: the run's folder.
        make_params: description -> parameters of the right structure and shapes.

    Returns:
        (parameters, description).

    Raises:
        CheckpointError: no run, no checkpoint yet, or a checkpoint of another network.
    """
    folder = Path(workdir).absolute() / "checkpoints" / "best"
    if not folder.is_dir():
        raise CheckpointError(
            f"{workdir} holds no trained network; train one first: python train.py --config "
            f"configs/hecktor.py --workdir {workdir}"
        )
    with contextlib.closing(ocp.training.Checkpointer(folder)) as series:
        if series.latest is None:
            raise CheckpointError(f"{workdir} holds no finished checkpoint yet; train on")
        description = series.metadata(series.latest.step).custom_metadata
        return _load(series, {_PARAMS: make_params(description)})[_PARAMS], description


def _open(workdir, which):
    return ocp.training.Checkpointer(
        Path(workdir).absolute() / "checkpoints" / which,
        preservation_policy=ocp.training.preservation_policies.LatestN(1),
        cleanup_tmp_directories=True,
    )


def _load(series, items):
    """Loads the items of the latest checkpoint, once their parameters are known to fit."""
    metadata = series.checkpointables_metadata(series.latest.step).metadata
    found, wanted = _shapes(metadata[_PARAMS]), _shapes(items[_PARAMS])
    different = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
    if different:
        name = different[0]
        raise CheckpointError(
            f"the checkpoint in {series.directory} is of another network than this config's: "
            f"{name} is {found.get(name, 'absent')} there and {wanted.get(name, 'absent')} here. "
            "Use the config it was trained with, or another --workdir"
        )
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items
    )
    return series.load_checkpointables(None, abstract)


def _shapes(tree):
    """Name -> shape of every array, the same for a network's state and for Orbax's metadata."""
    return {
        ".".join(str(getattr(k, "key", getattr(k, "name", None))) for k in path): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@contextlib.contextmanager
def _disk_errors(folder):
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) or "No space" in str(error):
            raise DataError(
                f"a checkpoint cannot be written ({error})",
                file=folder,
                action="Free space on the disk and run the same command again: it goes on from "
                "the last whole checkpoint",
            ) from error
        raise
