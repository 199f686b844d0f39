"""The training run: data, steps, validation, checkpoints and logs, put together."""

import contextlib
import copy
import dataclasses
import json
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from isanet_jax.cases.cohort import Cohort, read_cohort
from isanet_jax.cases.folds import Split, folds_by_centre, split
from isanet_jax.cases.prepare import prepare_phantoms
from isanet_jax.cases.ranges import scan_ranges
from isanet_jax.distributed.processes import in_turn
from isanet_jax.errors import ConfigError, DataError, IsaNetError
from isanet_jax.files import replace_when_done
from isanet_jax.locks import only_here
from isanet_jax.network import systems
from isanet_jax.network.systems import count_parameters
from isanet_jax.pipeline.dataset import evaluation_data, training_data
from isanet_jax.runtime import map_memory, return_memory, say_at_once, stop_signals
from isanet_jax.training.checkpoint import Checkpoints, check_record
from isanet_jax.training.config import (
    check_cohort,
    check_config,
    claim_workdir,
    compare_workdir,
    model_config,
)
from isanet_jax.training.log import NoLog, RunLog
from isanet_jax.training.needs import GIB, compile_with_needs, device_bytes
from isanet_jax.training.profile import StepTrace
from isanet_jax.training.schedule import poly_schedule, restart_schedule
from isanet_jax.training.step import (
    batch_share,
    init_state,
    local_rows,
    make_mesh,
    make_optimizer,
    make_predict,
    make_train_step,
    not_finite,
    place_batch,
)

# Of a device's memory, that a step may need for its memory to be kept for the next step: up to
# twice as much is then held.
_KEPT_SHARE = 0.2
# What a step that does not fit is tried with, the least costly first.
_SAVINGS = (
    {"model.remat": "convolutions"},
    {"model.remat": "blocks"},
    {"model.remat": "levels"},
    {"model.dtype": "bfloat16", "model.remat": "blocks"},
    {"model.dtype": "bfloat16", "model.remat": "levels"},
    {"model.dtype": "bfloat16", "model.remat": "levels", "train.batch": "one a device"},
)


class StopRequest:
    """Context that turns SIGTERM, SIGINT and SIGHUP into a request: `signal_name` is then set.

    A second signal ends the program at once, and so does the first while there is nothing to save.
    SIGHUP that is ignored (nohup) stays so.

    Attributes:
        signal_name: of the signal that this process has got.
        is_agreed: whether every process knows that one of them is to stop.
        has_steps: whether steps have been made that saving would keep.
    """

    signal_name: str | None = None
    is_agreed = False
    has_steps = False

    @property
    def reason(self) -> str | None:
        """Why to stop after this step; of several processes, the same step for all."""
        if jax.process_count() == 1:
            return self.signal_name
        return (self.signal_name or "another process's signal") if self.is_agreed else None

    def __enter__(self):
        self._previous = {s: signal.signal(s, self._receive) for s in stop_signals()}
        return self

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        # Several processes stop together, in the first step that all of them make.
        if self.signal_name or not (self.has_steps or jax.process_count() > 1):
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
        say_at_once(f"\n{self.signal_name}: saving after this step ...")


def interruptibly(function: Callable):
    """What the function returns; meanwhile signals are heard, which compilers would hold up.

    A signal that raises leaves the function running: the program must end.
    """
    done, outcome = threading.Event(), {}

    def run():
        try:
            outcome["value"] = function()
        except BaseException as error:
            outcome["error"] = error
        done.set()

    threading.Thread(target=run, daemon=True).start()
    while not done.wait(0.2):
        pass
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


def load_cohort(config: dict) -> Cohort:
    """The config's cases; makes the phantoms where the config asks for them and they are missing.

    Raises:
        DataError: no prepared cases.
        ConfigError: cases that were prepared otherwise.
    """
    data = config["data"]
    manifest = Path(data["cases"]) / "manifest.json"
    if data["phantoms"] and not manifest.exists():
        with only_here(data["cases"], "prepare", "makes cases there", wait=True):
            if not manifest.exists():
                print(f"making {data['phantoms']} phantoms in {data['cases']}")
                prepare_phantoms(data["cases"], cases=data["phantoms"], size=data["size"], seed=0)
    cohort = read_cohort(data["cases"])
    check_cohort(config, cohort)
    return cohort


def split_cohort(config: dict, cohort: Cohort) -> Split:
    """The roles of the cases in a run.

    Raises:
        ConfigError: see `isanet_jax.cases.folds.split` and `folds_by_centre`.
    """
    fold_of = cohort.fold_of
    if config["fold_by"] == "centre":
        fold_of = folds_by_centre({case: e["centre"] for case, e in cohort.cases.items()})
    return split(fold_of, fold=config["fold"], selection=config["selection"])


