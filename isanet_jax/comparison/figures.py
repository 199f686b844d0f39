"""Figures of a comparison: box plots, the curve of Fig. 6, and contours as in Figs. 7 and 8."""

import numpy as np
from matplotlib.figure import Figure

from isanet_jax.comparison.table import Row
from isanet_jax.evaluation.pictures import (
    PLANES,
    PREDICTION,
    REFERENCE,
    draw_plane,
    largest_section,
)
from isanet_jax.metrics import METRICS, shown_in

_COLUMN_INCHES = 2.1


def box_plots(path, rows: list[Row]) -> None:
    """Writes the cases' DSC, HD95 and ASSD per method; says how many are infinite.

    Args:
        path: PNG.
        rows: of the table.
    """
    figure = Figure(figsize=(14, 1.5 + 0.4 * len(rows)), layout="constrained")
    tested = shown_in("tests")
    axes = figure.subplots(1, len(tested), sharey=True)
    for panel, metric in zip(axes, tested, strict=True):
        values = [np.array([case[metric] for case in row.cases.values()]) for row in rows]
        finite = [v[np.isfinite(v)] for v in values]
        panel.boxplot(finite, orientation="horizontal", showmeans=True)
        for place, (all_, kept) in enumerate(zip(values, finite, strict=True), start=1):
            if len(kept) < len(all_):
                text = f"{len(all_) - len(kept)} infinite"
                panel.annotate(
                    text, (1, place), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                    fontsize=8, color="tab:red",
                )  # fmt: skip
        panel.set_xlabel(METRICS[metric].heading)
        panel.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(1, len(rows) + 1), [row.label for row in rows])
    axes[0].invert_yaxis()
    figure.suptitle("One value per case; triangle: mean", fontsize=10)
    figure.savefig(path, dpi=100)


def curve(path, rows: list[Row], label: str) -> None:
    """Writes the mean DSC +- sd over the folds, method by method, as in Fig. 6.

    Args:
        path: PNG.
        rows: of the table, in the order of the axis.
        label: of the x axis.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    means, sds, _ = zip(*(row.figure("dsc") for row in rows), strict=True)
    places = range(len(rows))
    panel.errorbar(places, means, np.nan_to_num(sds), marker="o", capsize=4)
    panel.set_xticks(places, [row.label.removeprefix("α = ") for row in rows])
    panel.set(xlabel=label, ylabel="DSC, mean ± sd over folds")
    panel.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def contours(path, *, title, case, classes, masks: dict[str, tuple[np.ndarray, float]]) -> None:
    """Writes the same axial, coronal and sagittal slice for all methods.

    The slices go through the reference's largest section.

    Args:
        path: PNG.
        title: above the picture.
        case: `isanet_jax.cases.case.Case`.
        classes: names of those that are shown, as one.
        masks: method's label -> (mask (D, H, W) bool, DSC).
    """
    reference = np.logical_or.reduce(list(case.masks(classes).values()))
    width = max(_COLUMN_INCHES * len(masks), 6)
    figure = Figure(figsize=(width, 6.8), layout="constrained")
    axes = figure.subplots(len(PLANES), len(masks), squeeze=False)
    for column, (label, (mask, dsc)) in enumerate(masks.items()):
        for axis in range(len(PLANES)):
            panel = axes[axis, column]
            both = ((reference, REFERENCE), (mask, PREDICTION))
            plane = axis, largest_section(reference, axis)
            draw_plane(panel, plane, case, both)
        axes[0, column].set_title(f"{label}\nDSC {dsc:.3f}", fontsize=9)
    figure.suptitle(f"{title}\nreference green, method blue", fontsize=10)
    figure.savefig(path, dpi=100)
