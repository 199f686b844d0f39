"""Figures of a comparison: box plots, the curve of Fig. 6, and contours as in Figs. 7 and 8."""

import numpy as np
from matplotlib.figure import Figure  # not pyplot: nobody's backend and figures are touched

from isanet_jax.comparison.table import Row
from isanet_jax.kinds import pet_name
from isanet_jax.metrics import METRICS, shown_in

_COLUMN_INCHES = 2.1
_CT_WINDOW_HU = (-200, 250)
_REFERENCE, _PREDICTION = "#00c853", "#00b0ff"
_PLANES = ("axial", "coronal", "sagittal")


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
    axes = figure.subplots(len(_PLANES), len(masks), squeeze=False)
    for column, (label, (mask, dsc)) in enumerate(masks.items()):
        for axis in range(len(_PLANES)):
            panel = axes[axis, column]
            both = ((reference, _REFERENCE), (mask, _PREDICTION))
            plane = axis, _largest_section(reference, axis)
            _draw_plane(panel, plane, case, both)
        axes[0, column].set_title(f"{label}\nDSC {dsc:.3f}", fontsize=9)
    figure.suptitle(f"{title}\nreference green, method blue", fontsize=10)
    figure.savefig(path, dpi=100)


def _largest_section(mask: np.ndarray, axis: int) -> int:
    """The slice across `axis` where the mask (D, H, W) is largest; the middle where it is empty."""
    others = tuple(i for i in range(3) if i != axis)
    return int(mask.sum(others).argmax()) if mask.any() else mask.shape[axis] // 2


def _draw_plane(panel, plane, case, contours):
    """Draws one slice, PET over CT (or whatever other image there is), with masks as contours.

    Args:
        panel: matplotlib axes.
        plane: (axis, index) of the slice.
        case: `isanet_jax.cases.case.Case`.
        contours: (mask (D, H, W) bool, colour) pairs.

    Returns:
        The PET's image, for a colour bar in SUV; None where there is none.
    """
    (axis, index), spacing_mm = plane, case.meta["spacing_mm"]
    kinds = {name: of["kind"] for name, of in case.meta["images"].items()}
    pet = pet_name({name: kinds[name] for name in case.images})
    below = next((name for name in case.images if name != pet), pet)
    rows, columns = (i for i in range(3) if i != axis)
    # D runs from feet to head: drawn upwards; H from front to back: drawn downwards.
    shape = {
        "origin": "upper" if axis == 0 else "lower",
        "aspect": spacing_mm[rows] / spacing_mm[columns],
    }
    image = case.images[below]
    low, high = _CT_WINDOW_HU if kinds[below] == "ct" else np.percentile(image, (1, 99.5))
    panel.imshow(image.take(index, axis), cmap="gray", vmin=low, vmax=high, **shape)
    fused = None
    if pet:
        suv_max = max(5.0, float(np.percentile(case.images[pet], 99.8)))
        suv = case.images[pet].take(index, axis)
        opacity = np.clip(suv / suv_max * 1.5, 0, 0.6)
        fused = panel.imshow(suv, cmap="hot", vmin=0, vmax=suv_max, alpha=opacity, **shape)
    for mask, colour in contours:
        section = mask.take(index, axis)
        if section.any():
            panel.contour(section, [0.5], colors=colour, linewidths=1.3)
    panel.set_axis_off()
    return fused
