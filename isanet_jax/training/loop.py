"""The training run: data, steps, validation, checkpoints and logs, put together."""

import contextlib
import dataclasses
import json
import logging
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from isanet_jax.arguments import command, image_flags
from isanet_jax.cases.ranges import scan_ranges
from isanet_jax.distributed.mesh import make_mesh, place_batch
from isanet_jax.distributed.processes import first_process_first
from isanet_jax.errors import IsaNetError
from isanet_jax.files import replace_when_done
from isanet_jax.locks import only_here
from isanet_jax.machine import CLOCKS, return_memory, seconds_by
from isanet_jax.runs.checkpoint import Checkpoints, check_record
from isanet_jax.runs.folder import claim_workdir, compare_workdir
from isanet_jax.runs.log import NoLog, RunLog
from isanet_jax.runs.seen import carried_on, cases_of, identities, overlap_of_start
from isanet_jax.runs.track import Tracker, tracker_package
from isanet_jax.settings import Config, to_dict
from isanet_jax.training.check import check_config
from isanet_jax.training.optimizer import averaged
from isanet_jax.training.profile import StepTrace
from isanet_jax.training.setup import (
    check_labels,
    compile_step,
    load_cohort,
    run_folds,
    set_up,
    split_cohort,
)
from isanet_jax.training.start import read_start, started_from
from isanet_jax.training.step import not_finite
from isanet_jax.training.stop import StopRequest, interruptibly
from isanet_jax.training.validate import validate

_log = logging.getLogger(__name__)

_DIVERGED = 1000.0  # times the first losses
_KEPT_SHARE = 0.9  # of an exponential average, at each validation (nnU-Net)


def train(
    config: Config | ConfigDict | dict,
    workdir: Path,
    *,
    profiled_steps: int = 0,
    track: str | None = None,
) -> bool:
    """Trains until the last epoch, or resumes where an earlier call was stopped.

    With several processes (`isanet_jax.distributed.processes`), each calls it with the same
    arguments.

    Args:
        config: the settings.
        workdir: gets config.json, checkpoints/, metrics.jsonl and tensorboard/.
        profiled_steps: how many steps are traced into profile/; see
            `isanet_jax.training.profile`.
        track: a name of `isanet_jax.runs.track.TRACKERS`, that records the run, too.

    Returns:
        Whether the training is complete; False where a signal stopped it.

    Raises:
        ConfigError, DataError, CheckpointError: see the functions called; another program trains
            in the folder.
        IsaNetError: the loss, the parameters or a probability are not finite.
    """
    config = check_config(config)
    if track:
        tracker_package(track)
    workdir = Path(workdir)
    mesh = make_mesh(config.mesh.data, config.mesh.space)

    def look():
        compare_workdir(workdir, config)
        check_record(workdir)
        cohort = load_cohort(config)
        check_labels(config, cohort, split_cohort(config, cohort))
        return cohort

    cohort = first_process_first(look)
    is_first = jax.process_index() == 0
    with only_here(workdir, "train", "trains there") if is_first else contextlib.nullcontext():
        return _train_alone(
            config, workdir, mesh, cohort, profiled_steps=profiled_steps, track=track
        )


def _train_alone(config, workdir, mesh, cohort, *, profiled_steps, track):
    """`train`, in a folder that no other program trains in."""
    is_first = jax.process_index() == 0
    began = {clock: seconds_by(clock) for clock in CLOCKS}
    training, state = set_up(config, cohort, mesh)
    parts = training.parts
    info = {
        "config": to_dict(config),
        "preparation": cohort.settings,
        "seen": scan_ranges(cohort, parts.train),
        "ct_windows": [list(window) for window in training.inputs.ct_windows],
        "split": {"train": parts.train, "selection": parts.selection, "test": parts.test},
        "cases": cases_of(cohort, parts),
        "identities": identities(cohort, parts),
    }
    with (
        contextlib.closing(training.batches()) as batches,
        Checkpoints(workdir, info=info) as checkpoints,
        StopRequest() as stop,
    ):
        progress = {"best_dsc": -1.0, "best_epoch": 0, "seconds": dict.fromkeys(CLOCKS, 0.0)}
        restored = checkpoints.load_latest(state)
        if restored:
            state, saved = restored
            progress |= saved
            batches.set_state(progress["data"])
            if progress["best_epoch"]:
                checkpoints.check_best()
        elif config.init:
            start = read_start(config.init)
            before = carried_on(start.description)
            overlap = overlap_of_start(config, cohort, parts, before, run_folds(config, cohort))
            more = {"identities": info["identities"] | before}
            checkpoints.describe(**more, **({"overlap": overlap} if overlap else {}))
            params, said = started_from(start, state.params)
            state = state._replace(params=params)
            _log.info(said)
        # As if what earlier calls took had been just before this one.
        began = {clock: began[clock] - progress["seconds"][clock] for clock in CLOCKS}
        step = int(state.step)
        if step >= training.total_steps:
            _log.info(f"{workdir} is trained already; next: {command('eval')} --workdir {workdir}")
            return True
        if step:
            _log.info(f"resuming from step {step} (epoch {step // training.steps_per_epoch + 1})")
        _log.info("compiling the train step: this takes a while the first time ...")
        compiled = interruptibly(partial(compile_step, training, state))
        training = dataclasses.replace(training, train_step=compiled)
        first_process_first(
            partial(claim_workdir, workdir, config)
        )  # nothing refuses the config any more
        tracker = Tracker(track, workdir, to_dict(config)) if track and is_first else None
        record = RunLog(
            workdir, step, training.total_steps, training.steps_per_epoch, tracker=tracker
        )
        with record if is_first else NoLog() as log:
            return _train_steps(
                training,
                state,
                progress,
                began,
                workdir=workdir,
                batches=batches,
                checkpoints=checkpoints,
                stop=stop,
                log=log,
                trace=StepTrace(workdir / "profile", profiled_steps if is_first else 0),
            )


