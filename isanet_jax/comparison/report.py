"""What a comparison leaves behind: report.md, table.tex, CSV files and figures."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from isanet_jax.cases.cohort import read_cohort
from isanet_jax.comparison import figures
from isanet_jax.comparison.budget import minutes_of
from isanet_jax.comparison.grid import Cell
from isanet_jax.comparison.masks import case_folder, masks_of_cases, unpacked
from isanet_jax.comparison.page import write_page
from isanet_jax.comparison.table import NO_VALUE, NOT_INDEPENDENT, Row, collect, has_seen, tests
from isanet_jax.evaluation import burden
from isanet_jax.evaluation.evaluate import MEAN
from isanet_jax.evaluation.report import SELECTION_NOTES, in_voxels
from isanet_jax.files import replace_when_done, write_csv
from isanet_jax.metrics import METRICS, shown_in
from isanet_jax.metrics.segmentation import DISTANCES
from isanet_jax.settings import read

_log = logging.getLogger(__name__)

_RECIPES = {
    "shared": "one training loop for all methods, with the paper's optimisers and learning rates",
    "own": "each system's own recipe (configs/own), the others as in the paper",
}


def write_comparison(
    workdir: Path, comparison: dict, cells: list[Cell], failures: dict[str, str]
) -> None:
    """Writes the tables, tests and figures of what is done, and prints the table.

    Args:
        workdir: of the comparison; gets report.md, table.tex, table.csv, cases.csv, tests.csv,
            boxes.png, contours/ (and curve.png), and report.html.
        comparison: see configs/compare/comparison.py.
        cells: all, done or not.
        failures: cell's name -> why it failed.
    """
    names = read(comparison["base"]).data.classes
    several = names if len(names) > 1 else ()
    rows = collect(comparison, cells, several)
    if not rows:
        _log.info("no cell is done: nothing to report")
        return
    of_class = {name: collect(comparison, cells, several, name) for name in several}
    methods = [row for row in rows if row.name in comparison["methods"]]
    compared = _tests(comparison, rows)
    compared_of_class = {name: _tests(comparison, of) for name, of in of_class.items()}
    figures.box_plots(workdir / "boxes.png", rows)
    pictures = ["boxes.png"]
    for name, of in of_class.items():
        pictures.append(f"boxes_{name}.png")
        figures.box_plots(workdir / pictures[-1], of)
    if comparison["curve"] and methods:
        figures.curve(workdir / "curve.png", methods, comparison["curve"])
        pictures.append("curve.png")
    drawn = masks_of_cases(comparison, cells)
    pictures += _contours(workdir, comparison, cells, methods, drawn)
    conditions = _conditions(comparison, cells, failures)
    lines = [line.removeprefix("- ") for line in conditions.split("\n")]
    page = {"comparison": comparison, "rows": rows, "of_class": of_class, "cells": cells}
    if (agreement := burden_table(comparison, cells))[1]:
        page["tables"] = {"Tumour burden": agreement}
    write_page(workdir / "report.html", lines=lines, masks=drawn, **page)
    table = markdown_table(rows)
    text = f"""# {comparison["title"]}, {comparison["dataset"]}

{_conditions(comparison, cells, failures)}

## Results{f", mean over {', '.join(several)}" if several else ""}

{table}

{_EXPLANATION}

## Tests against {_label(comparison, comparison["reference"])}

{tests_table(compared)}

Trained methods only, method minus reference, over the cases of both (seeds averaged first). p:
Wilcoxon signed-rank test, two-sided; Holm's correction over the methods of a metric. Interval: 95 %
bootstrap of the mean difference, over the cases where it is finite. The cases of a cross-validation
share training data: the p-values are a guide.
{_of_classes(of_class, compared_of_class)}{_burdens(comparison, cells)}\
{_trainings(comparison, cells)}
## Figures

""" + "\n".join(f"![{name}]({name})" for name in pictures)
    _write(workdir / "report.md", text + "\n")
    _write(workdir / "table.tex", latex_table(rows, comparison["title"]))

    def labelled(of):
        """Lines of the mean (or the only class), then of each class, which they then name."""
        lines = [({"class": MEAN} if several else {}) | line for line in of(None, rows)]
        return lines + [
            {"class": name} | line for name, one in of_class.items() for line in of(name, one)
        ]

    write_csv(workdir / "table.csv", labelled(lambda _, of: _long(of)))
    write_csv(workdir / "cases.csv", labelled(lambda _, of: _cases(of)))
    all_tests = labelled(lambda name, _: compared_of_class[name] if name else compared)
    if all_tests:
        write_csv(workdir / "tests.csv", all_tests)
    _log.info(f"\n{table}\n\nReport: {workdir / 'report.html'}, report.md")


def _tests(comparison, rows):
    """Tests the trained methods: thresholds are for scale, and would dilute the correction."""
    methods = [row for row in rows if row.name in comparison["methods"]]
    return tests(methods, comparison["reference"])


def _cases(rows):
    """A line per method and case."""
    for row in rows:
        for case, metrics in sorted(row.cases.items()):
            yield {"method": row.name, "case": case, **metrics}


def _of_classes(of_class, compared):
    """The tables and tests of each class; none where there is only one."""
    sections = [
        f"\n## {name}\n\n{markdown_table(rows)}\n\n{tests_table(compared[name])}\n"
        for name, rows in of_class.items()
    ]
    return "".join(sections)


def burden_table(comparison: dict, cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of each method's agreement in tumour burden, where it was measured.

    A case of several seeds counts once, by the mean of them.
    """
    rows, heads = [], []
    for name in comparison["order"]:
        of_case = {}
        for cell in cells:
            if cell.method == name and cell.is_done:
                for case, found in cell.burdens.items():
                    of_case.setdefault(case, []).append(found)
        mean = {
            case: {
                side: {k: float(np.mean([one[side][k] for one in found])) for k in found[0][side]}
                for side in found[0]
            }
            for case, found in of_case.items()
        }
        heads, of_method = burden.as_rows(burden.agreements(mean))
        label = comparison["methods"][name]["label"]
        rows += [[label, *cells_] for cells_ in of_method]
    return ["method", *heads], rows


