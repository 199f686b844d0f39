"""A run, an ensemble or folders of masks scored, and what is written of it."""

import logging
from pathlib import Path

from tqdm import tqdm

from isanet_jax.classes import Classes
from isanet_jax.errors import ConfigError, DataError, failure_of
from isanet_jax.evaluation import burden

_log = logging.getLogger(__name__)


def evaluate_runs(  # noqa: PLR0915 - one file after the other is written
    workdirs: list[Path], output: Path, *, cases=None, checkpoint="best", rules=None
) -> dict:
    """Scores a run, or several as an ensemble, and writes metrics and reports.

    Args:
        workdirs: folders of the runs, or models in one file.
        output: folder of the results.
        cases: folder of another cohort of prepared cases; None: the runs' own.
        checkpoint: the `best` one of each run, or the `latest`.
        rules: file of `isanet tune`; None: one half for every class.

    Returns:
        the content of metrics.json.

    Raises:
        CheckpointError, ConfigError, DataError: see the functions called.
    """
    # Here: these import JAX, which --help does not need.
    from isanet_jax.cases.cohort import read_cohort
    from isanet_jax.evaluation import charts, report
    from isanet_jax.evaluation.evaluate import NETWORK, score_run
    from isanet_jax.evaluation.page import Page, metrics_table, pack_case
    from isanet_jax.files import is_bundle, write_csv
    from isanet_jax.metrics import shown_in
    from isanet_jax.prediction.predictor import Predictor
    from isanet_jax.prediction.rules import write_form
    from isanet_jax.runs.log import read_log
    from isanet_jax.runs.seen import BEFORE, in_cohort, said_of, unseen_cases
    from isanet_jax.settings import read_stored
    from isanet_jax.training.check import check_cohort

    predictor = Predictor(workdirs, checkpoint=checkpoint, rules=rules)
    descriptions = predictor.descriptions
    config = read_stored(descriptions[0]["config"])
    own = config.data.cases
    # A model's cases are others', as far as anybody knows.
    is_other = bool(cases) and (not own or Path(cases).resolve() != Path(own).resolve())
    cases = cases or own
    if not cases:
        raise ConfigError(f"{workdirs[0]} has no cases of its own; name prepared ones with --cases")
    cohort = read_cohort(cases)
    descriptions = [in_cohort(description, cohort) for description in descriptions]
    check_cohort(config, cohort)
    ids = unseen_cases(cohort, descriptions)
    roles = BEFORE if not is_other else (*BEFORE, "train", "selection")
    known = {case for one in descriptions for role in roles for case in one["split"][role]}
    if said := said_of(cohort, descriptions, known - set(ids)):
        _log.info(said)
    output.mkdir(parents=True, exist_ok=True)
    page = Page()

    with tqdm(total=len(ids), unit="case", disable=None) as bar:

        def on_case(case, stored, probability, masks, of_method):
            # Of one class: several would hide each other.
            shown_of = probability[..., 0] if len(predictor.classes) == 1 else None
            content = pack_case(stored, stored.masks(predictor.classes), masks, shown_of)
            page.add(case, of_method[NETWORK]["dsc"], content)
            bar.update()

        of_case = {}
        scores = score_run(predictor, cohort, ids, on_case, of_case=of_case)
    runs_here = [workdir for workdir in workdirs if not is_bundle(workdir)]
    logs = {
        f"network {number}": read_log(workdir / "metrics.jsonl")
        for number, workdir in enumerate(runs_here, start=1)
    }
    runs = report.describe_runs(descriptions, ids)
    *_, primary = scores  # of several classes, their mean
    methods = {
        grid: {
            method: {"cases": cases_of, "summary": report.summarise(cases_of)}
            for method, cases_of in all_.items()
        }
        for grid, all_ in scores[primary].items()
    }
    applied = write_form(predictor.rules)
    first = report.first_image(descriptions[0]["preparation"])
    extra = {"grid": f"original {first} grid", "rules": applied, "runs": runs, "grids": methods}
    extra |= _burdens(of_case)
    of_network = {name: of_grid["ct"][NETWORK] for name, of_grid in scores.items()}
    content = report.write_metrics(output, of_network, extra)
    write_csv(output / "metrics.csv", [
        {"case": case, "grid": grid, "method": method}
        | ({"class": name} if len(scores) > 1 else {}) | metrics
        for name, of_grid in scores.items()
        for grid, all_ in of_grid.items()
        for method, cases_of in all_.items()
        for case, metrics in cases_of.items()
    ])  # fmt: skip
    report.write_run_report(
        output / "report.md",
        runs=runs,
        rules=applied,
        preparation=descriptions[0]["preparation"],
        scores=scores,
        burdens=burden.as_markdown(of_case) if of_case else "",
    )
    notes = sorted({note for run in runs if (note := report.start_note(run))})
    chosen_by = ", ".join(sorted({report.SELECTION_NOTES[run["selection"]] for run in runs}))
    page.write(
        output / "report.html",
        title=f"{runs[0]['system']}, {len(ids)} cases",
        lines=[
            f"{len(runs)} network(s). Checkpoint: {chosen_by}.",
            *notes,
            f"Masks: {report.describe_rules(applied)}. Figures are on the original {first} grid, "
            "the volumes below on the case grid.",
            *([f"Volumes: of the {page.most} cases with the lowest DSC."] * page.is_full),
        ],
        tables={"Cases": metrics_table(of_network)} | _agreement_table(of_case),
        charts=[
            charts.boxes("All cases", of_network, shown_in("page")),
            *([burden.differences(of_case)] if burden.agreements(of_case) else []),
            *([charts.learning_curves(logs)] if logs else []),
        ],
    )
    # One network that was chosen on these cases makes the ensemble's figure optimistic.
    kinds = {run["selection"] for run in runs}
    selection = "paper" if "paper" in kinds else ", ".join(sorted(kinds))
    _log.info(report.summary_table(report.by_method(scores, "ct")))
    for note in notes:
        _log.warning(f"warning: {note}")
    mean = content["summary"]["dsc"]["mean"]
    _log.info(
        f"\nmean DSC {mean:.4f} on {len(ids)} cases, on the {first}'s own grid "
        f"(selection: {selection}). Report: {output / 'report.html'}, report.md"
    )
    return content