@dataclasses.dataclass(frozen=True)
class _Run:
    """What a run is made of, besides its state."""

    config: dict
    cohort: Cohort
    parts: Split
    steps_per_epoch: int
    schedule: optax.Schedule
    mesh: Mesh
    train_step: Callable
    predict: Callable

    @property
    def total_steps(self):
        return self.config["train"]["epochs"] * self.steps_per_epoch


def train(config: dict, workdir: Path, *, profiled_steps: int = 0) -> bool:
    """Trains until the last epoch, or goes on where an earlier call was stopped.

    With several processes (`isanet_jax.distributed.processes`), each calls it with the same
    arguments.

    Args:
        config: see configs/hecktor.py.
        workdir: gets config.json, checkpoints/, metrics.jsonl and tensorboard/.
        profiled_steps: how many steps are traced into profile/; see
            `isanet_jax.training.profile`.

    Returns:
        Whether the training is complete; False where a signal stopped it.

    Raises:
        ConfigError, DataError, CheckpointError: see the functions called; another program trains
            in the folder.
        IsaNetError: the loss, the parameters or a probability are not finite.
    """
    check_config(config)
    workdir = Path(workdir)
    mesh = make_mesh(config["mesh"]["data"], config["mesh"]["space"])

    def look():
        compare_workdir(workdir, config)
        check_record(workdir)
        cohort = load_cohort(config)
        check_labels(cohort, split_cohort(config, cohort))
        return cohort

    cohort = in_turn(look)
    is_first = jax.process_index() == 0
    with only_here(workdir, "train", "trains there") if is_first else contextlib.nullcontext():
        return _train_alone(config, workdir, mesh, cohort, profiled_steps)


def _train_alone(config, workdir, mesh, cohort, profiled_steps):
    """`train`, in a folder that no other program trains in."""
    is_first = jax.process_index() == 0
    run, state = _build(config, cohort, mesh)
    parts = run.parts
    info = {
        "config": config,
        "preparation": cohort.settings,
        "seen": scan_ranges(cohort, parts.train),
        "split": {"train": parts.train, "selection": parts.selection, "test": parts.test},
    }
    data = training_data(
        cohort,
        parts.train,
        batch=config["train"]["batch"],
        seed=config["seed"],
        augment=config["augment"],
        share=batch_share(mesh),
    )
    with (
        contextlib.closing(iter(data)) as batches,
        Checkpoints(workdir, info=info) as checkpoints,
        StopRequest() as stop,
    ):
        progress = {"best_dsc": -1.0, "best_epoch": 0}
        restored = checkpoints.load_latest(state)
        if restored:
            state, progress = restored
            batches.set_state(progress["data"])
            if progress["best_epoch"]:
                checkpoints.check_best()
        step = int(state.step)
        if step >= run.total_steps:
            print(f"{workdir} is trained already; next: python eval.py --workdir {workdir}")
            return True
        if step:
            print(f"going on from step {step} (epoch {step // run.steps_per_epoch + 1})")
        print("compiling the train step: this takes a while the first time ...", flush=True)
        compiled = interruptibly(partial(_compile_step, run, state))
        run = dataclasses.replace(run, train_step=compiled)
        in_turn(partial(claim_workdir, workdir, config))  # nothing refuses the config any more
        record = RunLog(workdir, step, run.total_steps, run.steps_per_epoch)
        with record if is_first else NoLog() as log:
            return _train_steps(
                run,
                state,
                progress,
                workdir=workdir,
                batches=batches,
                checkpoints=checkpoints,
                stop=stop,
                log=log,
                trace=StepTrace(workdir / "profile", profiled_steps if is_first else 0),
            )


