"""What a run is made of: cases, splits, compiled functions and the first state."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import optax
from jax.sharding import Mesh

from isanet_jax.cases.cohort import Cohort, prepare_phantoms, read_cohort
from isanet_jax.cases.folds import Split, folds_by_centre, split
from isanet_jax.datasets.phantom import NODAL_CLASSES
from isanet_jax.distributed.mesh import batch_part, compiler_options, state_shardings
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.locks import only_here
from isanet_jax.network import systems
from isanet_jax.network.systems import count_parameters
from isanet_jax.pipeline.dataset import Inputs, training_data
from isanet_jax.runtime import command, map_memory, return_memory
from isanet_jax.training.config import class_names, make_inputs, model_config, patch_of
from isanet_jax.training.config_check import check_cohort
from isanet_jax.training.cost import GIB, compile_with_cost, device_bytes
from isanet_jax.training.optimizer import make_optimizer_from, make_schedule
from isanet_jax.training.step import init_state, make_predict, make_train_step

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
                is_nodal = set(data["classes"]) <= set(NODAL_CLASSES)
                kind = "body" if data["fit"] == "whole" else "nodes" if is_nodal else "head"
                options = {"cases": data["phantoms"], "size": data["size"], "seed": 0}
                prepare_phantoms(data["cases"], kind=kind, **options)
    cohort = read_cohort(data["cases"])
    check_cohort(config, cohort)
    return cohort


def split_cohort(config: dict, cohort: Cohort) -> Split:
    """The roles of the cases in a run.

    Raises:
        ConfigError, DataError: see `isanet_jax.cases.folds.split` and `folds_by_centre`.
    """
    return split(
        run_folds(config, cohort),
        fold=config["fold"],
        selection=config["selection"],
        inner_fold=config.get("inner_fold", 0),
    )


def run_folds(config: dict, cohort: Cohort) -> dict[str, int]:
    """Case ID -> fold, as a run's `fold_by` counts them.

    Raises:
        ConfigError, DataError: see `isanet_jax.cases.folds.folds_by_centre`.
    """
    if config["fold_by"] == "centre":
        return folds_by_centre(cohort.cases)
    return cohort.fold_of


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run is made of, besides its state."""

    config: dict
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
        return self.config["train"]["epochs"] * self.steps_per_epoch

    def batches(self):
        """What is trained on, see `isanet_jax.pipeline.dataset.training_data`; an iterator."""
        data = training_data(
            self.cohort,
            self.parts.train,
            self.inputs,
            batch=self.config["train"]["batch"],
            seed=self.config["seed"],
            augment=self.config["augment"],
            part=batch_part(self.mesh),
        )
        return iter(data)


def build_run(config, cohort, mesh):
    """Compiled functions and the initial state of a run; says what it will do."""
    parts = split_cohort(config, cohort)
    train = config["train"]
    steps_per_epoch = train["steps_per_epoch"] or -(-len(parts.train) // train["batch"])
    schedule = make_schedule(config, steps_per_epoch)
    optimizer = make_optimizer_from(schedule, config)
    graphdef, state = init_state(model_config(config), optimizer, config["seed"])
    state = jax.device_put(state, state_shardings(state, mesh))
    print(
        f"{count_parameters(state.params):,} parameters, {len(parts.train)} cases to train on, "
        f"{len(parts.selection)} to validate (selection {config['selection']!r}, fold "
        f"{config['fold']}), on {mesh.size} {jax.devices()[0].platform} device(s)"
        + (f" of {jax.process_count()} processes" if jax.process_count() > 1 else "")
    )
    empty = [case for case in parts.train if not has_tumour(cohort, case, config)]
    if empty:
        print(f"warning: {len(empty)} training cases have an empty label: {', '.join(empty)}")
    inputs = make_inputs(config, cohort, parts.train)
    options = compiler_options(config, mesh)
    train_step = make_train_step(
        graphdef, optimizer, mesh, inputs, loss=config["loss"], options=options
    )
    # Mirror images are left to the final prediction: they would make each validation cost eight.
    predict = make_predict(
        graphdef,
        mesh,
        tuple(inputs.images.items()),
        window=None if config["data"]["fit"] == "whole" else patch_of(config),
        of_volume=inputs.of_volume,
        ct_windows=inputs.ct_windows,
        options=options,
    )
    run = Run(config, cohort, parts, inputs, steps_per_epoch, schedule, mesh, train_step, predict)
    return run, state


def compile_step(run, state):
    """The compiled train step; says what it needs.

    Raises:
        ConfigError: it needs more memory than a device has; names settings that need less.
    """
    compiled, cost = compile_with_cost(
        run.train_step, state, run.config["train"]["batch"], run.inputs
    )
    return_memory()
    usable = device_bytes(jax.local_devices()[0])
    print(
        "a step: "
        + (f"{cost.flops / 1e12:.3f} TFLOP, " if cost.flops else "")
        + f"{cost.peak_bytes / GIB:.2f} GiB"
        + (f" of {usable / GIB:.1f} GiB" if usable else "")
        + " a device",
        flush=True,
    )
    if not usable or cost.peak_bytes <= usable:
        if usable and cost.peak_bytes > usable * _KEPT_SHARE:
            map_memory()
        return compiled
    for settings in _SAVINGS:
        config = copy.deepcopy(run.config)
        for name, value in settings.items():
            group, key = name.split(".")
            config[group][key] = run.mesh.size if name == "train.batch" else value
        graphdef, _ = systems.create_abstract(model_config(config))
        optimizer = make_optimizer_from(run.schedule, config)
        options = compiler_options(config, run.mesh)
        step = make_train_step(
            graphdef, optimizer, run.mesh, run.inputs, loss=config["loss"], options=options
        )
        _, less = compile_with_cost(step, state, config["train"]["batch"], run.inputs)
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
        f"the train step needs {cost.peak_bytes / GIB:.2f} GiB on a device of "
        f"{usable / GIB:.2f} GiB: {advice}. Start with these in a new --workdir"
    )


def has_tumour(cohort: Cohort, case: str, config: dict) -> bool:
    """Whether a case has any of the config's classes on its grid."""
    volumes_ml = cohort.cases[case]["volumes_case_ml"]
    return any(volumes_ml[name] > 0 for name in class_names(config))


def check_labels(config: dict, cohort: Cohort, parts: Split) -> None:
    """Refuses a run that has nothing to learn, or nothing to choose its checkpoint by.

    Raises:
        DataError: all labels of the training cases, or of the validation cases, are empty.
    """
    of_selection = (parts.selection, "validation", "a network that finds nothing would score 1")
    for cases, what, consequence in (
        (parts.train, "training", "there is nothing to learn"),
        *([of_selection] if parts.selection else []),
    ):
        if not any(has_tumour(cohort, case, config) for case in cases):
            raise DataError(
                f"the labels of all {len(cases)} {what} cases are empty: {consequence}",
                file=cohort.folder,
                wanted="tumour in some of them",
                action=f"Look at --label-values, --target and --roi of {command('prepare')}, and "
                "at its check",
            )
