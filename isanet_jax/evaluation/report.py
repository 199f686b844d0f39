"""What an evaluation leaves behind: metrics.json, metrics.csv and report.md."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

from isanet_jax.datasets.layout import PET_CT
from isanet_jax.errors import damaged
from isanet_jax.evaluation.evaluate import MEAN
from isanet_jax.files import replace_when_done, write_json
from isanet_jax.kinds import shown
from isanet_jax.metrics import METRICS, shown_in
from isanet_jax.metrics.segmentation import summarise
from isanet_jax.prediction.rules import Rules
from isanet_jax.settings import read_stored

SELECTION_NOTES = {
    "paper": "the checkpoint was chosen on the very cases that are reported here, as in the paper: "
    "optimistic",
    "nested": "the checkpoint was chosen on other cases, which were not trained on either",
    "none": "no case was kept aside to choose a checkpoint, and the last one was kept",
}
VALIDATION_NOTES = {
    "cases": "validation DSC",
    "patches": "exponential average of the validation patches' DSC",
}


def read_metrics(path) -> dict:
    """A metrics.json that an evaluation wrote. Raises DataError where it is damaged."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        summary = content["summary"]
        int(summary["n_cases"])
        for name in ("dsc", "lesion_f1"):
            float(summary[name]["mean"]), float(summary[name].get("median", 0))
        _ = [run["selection"] for run in content.get("runs", [])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        action = "Evaluate the run again (isanet eval --overwrite), or delete the file"
        raise damaged(path, error, action) from error
    return content


def jsonable(value):
    """The value with infinities as the strings "inf" and "-inf": JSON has none."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def summaries(classes: dict[str, dict[str, dict]]) -> dict[str, dict]:
    """The summary of each class's cases: class -> see `isanet_jax.metrics.segmentation.summarise`.

    The aggregated DSC of the mean over the classes is the mean of theirs (HECKTOR 2022).

    Args:
        classes: class -> ID -> metrics.
    """
    found = {name: summarise(cases) for name, cases in classes.items()}
    if MEAN in found and found[MEAN]["n_cases"]:
        of_each = [summary["dsc_agg"] for name, summary in found.items() if name != MEAN]
        found[MEAN]["dsc_agg"] = sum(of_each) / len(of_each)
    return found


def write_metrics(output, classes: dict[str, dict[str, dict]], extra: dict) -> dict:
    """Writes metrics.json. Returns its content.

    Args:
        output: folder.
        classes: class -> ID -> metrics; of several, the last is their mean.
        extra: what it holds besides: `cases` and `summary` of the last, and of several `classes`,
            class -> the same.
    """
    summary = summaries(classes)
    content = {name: {"cases": classes[name], "summary": summary[name]} for name in classes}
    *several, last = content
    content = content[last] | ({"classes": {n: content[n] for n in several}} if several else {})
    content |= extra
    write_json(Path(output) / "metrics.json", jsonable(content))
    return content


def number(value: float) -> str:
    """Four significant digits, as the tables show them."""
    return str(value) if isinstance(value, str) else f"{value:.4g}"


def summary_table(methods: dict[str, dict[str, dict]]) -> str:
    """A Markdown table of mean +- sd over cases; of several classes, a line for each.

    Args:
        methods: name -> class -> ID -> metrics.
    """
    shown = shown_in("summary")
    names = [METRICS[name].heading for name in shown]
    lines = [
        "| method | cases | " + " | ".join(names) + " | aggregated DSC | infinite distances |",
        "|---" * (len(names) + 4) + "|",
    ]
    for method, classes in methods.items():
        for of_class, summary in summaries(classes).items():
            cells = [_mean_and_sd(summary, name) for name in shown]
            label = method if len(classes) == 1 else f"{method}: {of_class}"
            lines.append(
                f"| {label} | {summary['n_cases']} | {' | '.join(cells)} | "
                f"{summary['dsc_agg']:.4f} | {summary['hd']['n_infinite']} |"
            )
    lines += ["", "Mean ± sd over the cases; distances over the cases where they are finite."]
    return "\n".join(lines)


def _mean_and_sd(summary, name):
    digits, mean, sd = METRICS[name].digits, summary[name]["mean"], summary[name]["sd"]
    return f"{mean:.{digits}f} ± {sd:.{digits}f}" if math.isfinite(mean) else f"{mean}"


def case_table(cases: dict[str, dict]) -> str:
    """A Markdown table of each case, hardest first."""
    shown = shown_in("cases")
    lines = ["| case | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for case, metrics in sorted(cases.items(), key=lambda item: item[1]["dsc"]):
        cells = " | ".join(number(metrics[m]) for m in shown)
        lines.append(f"| {case} | {cells} |")
    return "\n".join(lines)


def describe_runs(descriptions: list[dict], reported) -> list[dict]:
    """What a reader must know of the runs behind the figures.

    Args:
        descriptions: see `isanet_jax.prediction.predictor.Predictor`.
        reported: IDs of the cases that are scored.

    Returns:
        For each run: system, fold, seed, training_cases, best_epoch, validation_dsc, validated_on
        (a key of `VALIDATION_NOTES`), selection, a key of `SELECTION_NOTES` (nested wherever there
        was a choice and no reported case took part in it), and start_has_seen, role -> number of
        cases, where `init_seen` let it go on.
    """
    return [
        {
            "system": config.model.name,
            "fold": config.fold,
            "seed": config.seed,
            "selection": _selection(d, reported),
            "training_cases": d.get("counts", {}).get("train", len(d["split"]["train"])),
            "start_has_seen": _counts(d.get("overlap", {})),
            "best_epoch": d["progress"]["best_epoch"],
            "validation_dsc": d["progress"]["best_dsc"],
            "validated_on": config.train.validate_on,
        }
        for d in descriptions
        for config in [read_stored(d["config"])]
    ]


def _counts(overlap):
    """Role -> number of its cases that the start had seen, from IDs or from numbers."""
    return {role: n if isinstance(n, int) else len(n) for role, n in overlap.items()}


def start_note(run: dict) -> str:
    """What a reader must know of a run whose start had seen its cases; "" of others."""
    if not run["start_has_seen"]:
        return ""
    counts = " and ".join(f"{n} of its {role} cases" for role, n in run["start_has_seen"].items())
    return f"NOT INDEPENDENT: its start (--config.init) had seen {counts}"


def _selection(description, reported):
    chosen_on = description["split"]["selection"]
    if not description.get("counts", {}).get("selection", len(chosen_on)):
        return "none"
    return "paper" if set(reported) & set(chosen_on) else "nested"


def by_method(scores: dict, grid: str) -> dict[str, dict[str, dict]]:
    """Scores on a grid as `summary_table` takes them: method -> class -> ID -> metrics."""
    methods = {}
    for name, of_grid in scores.items():
        for method, cases in of_grid[grid].items():
            methods.setdefault(method, {})[name] = cases
    return methods


def first_image(preparation: Mapping) -> str:
    """What the first image is called, on whose grid masks are predicted and scored."""
    (name, kind), *_ = preparation.get("images", PET_CT).items()
    return shown(name, kind)


def in_voxels(size) -> str:
    """A size, one number or three, in words."""
    return f"{size}^3 voxels" if isinstance(size, int) else f"{' x '.join(map(str, size))} voxels"


def describe_grid(preparation: dict) -> str:
    """The case grid in words, from a manifest's settings."""

    def listed(value):
        return " x ".join(f"{v:g}" for v in value) if isinstance(value, list) else f"{value:g}"

    fit, size = preparation["fit"], preparation["size"]
    voxels = in_voxels(size or [])
    return {
        "crop": f"{voxels}, {listed(preparation['spacing_mm'])} mm",
        "resize": f"{voxels}, the whole field resized",
        "whole": f"the body in voxels of {listed(preparation['spacing_mm'])} mm",
    }[fit]


def describe_rules(rules: dict[str, dict]) -> str:
    """How probabilities became masks, in words, from `isanet_jax.prediction.rules.write_form`."""
    if all(rule == dataclasses.asdict(Rules()) for rule in rules.values()):
        return "probability of at least one half"
    return "; ".join(
        f"{name}: probability of at least {rule['threshold']:g}, components of at least "
        f"{rule['smallest_ml']:g} ml and SUVmax {rule['least_suv_max']:g}"
        + ", the largest alone"
        * rule["largest_only"]
        for name, rule in rules.items()
    )


def _validation(run):
    if run["validation_dsc"] is None:
        return ""
    return f" ({VALIDATION_NOTES[run['validated_on']]} {run['validation_dsc']:.4f})"


def write_run_report(path, *, runs, rules, preparation, scores, burdens="") -> None:
    """Writes report.md of a run, or of an ensemble of runs.

    Args:
        path: the file.
        runs: see `describe_runs`.
        rules: class -> how its probability became a mask.
        preparation: of the cases.
        scores: see `isanet_jax.evaluation.evaluate.score_run`.
        burdens: text of `isanet_jax.evaluation.burden.as_markdown`; "": there is no PET.
    """
    grid = describe_grid(preparation)
    title = f"fold {runs[0]['fold']}" if len(runs) == 1 else f"an ensemble of {len(runs)} networks"
    networks = "\n".join(
        f"- {run['system']}, fold {run['fold']}, seed {run['seed']}: checkpoint of epoch "
        f"{run['best_epoch']}{_validation(run)}, "
        f"{run['training_cases']} training cases. Selection: {SELECTION_NOTES[run['selection']]}."
        + (f" {note}." if (note := start_note(run)) else "")
        for run in runs
    )
    primary = scores[list(scores)[-1]]["ct"]["network"]
    text = f"""# Evaluation of {title}

{networks}
- Case grid: {grid}.
- Masks: {describe_rules(rules)}.

## On the original {first_image(preparation)} grid

{summary_table(by_method(scores, "ct"))}

## On the case grid

{summary_table(by_method(scores, "case"))}

{f"## Tumour burden{chr(10)}{chr(10)}{burdens}{chr(10)}" if burdens else ""}
## Cases, on the original {first_image(preparation)} grid, hardest first

{case_table(primary)}

Learning curves, and the cases themselves: [report.html](report.html).
"""
    with replace_when_done(path) as partial:
        partial.write_text(text, encoding="utf-8")