def _build(config, cohort, mesh):
    """Compiled functions and the initial state of a run; says what it will do."""
    parts = split_cohort(config, cohort)
    train = config["train"]
    steps_per_epoch = train["steps_per_epoch"] or -(-len(parts.train) // train["batch"])
    schedule = schedule_of(config, steps_per_epoch)
    optimizer = optimizer_of(schedule, config)
    graphdef, state = init_state(model_config(config), optimizer, config["seed"])
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    print(
        f"{count_parameters(state.params):,} parameters, {len(parts.train)} cases to train on, "
        f"{len(parts.selection)} to validate ({config['selection']} protocol, fold "
        f"{config['fold']}), on {mesh.size} {jax.devices()[0].platform} device(s)"
        + (f" of {jax.process_count()} processes" if jax.process_count() > 1 else "")
    )
    empty = [case for case in parts.train if cohort.cases[case]["volume_case_ml"] == 0]
    if empty:
        print(f"warning: {len(empty)} training cases have an empty label: {', '.join(empty)}")
    patch = config["data"]["patch"]
    train_step = make_train_step(graphdef, optimizer, mesh, loss=config["loss"], patch=patch)
    # Mirror images are left to the final prediction: they would make each validation cost eight.
    predict = make_predict(graphdef, mesh, patch=patch)
    return _Run(config, cohort, parts, steps_per_epoch, schedule, mesh, train_step, predict), state


def _compile_step(run, state):
    """The compiled train step; says what it needs.

    Raises:
        ConfigError: it needs more memory than a device has; names settings that need less.
    """
    compiled, needs = compile_with_needs(run.train_step, state, run.config)
    return_memory()
    usable = device_bytes(jax.local_devices()[0])
    print(
        f"a step: {needs.flops / 1e12:.3f} TFLOP, {needs.peak_bytes / GIB:.2f} GiB"
        + (f" of {usable / GIB:.1f} GiB" if usable else "")
        + " a device",
        flush=True,
    )
    if not usable or needs.peak_bytes <= usable:
        if usable and needs.peak_bytes > usable * _KEPT_SHARE:
            map_memory()
        return compiled
    for settings in _SAVINGS:
        config = copy.deepcopy(run.config)
        for name, value in settings.items():
            group, key = name.split(".")
            config[group][key] = run.mesh.size if name == "train.batch" else value
        graphdef, _ = systems.create(model_config(config), jax.random.key(0))
        optimizer = optimizer_of(run.schedule, config)
        patch = config["data"]["patch"]
        step = make_train_step(graphdef, optimizer, run.mesh, loss=config["loss"], patch=patch)
        _, less = compile_with_needs(step, state, config)
        if less.peak_bytes <= usable:
            changes = " ".join(
                f"--config.{name}={config[name.split('.')[0]][name.split('.')[1]]}"
                for name in settings
            )
            advice = f"{less.peak_bytes / GIB:.2f} GiB would do with {changes}"
            break
    else:
        advice = "use a smaller --config.data.patch, --config.model.width or data.size"
    raise ConfigError(
        f"the train step needs {needs.peak_bytes / GIB:.2f} GiB on a device of "
        f"{usable / GIB:.2f} GiB: {advice}. Start with these in a new --workdir"
    )


def schedule_of(config: dict, steps_per_epoch: int) -> optax.Schedule:
    """The config's learning rate: step -> rate."""
    settings = config["optimizer"]
    peak = settings["peak_learning_rate"]
    if settings["schedule"] == "poly":
        epochs = config["train"]["epochs"]
        return poly_schedule(peak=peak, epochs=epochs, steps_per_epoch=steps_per_epoch)
    return restart_schedule(
        peak=peak,
        floor=settings["floor_learning_rate"],
        restart_epochs=settings["restart_epochs"],
        steps_per_epoch=steps_per_epoch,
    )


def optimizer_of(schedule: optax.Schedule, config: dict) -> optax.GradientTransformation:
    """The config's optimiser."""
    names = ("name", "b1", "b2", "momentum", "weight_decay", "clip_norm")
    return make_optimizer(schedule, **{name: config["optimizer"][name] for name in names})


def _train_steps(run, state, progress, *, workdir, batches, checkpoints, stop, log, trace):
    """Steps from the state's on, until the last (True) or until a stop is requested (False)."""
    step, batch_now = int(state.step), next(batches)
    saved = step
    while step < run.total_steps:
        started = time.perf_counter()
        progress["data"] = batches.get_state()  # the iterator's place after this step's batch
        if jax.process_count() > 1:  # all of them learn in the same step that one is to stop
            batch_now["stop"] = np.full(len(batch_now["case"]), bool(stop.signal_name))
        state, metrics = run.train_step(state, place_batch(batch_now, run.mesh))
        # The step runs on its own; the next batch is fetched meanwhile.
        asked = time.perf_counter()
        upcoming = next(batches)
        # The device has waited only if its step was done before the batch came: at most so long.
        waited = time.perf_counter() - asked if metrics["loss"].is_ready() else 0.0
        metrics = {name: float(value) for name, value in metrics.items()}
        stop.is_agreed = bool(metrics.pop("stop", False))
        if not np.isfinite(metrics["loss"]):
            raise _not_finite(workdir, step, batch_now, run.parts.train, metrics, saved=saved)
        step, batch_now, stop.has_steps = step + 1, upcoming, True
        seconds = time.perf_counter() - started
        rate = run.schedule(step - 1)
        cases = run.config["train"]["batch"]
        log.step(step, metrics, rate, cases=cases, seconds=seconds, waited=waited)
        if message := trace.step_done():
            log.message(message)

        epoch, within = divmod(step, run.steps_per_epoch)
        is_due = within == 0 and epoch % run.config["train"]["validate_every"] == 0
        is_due |= step == run.total_steps
        if is_due or stop.reason:
            _check_parameters(state, step, saved)
        if is_due:
            dsc = validate(run.predict, state.params, run.cohort, run.parts.selection, run.mesh)
            is_best = dsc["mean"] > progress["best_dsc"]
            if is_best:
                progress |= {"best_dsc": dsc["mean"], "best_epoch": epoch}
            # Before the checkpoint: what is logged after it would be lacking, were it killed then.
            log.validation(step, dsc, progress)
            if is_best:
                checkpoints.save_best(step, state, progress)
        if is_due or stop.reason:
            log.flush()
            checkpoints.save_latest(step, state, progress)
            saved = step
            return_memory()  # of the validation and of what was written
        if (stop.reason or step == run.total_steps) and (message := trace.stop()):
            log.message(message)
        if stop.reason and step < run.total_steps:
            checkpoints.close()
            log.message(
                f"stopped on {stop.reason} after step {step}, saved; the same command goes on "
                "from here"
            )
            return False
    checkpoints.check_best()
    checkpoints.close()
    log.message(
        f"done: best validation DSC {progress['best_dsc']:.4f} in epoch {progress['best_epoch']}; "
        f"next: python eval.py --workdir {workdir}"
    )
    return True


def validate(predict, params, cohort: Cohort, cases, mesh: Mesh) -> dict:
    """DSC at threshold 0.5 on the case grid; cases are spread over the mesh's `data` axis.

    Returns:
        `mean` over the cases, and `cases`: ID -> DSC; two empty masks count 1.

    Raises:
        IsaNetError: a probability is not finite.
    """
    rows, (part, parts) = mesh.shape["data"], batch_share(mesh)
    each = rows // parts  # cases of this process at a time
    # The last case fills up the last batch.
    own = [i for i in range(-(-len(cases) // rows) * rows) if i // each % parts == part]
    stored = iter(evaluation_data(cohort, [cases[min(i, len(cases) - 1)] for i in own]))
    counts = []
    while batch := [case for _, case in islice(stored, each)]:
        images = {"ct": np.stack([c.ct for c in batch]), "pet": np.stack([c.pet for c in batch])}
        placed = place_batch(images, mesh)
        probability = local_rows(predict(params, placed["ct"], placed["pet"]))
        if not np.isfinite(probability).all():
            bad = next(i for i, p in enumerate(probability) if not np.isfinite(p).all())
            raise IsaNetError(
                f"the network's probability is not finite on the validation case "
                f"{batch[bad].meta['case']}: nothing was saved of this epoch. Look at this case; "
                "if it is sound, lower --config.optimizer.peak_learning_rate or use "
                "--config.model.dtype=float32 in a new --workdir"
            )
        masks = probability >= 0.5
        labels = [case.label > 0 for case in batch]
        counts += [(m.sum() + t.sum(), (m & t).sum()) for m, t in zip(masks, labels, strict=True)]
    of_all = multihost_utils.process_allgather(np.c_[own, counts].astype(np.int32))
    both = {index: (total, common) for index, total, common in of_all.reshape(-1, 3).tolist()}
    scores = {}
    for index, case in enumerate(cases):
        total, common = both[index]
        scores[case] = 2 * common / total if total else 1.0
    return {"mean": float(np.mean(list(scores.values()))), "cases": scores}


def check_labels(cohort: Cohort, parts: Split) -> None:
    """Refuses a run that has nothing to learn, or nothing to choose its checkpoint by.

    Raises:
        DataError: all labels of the training cases, or of the validation cases, are empty.
    """
    for cases, what, consequence in (
        (parts.train, "training", "there is nothing to learn"),
        (parts.selection, "validation", "a network that finds nothing would score 1"),
    ):
        if all(cohort.cases[case]["volume_case_ml"] == 0 for case in cases):
            raise DataError(
                f"the labels of all {len(cases)} {what} cases are empty: {consequence}",
                file=cohort.folder,
                wanted="tumour in some of them",
                action="Look at --label-values (or --target, --roi) of prepare.py, and at check",
            )


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


def _kept(saved):
    if not saved:
        return "No checkpoint had been saved before."
    return f"The last checkpoint, of step {saved}, is from before."


def _not_finite(workdir, step, batch, cases, metrics, *, saved):
    """Writes the batch and returns the error that names its cases."""
    # Of several processes, each writes what it has read of the batch.
    rank = f"_{jax.process_index()}" if jax.process_count() > 1 else ""
    path = workdir / f"nonfinite_batch{rank}.npz"
    with replace_when_done(path) as partial, open(partial, "wb") as file:
        np.savez(file, **batch)
    names = sorted({cases[i] for key in ("case", "partner") for i in batch[key]})
    return IsaNetError(
        f"the loss is not finite at step {step + 1} ({json.dumps(metrics)}) on the cases "
        f"{', '.join(names)}. The batch is in {path}. {_kept(saved)} "
        "Look at these cases; if they are sound, lower --config.optimizer.peak_learning_rate or "
        "use --config.model.dtype=float32 in a new --workdir"
    )
