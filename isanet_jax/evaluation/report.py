"""What an evaluation leaves behind: metrics.json, metrics.csv and report.md."""

import math
from pathlib import Path

from isanet_jax.files import replace_when_done, write_json
from isanet_jax.metrics import METRICS
from isanet_jax.metrics.segmentation import summarise

SELECTION_NOTES = {
    "paper": "the checkpoint was chosen on the very cases that are reported here, as in the paper: "
    "optimistic",
    "nested": "the checkpoint was chosen on other cases, which were not trained on either",
}
_COLUMNS = (*("dsc", "hd", "hd95", "assd", "rvd_abs", "voe", "recall", "precision", "lesion_f1"),)
_CASE_COLUMNS = ("dsc", "hd95", "assd", "recall", "precision", "volume_ml", "reference_volume_ml")


def jsonable(value):
    """The value with infinities as the strings "inf" and "-inf": JSON has none."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def write_metrics(output, cases, extra: dict) -> dict:
    """Writes metrics.json: `cases`, `summary`, and whatever `extra` holds. Returns them."""
    content = {"cases": cases, "summary": summarise(cases), **extra}
    write_json(Path(output) / "metrics.json", jsonable(content))
    return content


def number(value: float) -> str:
    """Four significant digits, as the tables show them."""
    return str(value) if isinstance(value, str) else f"{value:.4g}"


def summary_table(methods: dict[str, dict]) -> str:
    """A Markdown table of mean +- sd over cases.

    Args:
        methods: name -> ID -> metrics.
    """
    names = [METRICS[name].heading for name in _COLUMNS]
    lines = [
        "| method | cases | " + " | ".join(names) + " | aggregated DSC | infinite distances |",
        "|---" * (len(names) + 4) + "|",
    ]
    for method, cases in methods.items():
        summary = summarise(cases)
        cells = [_mean_and_sd(summary, name) for name in _COLUMNS]
        lines.append(
            f"| {method} | {summary['n_cases']} | {' | '.join(cells)} | {summary['dsc_agg']:.4f} "
            f"| {summary['hd']['n_infinite']} |"
        )
    lines += ["", "Mean ± sd over the cases; distances over the cases where they are finite."]
    return "\n".join(lines)


def _mean_and_sd(summary, name):
    digits = METRICS[name].digits
    return f"{summary[name]['mean']:.{digits}f} ± {summary[name]['sd']:.{digits}f}"


def case_table(cases: dict[str, dict], pictures: dict[str, str]) -> str:
    """A Markdown table of each case, hardest first."""
    lines = [
        "| case | " + " | ".join(_CASE_COLUMNS) + " | picture |",
        "|---" * (len(_CASE_COLUMNS) + 2) + "|",
    ]
    for case, metrics in sorted(cases.items(), key=lambda item: item[1]["dsc"]):
        cells = " | ".join(number(metrics[m]) for m in _CASE_COLUMNS)
        picture = f"[overlay]({pictures[case]})" if case in pictures else ""
        lines.append(f"| {case} | {cells} | {picture} |")
    return "\n".join(lines)


def describe_runs(descriptions: list[dict], reported) -> list[dict]:
    """What a reader must know of the runs behind the figures.

    Args:
        descriptions: see `isanet_jax.prediction.predictor.Predictor`.
        reported: IDs of the cases that are scored.

    Returns:
        For each run: system, fold, seed, training_cases, best_epoch, validation_dsc, and selection,
        a key of `SELECTION_NOTES` (nested wherever no reported case took part in choosing).
    """
    return [
        {
            "system": d["config"]["model"]["name"],
            "fold": d["config"]["fold"],
            "seed": d["config"]["seed"],
            "selection": "paper" if set(reported) & set(d["split"]["selection"]) else "nested",
            "training_cases": len(d["split"]["train"]),
            "best_epoch": d["progress"]["best_epoch"],
            "validation_dsc": d["progress"]["best_dsc"],
        }
        for d in descriptions
    ]


def write_run_report(path, *, runs, preparation, scores, pictures, curves) -> None:
    """Writes report.md of a run, or of an ensemble of runs.

    Args:
        path: the file.
        runs: see `describe_runs`.
        preparation: of the cases.
        scores: see `isanet_jax.evaluation.evaluate.score_run`.
        pictures: ID -> PNG beside the report.
        curves: PNG of each run's learning curves beside the report.
    """
    grid = f"{preparation['size']}^3 voxels, " + (
        f"{preparation['spacing_mm']:g} mm"
        if preparation["fit"] == "crop"
        else "the whole field resized"
    )
    title = f"fold {runs[0]['fold']}" if len(runs) == 1 else f"an ensemble of {len(runs)} networks"
    networks = "\n".join(
        f"- {run['system']}, fold {run['fold']}, seed {run['seed']}: checkpoint of epoch "
        f"{run['best_epoch']} (validation DSC {run['validation_dsc']:.4f}), "
        f"{run['training_cases']} training cases. Selection: {SELECTION_NOTES[run['selection']]}."
        for run in runs
    )
    all_curves = "\n".join(f"![learning curves]({name})" for name in curves)
    hardest = sorted(pictures, key=lambda case: scores["ct"]["network"][case]["dsc"])
    text = f"""# Evaluation of {title}

{networks}
- Case grid: {grid}.

## On the original CT grid

{summary_table(scores["ct"])}

## On the case grid

{summary_table(scores["case"])}

## Cases, on the original CT grid, hardest first

{case_table(scores["ct"]["network"], pictures)}

## Learning curves

{all_curves}

## Pictures (reference green, prediction blue)

""" + "\n".join(f"![{case}]({pictures[case]})" for case in hardest)
    with replace_when_done(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
