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
        metadata = {**self.info, "progress": progress}
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

    def __exit__(self, *exception):
        self.close()


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
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items
    )
    try:
        loaded = series.load_checkpointables(None, wanted)
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise CheckpointError(
            f"the checkpoint in {series.directory} does not fit the network of this config "
            f"({' '.join(str(error).split())[:300]}). Use the config it was trained with, or "
            "another --workdir"
        ) from error
    # Orbax can restore an array in another shape than asked for: never predict with that.
    different = [
        f"{jax.tree_util.keystr(path)} is {found.shape}, not {leaf.shape}"
        for (path, leaf), found in zip(
            jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(loaded), strict=True
        )
        if found.shape != leaf.shape
    ]
    if different:
        raise CheckpointError(
            f"the checkpoint in {series.directory} is of another network: {different[0]}"
        )
    return loaded


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