def _burdens(comparison, cells):
    heads, rows = burden_table(comparison, cells)
    if not rows:
        return ""
    lines = [f"| {' | '.join(one)} |" for one in (heads, ["---"] * len(heads), *rows)]
    return "\n## Tumour burden: agreement with the reference\n\n" + "\n".join(lines) + "\n"


def _trainings(comparison, cells):
    """The section on what the trainings took; none where no cell is known to have trained."""
    lines = []
    clock, _ = minutes_of(comparison)
    for name in comparison["order"]:
        known = [cell.training for cell in cells if cell.method == name and cell.training]
        if not known:
            continue
        chosen = [one["validation_dsc"] for one in known if one["validation_dsc"] is not None]
        lines.append(
            f"| {_label(comparison, name)} | {len(known)} "
            f"| {np.mean([one['epochs'] for one in known]):.0f} "
            f"| {np.mean([one[f'{clock}_minutes'] for one in known]):.1f} "
            + (f"| {np.mean(chosen):.4f} |" if chosen else f"| {NO_VALUE} |")
        )
    if not lines:
        return ""
    head = (
        f"| method | trainings | epochs | {clock.upper()} minutes each | validation DSC |\n"
        + "|---" * 5
        + "|"
    )
    return "\n".join(["\n## Trainings\n", head, *lines, "", _TRAININGS, ""])


_TRAININGS = """Means over the trainings. CPU minutes: user and system time; GPU minutes: by the
clock; without the prediction. Of a training that was resumed, all parts count, but what it had done
since its last checkpoint when it was killed. Validation DSC: of the checkpoint that was chosen, on
the cases that it was chosen on and their own grid."""

_EXPLANATION = """Mean ± sd over the folds of the folds' means (over the cases with a finite value).
"paper": the paper's figure. "difference": ours minus the paper's. An infinite distance is of a case
where the method found nothing, or found something where there is nothing; such cases are in no mean
of a distance, and are counted in the last column (of all cases scored, each once a seed). Lesion F1
is the detection of connected components at IoU > 0.3. Scored on the first image's original grid."""


def _conditions(comparison, cells, failures):
    """How the figures came about, and what is missing."""
    base = read(comparison["base"])
    clock, minutes = minutes_of(comparison)
    done = sum(cell.is_done for cell in cells)
    lines = [
        f'- Recipe "{comparison["recipe"]}": {_RECIPES[comparison["recipe"]]}.',
        *_selections(comparison, cells),
        f'- Size "{comparison["size"]}": {in_voxels(base.data.patch or base.data.size)}, '
        + (
            f"{minutes:g} {clock.upper()} minutes a training."
            if minutes
            else f"{base.train.epochs} epochs."
        )
        + (
            " Not the paper's: only compare the methods with each other."
            if comparison["size"] != "full"
            else ""
        ),
        f"- Folds {_listed(comparison['folds'])}, seeds {_listed(comparison['seeds'])}; "
        f"{done} of {len(cells)} cells are done.",
    ]
    if any(has_seen(cell) for cell in cells if cell.is_done):
        lines.append(
            f"- {NOT_INDEPENDENT}: NOT INDEPENDENT: the network that it was started from "
            "(--config.init) had seen cases of the test or selection fold."
        )
    lines += [f"- FAILED: {name}: {reason}" for name, reason in failures.items()]
    waiting = [cell.name for cell in cells if not cell.is_done and cell.name not in failures]
    lines += [f"- Not run: {', '.join(waiting)}."] if waiting else []
    return "\n".join(lines)


def _selections(comparison, cells):
    """How checkpoints were chosen; where methods differ in it, of which."""
    methods = {}
    for cell in cells:
        if cell.is_trained:
            for config in cell.members or (cell.config,):
                methods.setdefault(config.selection, {})[_label(comparison, cell.method)] = None
    return [
        f'- Selection "{name}": {SELECTION_NOTES[name]}'
        + (f" ({', '.join(labels)})." if len(methods) > 1 else ".")
        for name, labels in methods.items()
    ]


def _listed(values):
    return ", ".join(map(str, values))


