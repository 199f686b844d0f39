"""One cell of a comparison: a method trained on one fold with one seed, and scored there.

A process of its own, so that its failure or its memory ends with it: `python -m
isanet_jax.comparison.cell` reads a job (see `isanet_jax.comparison.runner`) as JSON from its
standard input.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isanet_jax import machine, runtime
from isanet_jax.errors import ConfigError

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from isanet_jax.settings import Config

STOPPED = 3  # exit status: a signal stopped the training, which can be resumed
# What a finished cell leaves in its folder.
SCORES, SCORES_BY_CLASS, MASKS = "scores.json", "scores_by_class.json", "masks.npz"
BURDEN = "burden.json"
TRAINING = "training.json"  # what it took


def run_cell(
    config: "Config",
    folder: Path,
    *,
    thresholds: bool,
    masks_of: str | None = None,
    members: Sequence["Config"] = (),
    snapshots: bool = False,
) -> bool:
    """Trains, scores the test fold on the original CT grid, and writes both.

    Args:
        config: of the run.
        folder: of the run; gets scores.json (method -> ID -> metrics; of several classes, their
            mean), of several classes scores_by_class.json (class -> the same), masks.npz (ID ->
            the network's mask of all classes on the case grid, as packed bits), and training.json
            (epochs; cpu_minutes, user and system, and on a GPU gpu_minutes, by the clock, of the
            trainings and of this process's start;
            validation_dsc of the checkpoint that was chosen, the mean over the members, None where
            none was).
        thresholds: score the fixed thresholds on the PET in place of a network.
        masks_of: score the masks in this folder, ID.nii.gz, in place of a network.
        members: configs of an ensemble's networks, whose probabilities' mean predicts. Each gets a
            seed and a folder of its own; with nested selection each chooses its checkpoint on the
            next of the folds that are left, so that none of their cases is lost to all.
        snapshots: the networks are those of one training over restarts: each starts from the
            parameters of the one before, and all choose by the same cases.

    Returns:
        Whether the cell is finished; False where a signal stopped it.
    """
    import jax

    from isanet_jax.comparison.basis import basis_of, begin, finish
    from isanet_jax.evaluation.evaluate import score_given, score_run
    from isanet_jax.evaluation.report import jsonable
    from isanet_jax.files import replace_when_done, write_json
    from isanet_jax.prediction.predictor import Predictor
    from isanet_jax.training.setup import load_cohort, split_cohort

    is_trained = not thresholds and masks_of is None
    runs = [folder / f"member{number}" for number in range(len(members))] or [folder]
    cohort = load_cohort(config)
    basis = basis_of(
        cohort,
        split_cohort(config, cohort),
        is_trained=is_trained,
        inits=[one.init for one in members or (config,)],
        masks_of=masks_of,
    )
    if is_trained:
        begin(folder, basis)
    clocks = ("cpu",) if jax.default_backend() == "cpu" else machine.CLOCKS
    starting = {clock: machine.seconds_by(clock) for clock in clocks}
    if is_trained and not _train_all(config, members, runs, cohort, snapshots=snapshots):
        return False
    masks, burdens = {}, {}

    def on_case(case, stored, probability, predicted, metrics):
        if predicted is not None:
            masks[case] = np.packbits(np.logical_or.reduce(list(predicted.values())))
        _log.info(f"{case}: " + ", ".join(f"{name} {m['dsc']:.4f}" for name, m in metrics.items()))

    cases = split_cohort(config, cohort).test
    names = config.data.classes
    if masks_of is not None:
        scores = score_given(cohort, cases, masks_of, names, on_case, of_case=burdens)
    else:
        predictor = Predictor(runs) if is_trained else None
        if is_trained:
            training = _training(predictor.descriptions, runs, starting)
            write_json(folder / TRAINING, {"epochs": config.train.epochs} | training)
        options = {"classes": names, "thresholds": thresholds, "grids": ("ct",)}
        options |= {"of_case": burdens}
        scores = score_run(predictor, cohort, cases, on_case, **options)
    with replace_when_done(folder / MASKS) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **masks)
    if burdens:
        write_json(folder / BURDEN, burdens)
    *several, last = scores
    if several:
        by_class = {name: jsonable(scores[name]["ct"]) for name in several}
        write_json(folder / SCORES_BY_CLASS, by_class)
    write_json(folder / SCORES, jsonable(scores[last]["ct"]))
    finish(folder, basis)
    return True


def _train_all(config, members, runs, cohort, *, snapshots):
    """Trains the network, or an ensemble's one by one; False where a signal stopped it."""
    from isanet_jax.cases.folds import inner_folds
    from isanet_jax.settings import changed
    from isanet_jax.training.loop import train
    from isanet_jax.training.setup import run_folds

    for number, run in enumerate(runs):
        network = config
        if members:
            own = {"seed": config.seed * len(members) + number}
            if snapshots and number:
                own["init"] = str(runs[number - 1])
            elif members[number].selection == "nested" and not snapshots:
                own["inner_fold"] = number % inner_folds(run_folds(config, cohort))
            network = changed(members[number], own)
        if not train(network, run):
            return False
    return True


def _training(descriptions, runs, starting):
    """What the networks took, with the seconds that this process took to start, and their DSC."""
    from isanet_jax.runs.checkpoint import read_progress

    none = dict.fromkeys(starting, 0.0)  # is known of a network from before they were kept
    taken = [read_progress(run).get("seconds", none) for run in runs]
    chosen = [description["progress"]["best_dsc"] for description in descriptions]
    return {
        f"{clock}_minutes": (seconds + sum(one[clock] for one in taken)) / 60
        for clock, seconds in starting.items()
    } | {
        "validation_dsc": None if None in chosen else float(np.mean(chosen)),
        "start_has_seen": {
            role: len(cases)
            for one in descriptions
            for role, cases in one.get("overlap", {}).items()
        },
    }


def main():
    """Runs the job on standard input."""
    job = json.load(sys.stdin)
    if job["cores"]:
        os.sched_setaffinity(0, job["cores"])  # before JAX makes its threads
        import jax

        if jax.default_backend() != "cpu":
            raise ConfigError(
                "--jobs above 1 shares the processor's cores; a GPU takes one cell at a time. "
                "Omit --jobs"
            )
    from isanet_jax.settings import read

    of = {name: job[name] for name in ("thresholds", "masks_of", "snapshots")}
    of["members"] = [read(one) for one in job["members"]]
    if not run_cell(read(job["config"]), Path(job["folder"]), **of):
        sys.exit(STOPPED)


if __name__ == "__main__":
    runtime.run_program(main)