def _burdens(of_case):
    """What metrics.json says of the tumour burden."""
    found = {name: one._asdict() for name, one in burden.agreements(of_case).items()}
    return {"burden": of_case, "agreement": found} if of_case else {}


def _agreement_table(of_case):
    """A page's table of agreement, where there are enough patients."""
    found = burden.agreements(of_case)
    return {"Agreement of the tumour burden": burden.as_rows(found)} if found else {}


def evaluate_masks(predictions, references, output: Path, classes: Classes, *, pet=None) -> None:
    """Scores two folders of masks; every pair is tried before an error ends the run.

    Args:
        predictions, references: folders of NIfTI masks of the same names.
        output: folder of the results.
        classes: what the masks' values stand for.
        pet: folder of PETs in SUV of the same names; None: no tumour burden.

    Raises:
        DataError: pairs that cannot be scored, with the reason of each.
    """
    from isanet_jax.evaluation import report
    from isanet_jax.evaluation.evaluate import pair_masks, score_masks
    from isanet_jax.files import write_csv

    scores, failures, of_case = {}, [], {}
    pairs = pair_masks(predictions, references)
    pets = {name: paths[0] for name, paths in pair_masks(pet, references).items()} if pet else {}
    for name, (prediction, reference) in tqdm(pairs.items(), unit="case", disable=None):
        try:
            scores[name], found = score_masks(
                name, prediction, reference, classes, pet=pets.get(name)
            )
            if found:
                of_case[name] = found
        except Exception as error:
            error = failure_of(error, name, output / "errors.log")
            failures.append(str(error))
            _log.error(f"error: {error}")
    if failures:
        raise DataError("\n  ".join([f"{len(failures)} of {len(pairs)} pairs failed:", *failures]))
    names = list(next(iter(scores.values())))
    by_class = {of: {case: found[of] for case, found in scores.items()} for of in names}
    report.write_metrics(output, by_class, _burdens(of_case))
    write_csv(output / "metrics.csv", [
        {"case": case} | ({"class": of} if len(names) > 1 else {}) | found[of]
        for of in names
        for case, found in scores.items()
    ])  # fmt: skip
    _log.info(report.summary_table({"predictions": by_class}))
    if of_case:
        _log.info(f"\n{burden.as_markdown(of_case)}")
    _log.info(f"\nwritten to {output}")