def _label(comparison, name):
    return comparison["methods"][name]["label"]


def _published(row, metric):
    value = row.published.get(metric)
    return NO_VALUE if value is None else f"{value:.{METRICS[metric].digits}f}"


def _beside(row, metric):
    """Our figure minus the paper's."""
    value = row.published.get(metric)
    mean, _, folds = row.figure(metric)
    if value is None or not folds:
        return NO_VALUE
    return f"{mean - value:+.{METRICS[metric].digits}f}"


def markdown_table(rows: list[Row]) -> str:
    """The table in Markdown: ours, below it the paper's figure and the difference."""
    columns = shown_in("comparison")
    lines = [
        "| method | | "
        + " | ".join(METRICS[name].heading for name in columns)
        + " | infinite | missing cells |",
        "|---" * (len(columns) + 4) + "|",
    ]
    for row in rows:
        ours = " | ".join(row.shown(metric) for metric in columns)
        lines.append(
            f"| {row.label} | ours | {ours} | {row.n_infinite} of {row.n_scored} "
            f"| {row.missing} of {row.total} |"
        )
        if row.published:
            paper = " | ".join(_published(row, metric) for metric in columns)
            beside = " | ".join(_beside(row, metric) for metric in columns)
            lines += [f"| | paper | {paper} | | |", f"| | difference | {beside} | | |"]
    return "\n".join(lines)


def latex_table(rows: list[Row], title: str) -> str:
    """The table in LaTeX (booktabs): ours, and the paper's in parentheses."""
    columns = shown_in("comparison")
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{l" + "c" * (len(columns) + 1) + "}",
        r"\toprule",
        "Method & " + " & ".join(METRICS[name].heading for name in columns) + r" & infinite \\",
        r"\midrule",
    ]
    for row in rows:
        ours = " & ".join(row.shown(metric, r"$\pm$") for metric in columns)
        lines.append(rf"{_tex(row.label)} & {ours} & {row.n_infinite}/{row.n_scored} \\")
        if row.published:
            paper = " & ".join(f"({_published(row, metric)})" for metric in columns)
            lines.append(rf"\quad (paper) & {paper} & \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return f"% {title}; mean and standard deviation over the folds\n" + "\n".join(lines) + "\n"


def _tex(text):
    for plain, escaped in (("%", r"\%"), ("_", r"\_"), (">=", r"$\geq$"), ("α", r"$\alpha$")):
        text = text.replace(plain, escaped)
    return text.replace("∞", r"$\infty$")


def tests_table(compared: list[dict]) -> str:
    """The paired tests in Markdown."""
    if not compared:
        return "None: the reference or every other method is missing."
    lines = [
        "| method | metric | cases | mean difference | 95 % interval | p | p (Holm) | infinite |",
        "|---" * 8 + "|",
    ]
    for test in compared:
        places = METRICS[test["metric"]].digits
        low, high = (f"{test[name]:+.{places}f}" for name in ("low", "high"))
        lines.append(
            f"| {test['label']} | {METRICS[test['metric']].heading} | {test['n']} | "
            f"{test['difference']:+.{places}f} | {low} to {high} | {test['p']:.3g} | "
            f"{test['p_holm']:.3g} | {test['n_infinite']} |"
        )
    return "\n".join(lines)


def _long(rows) -> Iterator[dict]:
    """A line per method and metric, for spreadsheets."""
    for row in rows:
        for metric in shown_in("comparison"):
            mean, sd, folds = row.figure(metric)
            yield {
                "method": row.name,
                "label": row.label,
                "metric": metric,
                "mean": mean,
                "sd_over_folds": sd,
                "folds": folds,
                "cases": row.n_scored,
                "infinite": row.n_infinite if metric in DISTANCES else 0,
                "paper": row.published.get(metric, ""),
            }


def _contours(workdir, comparison, cells, methods, drawn) -> list[str]:
    """Writes the contours of the reference's best, middle and worst case that all methods have."""
    reference = comparison["reference"]
    everywhere = [case for case, masks in drawn.items() if len(masks) == len(methods)]
    if reference not in {row.name for row in methods} or not everywhere:
        return []
    ranked = sorted(everywhere, key=lambda case: drawn[case][reference][1])
    chosen = {"worst": ranked[0], "middle": ranked[len(ranked) // 2], "best": ranked[-1]}
    folder = case_folder(comparison, cells)
    if folder is None:  # masks of several case grids have no slice in common
        return []
    cohort = read_cohort(folder)
    (workdir / "contours").mkdir(exist_ok=True)
    names, classes = [], read(comparison["base"]).data.classes
    for place, case in chosen.items():
        stored = cohort.stored(case).read()
        shown = {}
        for row in methods:
            packed, dsc = drawn[case][row.name]
            shown[row.label] = unpacked(packed, stored.label.shape), dsc
        name = f"contours/{place}.png"
        title = f"{case}, {_label(comparison, reference)}'s {place} case"
        figures.contours(workdir / name, title=title, case=stored, classes=classes, masks=shown)
        names.append(name)
    return names


def _write(path, text):
    with replace_when_done(path) as partial:
        partial.write_text(text, encoding="utf-8")
