"""What a training is made of: cases, splits, compiled functions and the first state."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import jax
import optax
from jax.sharding import Mesh

from isanet_jax.arguments import command
from isanet_jax.cases.cohort import Cohort, read_cohort
from isanet_jax.cases.folds import Split, folds_by_centre, split
from isanet_jax.cases.prepare_cohort import prepare_phantoms
from isanet_jax.datasets.phantom import NODAL_CLASSES
from isanet_jax.distributed.mesh import batch_part, compiler_options, state_shardings
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.locks import only_here
from isanet_jax.machine import GIB, map_memory, return_memory
from isanet_jax.network import systems
from isanet_jax.network.systems import count_parameters
from isanet_jax.pipeline.dataset import training_data
from isanet_jax.pipeline.inputs import Inputs, make_inputs
from isanet_jax.runs.checkpoint import TrainState
from isanet_jax.settings import Config, changed
from isanet_jax.training.check import check_cohort
from isanet_jax.training.cost import compile_with_cost, device_bytes
from isanet_jax.training.optimizer import make_optimizer, make_schedule
from isanet_jax.training.step import init_state, make_predict, make_train_step

_log = logging.getLogger(__name__)

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


def load_cohort(config: Config) -> Cohort:
    """The config's cases; makes the phantoms where the config asks for them and they are missing.

    Raises:
        DataError: no prepared cases.
        ConfigError: cases that were prepared otherwise.
    """
    data = config.data
    manifest = Path(data.cases) / "manifest.json"
    if data.phantoms and not manifest.exists():
        with only_here(data.cases, "prepare", "makes cases there", wait=True):
            if not manifest.exists():
                _log.info(f"making {data.phantoms} phantoms in {data.cases}")
                is_nodal = set(data.classes) <= set(NODAL_CLASSES)
                kind = "body" if data.is_whole else "nodes" if is_nodal else "head"
                prepare_phantoms(data.cases, kind=kind, cases=data.phantoms, size=data.size, seed=0)
    cohort = read_cohort(data.cases)
    check_cohort(config, cohort)
    return cohort


def split_cohort(config: Config, cohort: Cohort) -> Split:
    """The roles of the cases in a run.

    Raises:
        ConfigError, DataError: see `isanet_jax.cases.folds.split` and `folds_by_centre`.
    """
    return split(
        run_folds(config, cohort),
        fold=config.fold,
        selection=config.selection,
        inner_fold=config.inner_fold,
    )


def run_folds(config: Config, cohort: Cohort) -> dict[str, int]:
    """Case ID -> fold, as a run's `fold_by` counts them.

    Raises:
        ConfigError, DataError: see `isanet_jax.cases.folds.folds_by_centre`.
    """
    if config.fold_by == "centre":
        return folds_by_centre(cohort.cases)
    return cohort.fold_of


@dataclasses.dataclass(frozen=True)
class Training:
    """What a training is made of, besides its state."""

    config: Config
    cohort: Cohort
    parts: Split
    inputs: Inputs
    steps_per_epoch: int
    schedule: optax.Schedule
    mesh: Mesh
    train_step: Callable
    predict: Callable

    @property
    def total_steps(self):
        return self.config.train.epochs * self.steps_per_epoch

    def batches(self):
        """What is trained on, see `isanet_jax.pipeline.dataset.training_data`; an iterator."""
        data = training_data(
            self.cohort,
            self.parts.train,
            self.inputs,
            batch=self.config.train.batch,
            seed=self.config.seed,
            augment=self.config.augment,
            part=batch_part(self.mesh),
        )
        return iter(data)


def set_up(config: Config, cohort: Cohort, mesh: Mesh) -> tuple[Training, TrainState]:
    """Compiled functions and the initial state of a training; says what it will do."""
    parts = split_cohort(config, cohort)
    train = config.train
    steps_per_epoch = train.steps_per_epoch or -(-len(parts.train) // train.batch)
    schedule = make_schedule(config.optimizer, train.epochs, steps_per_epoch)
    optimizer = make_optimizer(config.optimizer, schedule)
    graphdef, state = init_state(systems.of_config(config), optimizer, config.seed)
    state = jax.device_put(state, state_shardings(state, mesh))
    _log.info(
        f"{count_parameters(state.params):,} parameters, {len(parts.train)} cases to train on, "
        f"{len(parts.selection)} to validate (selection {config.selection!r}, fold "
        f"{config.fold}), on {mesh.size} {jax.devices()[0].platform} device(s)"
        + (f" of {jax.process_count()} processes" if jax.process_count() > 1 else "")
    )
    empty = [case for case in parts.train if not has_tumour(cohort, case, config.data.classes)]
    if empty:
        _log.warning(
            f"warning: {len(empty)} training cases have an empty label: {', '.join(empty)}"
        )
    inputs = make_inputs(config, cohort, parts.train)
    options = compiler_options(config, mesh)
    for_steps = compiler_options(config, mesh, steps=steps_per_epoch * train.epochs)
    train_step = make_train_step(
        graphdef, optimizer, mesh, inputs, loss=config.loss, options=for_steps
    )
    # Mirror images are left to the final prediction: they would make each validation cost eight.
    predict = make_predict(
        graphdef,
        mesh,
        tuple(inputs.images.items()),
        of_volume=inputs.of_volume,
        ct_windows=inputs.ct_windows,
        guided_classes=inputs.guided_classes,
        options=options,
    )
    made = (config, cohort, parts, inputs, steps_per_epoch, schedule, mesh, train_step, predict)
    return Training(*made), state


def compile_step(training: Training, state: TrainState):
    """The compiled train step; says what it needs.

    Raises:
        ConfigError: it needs more memory than a device has; names settings that need less.
    """
    batch, inputs = training.config.train.batch, training.inputs
    compiled, cost = compile_with_cost(training.train_step, state, batch, inputs)
    return_memory()
    usable = device_bytes(jax.local_devices()[0])
    _log.info(
        "a step: "
        + (f"{cost.flops / 1e12:.3f} TFLOP, " if cost.flops else "")
        + f"{cost.peak_bytes / GIB:.2f} GiB"
        + (f" of {usable / GIB:.1f} GiB" if usable else "")
        + " a device",
    )
    if not usable or cost.peak_bytes <= usable:
        if usable and cost.peak_bytes > usable * _KEPT_SHARE:
            map_memory()
        return compiled
    for settings in _SAVINGS:
        changes = {
            name: training.mesh.size if name == "train.batch" else value
            for name, value in settings.items()
        }
        config = changed(training.config, changes)
        graphdef, _ = systems.create_abstract(systems.of_config(config))
        optimizer = make_optimizer(config.optimizer, training.schedule)
        steps = training.steps_per_epoch * config.train.epochs
        options = compiler_options(config, training.mesh, steps=steps)
        step = make_train_step(
            graphdef, optimizer, training.mesh, inputs, loss=config.loss, options=options
        )
        _, less = compile_with_cost(step, state, config.train.batch, inputs)
        if less.peak_bytes <= usable:
            flags = " ".join(f"--config.{name}={value}" for name, value in changes.items())
            advice = f"{less.peak_bytes / GIB:.2f} GiB would do with {flags}"
            break
    else:
        advice = "use a smaller --config.data.patch, --config.model.width or data.size"
    raise ConfigError(
        f"the train step needs {cost.peak_bytes / GIB:.2f} GiB on a device of "
        f"{usable / GIB:.2f} GiB: {advice}. Start with these in a new --workdir"
    )


def has_tumour(cohort: Cohort, case: str, classes) -> bool:
    """Whether a case has any of the classes on its grid."""
    volumes_ml = cohort.cases[case]["volumes_case_ml"]
    return any(volumes_ml[name] > 0 for name in classes)


def check_labels(config: Config, cohort: Cohort, parts: Split) -> None:
    """Refuses a run that has nothing to learn, or nothing to choose its checkpoint by.

    Raises:
        DataError: all labels of the training cases, or of the validation cases, are empty.
    """
    of_selection = (parts.selection, "validation", "a network that finds nothing would score 1")
    for cases, what, consequence in (
        (parts.train, "training", "there is nothing to learn"),
        *([of_selection] if parts.selection else []),
    ):
        if not any(has_tumour(cohort, case, config.data.classes) for case in cases):
            raise DataError(
                f"the labels of all {len(cases)} {what} cases are empty: {consequence}",
                file=cohort.folder,
                wanted="tumour in some of them",
                action=f"Look at --label-values, --target and --roi of {command('prepare')}, and "
                "at its check",
            )
