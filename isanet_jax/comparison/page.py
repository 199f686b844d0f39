"""report.html of a comparison: methods, cases, box plots, and the volumes with all masks."""

from types import MappingProxyType

import numpy as np

from isanet_jax.cases.cohort import read_cohort
from isanet_jax.comparison.masks import case_folder, unpacked
from isanet_jax.evaluation import charts
from isanet_jax.evaluation.evaluate import MEAN
from isanet_jax.evaluation.page import Page, metrics_table, pack_case
from isanet_jax.metrics import METRICS, shown_in
from isanet_jax.settings import read


def write_page(
    path, *, comparison: dict, lines, rows, of_class, masks, cells, tables=MappingProxyType({})
) -> None:
    """Writes the page.

    Args:
        path: of the file, `.html`.
        comparison: see configs/compare/comparison.py.
        lines: of text, below the title.
        rows: of the table: of the only class, or the mean of several.
        of_class: class -> rows, where there are several.
        masks: see `isanet_jax.comparison.masks.masks_of_cases`.
        cells: all, done or not.
        tables: heading -> further ones.
    """
    methods = [row for row in rows if row.name in comparison["methods"]]
    all_rows = {MEAN: rows, **of_class} if of_class else {"All cases": rows}
    shown = [
        charts.boxes(heading, {row.label: row.cases for row in of}, shown_in("page"))
        for heading, of in all_rows.items()
    ]
    if comparison["curve"] and methods:
        shown.append(_curve(methods, comparison["curve"]))
    logs = {
        row.label: [
            log for cell in cells if cell.method == row.name and cell.is_done for log in cell.logs
        ]
        for row in methods
    }
    if any(logs.values()):
        shown.append(charts.mean_validations(logs))
    folder = case_folder(comparison, cells)  # None: no volumes
    _volumes(comparison, folder, methods, masks).write(
        path,
        title=f"{comparison['title']}, {comparison['dataset']}",
        lines=lines,
        tables={
            "Methods": _methods_table(all_rows),
            **tables,
            "Cases": metrics_table({row.label: row.cases for row in methods}, "method"),
        },
        charts=shown,
    )


def _curve(methods, label):
    """Fig. 6: the mean DSC, method by method."""
    names = [row.label.removeprefix("α = ") for row in methods]
    figures = [row.figure("dsc") for row in methods]
    points = [(place, mean, np.nan_to_num(sd)) for place, (mean, sd, _) in enumerate(figures)]
    name = "DSC, mean ± sd over folds"
    panel = charts.curves_panel(name, label, {"DSC": points}, names=names)
    return {"kind": "curves", "heading": label, "panels": [panel]}


def _methods_table(all_rows):
    """Headings and rows; of several classes, a row for each."""
    several, columns = len(all_rows) > 1, shown_in("comparison")
    heads = ["method", *(["class"] * several), *(METRICS[name].heading for name in columns)]
    cells = [
        [
            *(row.label, *([name] * several), *map(row.shown, columns)),
            f"{row.n_infinite} of {row.n_scored}",
        ]
        for name, rows in all_rows.items()
        for row in rows
    ]
    return [*heads, "infinite"], cells


def _volumes(comparison, folder, methods, of_cases) -> Page:
    """The cases with the masks of all methods."""
    page = Page()
    cohort = read_cohort(folder) if folder else None
    names = read(comparison["base"]).data.classes
    for case, masks in sorted(of_cases.items()) if folder else ():
        stored = cohort.stored(case).read()
        reference = np.logical_or.reduce(list(stored.masks(names).values()))
        shown = {
            row.label: unpacked(masks[row.name][0], stored.label.shape)
            for row in methods
            if row.name in masks
        }
        dsc = masks.get(comparison["reference"], next(iter(masks.values())))[1]
        page.add(case, dsc, pack_case(stored, {"tumour": reference}, shown))
    return page