def _train_steps(
    training, state, progress, began, *, workdir, batches, checkpoints, stop, log, trace
):
    """Steps from the state's on, until the last (True) or until a stop is requested (False).

    A step's metrics are read when the next one has been started, and its batch is on the device
    before: so the device never waits for this loop.
    """
    step = int(state.step)
    batch_now = _next_batch(batches, stop)
    placed, unread = place_batch(batch_now, training.mesh), None
    reader = _Reader(training, workdir, stop, log, trace, saved=step)
    while step < training.total_steps:
        progress["data"] = batches.get_state()  # the iterator's place after this step's batch
        state, metrics = training.train_step(state, placed)
        step, stop.has_steps = step + 1, True
        # The step runs on its own; the next batch is fetched and copied meanwhile.
        asked = time.perf_counter()
        upcoming = _next_batch(batches, stop)
        placed = place_batch(upcoming, training.mesh)
        # The device has waited only if its step was done before the batch came: at most so long.
        waited = time.perf_counter() - asked if metrics["loss"].is_ready() else 0.0
        if unread:
            reader.read(unread)
        unread = _Started(step, metrics, batch_now, waited)
        batch_now = upcoming

        epoch, within = divmod(step, training.steps_per_epoch)
        is_due = within == 0 and epoch % training.config.train.validate_every == 0
        is_due |= step == training.total_steps
        reason = stop.reason  # may change at any time
        if is_due or reason:
            reader.read(unread)
            unread = None
            _check_parameters(state, step, reader.saved)
            if is_due:
                _check_loss(reader.take_losses(), progress, reader.saved)
            if is_due:
                _select(training, state, progress, step, epoch, log=log, checkpoints=checkpoints)
                reason = reason or stop.reason
            log.flush()
            progress["seconds"] = {clock: seconds_by(clock) - began[clock] for clock in CLOCKS}
            checkpoints.save_latest(step, state, progress)
            return_memory()  # of the validation and of what was written
            reader.start_again(saved=step)
        if (reason or step == training.total_steps) and (message := trace.stop()):
            log.message(message)
        if reason and step < training.total_steps:
            checkpoints.close()
            log.message(
                f"stopped on {reason} after step {step}, saved; the same command resumes from here"
            )
            return False
    checkpoints.check_best()
    checkpoints.close()
    best, following = "the last checkpoint counts", f"{command('eval')} --workdir {workdir}"
    if training.parts.selection:
        best = f"best validation DSC {progress['best_dsc']:.4f} in epoch {progress['best_epoch']}"
    elif not training.parts.test:
        best = f"all {len(training.parts.train)} cases were trained on, and none is left to score"
        images = image_flags(training.config.data.images)
        following = f"{command('predict')} --workdir {workdir} {images} --output MASK"
    log.message(f"done: {best}; next: {following}")
    return True


class _Started(NamedTuple):
    """A step whose metrics have not been read: its number, their arrays, its batch, its wait."""

    step: int
    metrics: dict
    batch: dict
    waited: float


class _Reader:
    """Waits for steps that were started; checks and logs them.

    Attributes:
        saved: the last step that a checkpoint has.
    """

    def __init__(self, training, workdir, stop, log, trace, *, saved):
        self.training, self.workdir, self.stop, self.log, self.trace = (
            training,
            workdir,
            stop,
            log,
            trace,
        )
        self._losses = []
        self.start_again(saved=saved)

    def start_again(self, *, saved):
        """After what is not a step's time."""
        self.saved, self._clock = saved, time.perf_counter()

    def take_losses(self) -> list[float]:
        """The losses that were read since this was called last."""
        taken, self._losses = self._losses, []
        return taken

    def read(self, late: _Started):
        """Raises IsaNetError where the step's loss is not finite."""
        metrics = {name: float(value) for name, value in late.metrics.items()}
        self.stop.is_agreed = bool(metrics.pop("stop", False))
        if not np.isfinite(metrics["loss"]):
            raise _not_finite(
                self.workdir, late, self.training.parts.train, metrics, saved=self.saved
            )
        self._losses.append(metrics["loss"])
        before, self._clock = self._clock, time.perf_counter()
        self.log.step(
            late.step,
            metrics,
            self.training.schedule(late.step - 1),
            cases=self.training.config.train.batch,
            seconds=self._clock - before,
            waited=late.waited,
        )
        if message := self.trace.step_done():
            self.log.message(message)


def _select(training, state, progress, step, epoch, *, log, checkpoints):
    """Validates, and keeps the state where it is the best so far."""
    if not training.parts.selection and step < training.total_steps:
        return  # nothing to choose by: the last is the best
    params = averaged(state.params, state.opt_state, training.config.optimizer.average)
    if not training.parts.selection:
        progress |= {"best_dsc": None, "best_epoch": epoch}
        checkpoints.save_best(step, state._replace(params=params), progress)
        return
    dsc = validate(training, params, epoch, show=log.picture and partial(log.picture, step))
    value = dsc["mean"]
    if training.config.train.validate_on == "patches":
        # Of few patches, a single validation is mostly luck.
        before = progress.get("average_dsc", value)
        value = progress["average_dsc"] = _KEPT_SHARE * before + (1 - _KEPT_SHARE) * value
    is_best = value > progress["best_dsc"]
    if is_best:
        progress |= {"best_dsc": value, "best_epoch": epoch}
    # Before the checkpoint: what is logged after it would be lacking, were it killed then.
    log.validation(step, dsc, progress)
    if is_best:
        checkpoints.save_best(step, state._replace(params=params), progress)


def _next_batch(batches, stop):
    """The next batch; of several processes, with this one's signal.

    So all of them learn in the same step that one is to stop.
    """
    batch = next(batches)
    if jax.process_count() > 1:
        batch["stop"] = np.full(len(batch["case"]), bool(stop.signal_name))
    return batch


def _check_parameters(state, step, saved):
    """Raises IsaNetError where the state must not be saved."""
    bad = not_finite(state)
    if bad:
        raise IsaNetError(
            f"{len(bad)} of the network's and the optimiser's arrays are not finite after step "
            f"{step}, such as {bad[0]}: they were not saved. {_kept(saved)} Lower "
            "--config.optimizer.peak_learning_rate or use --config.model.dtype=float32 in a new "
            "--workdir"
        )


def _check_loss(losses, progress, saved):
    """Raises IsaNetError where the loss has grown beyond all that a training recovers from."""
    if not losses:
        return
    mean = float(np.mean(losses))
    first = progress.setdefault("first_loss", mean)
    if mean > _DIVERGED * max(abs(first), 1.0):
        raise IsaNetError(
            f"the training has diverged: the loss is {mean:.6g}, and was {first:.4g} at first. "
            f"{_kept(saved)} Lower --config.optimizer.peak_learning_rate or use "
            "--config.model.dtype=float32 in a new --workdir"
        )


def _flat(batch):
    """Arrays of nested dicts by name: `images.ct`."""
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    return {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in leaves}


def _kept(saved):
    if not saved:
        return "No checkpoint had been saved before."
    return f"The last checkpoint, of step {saved}, is from before."


def _not_finite(workdir, late, cases, metrics, *, saved):
    """Writes the step's batch and returns the error that names its cases."""
    # Of several processes, each writes what it has read of the batch.
    rank = f"_{jax.process_index()}" if jax.process_count() > 1 else ""
    path = workdir / f"nonfinite_batch{rank}.npz"
    with replace_when_done(path) as partial, open(partial, "wb") as file:
        np.savez(file, **_flat(late.batch))
    names = sorted({cases[i] for key in ("case", "partner") for i in late.batch[key]})
    return IsaNetError(
        f"the loss is not finite at step {late.step} ({json.dumps(metrics)}) on the cases "
        f"{', '.join(names)}. The batch is in {path}. {_kept(saved)} "
        "Look at these cases; if they are sound, lower --config.optimizer.peak_learning_rate or "
        "use --config.model.dtype=float32 in a new --workdir"
    )
