"""Pictures for the report: overlays in three planes, and learning curves."""

import numpy as np
from matplotlib.figure import Figure  # not pyplot: nobody's backend and figures are touched

from isanet_jax.evaluation.charts import epochs_of
from isanet_jax.kinds import pet_name

_CT_WINDOW_HU = (-200, 250)
REFERENCE, PREDICTION = "#00c853", "#00b0ff"
# Of each class, the reference and the prediction.
COLOURS = (
    (REFERENCE, PREDICTION), ("#ffd600", "#ff6d00"), ("#f48fb1", "#d500f9"),
    ("#b2ff59", "#1de9b6"),
)  # fmt: skip
PLANES = ("axial", "coronal", "sagittal")


def largest_section(mask: np.ndarray, axis: int) -> int:
    """The slice across `axis` where the mask (D, H, W) is largest; the middle where it is empty."""
    others = tuple(i for i in range(3) if i != axis)
    return int(mask.sum(others).argmax()) if mask.any() else mask.shape[axis] // 2


def draw_plane(panel, plane, case, contours):
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


def overlay(path, *, title, case, references, predictions) -> None:
    """Writes axial, coronal and sagittal views: PET over CT, all masks as contours.

    The planes go through the largest section of all references together (of the predictions where
    they are empty).

    Args:
        path: PNG.
        title: above the picture.
        case: `isanet_jax.cases.case.Case`.
        references, predictions: class -> (D, H, W) bool.
    """
    reference, prediction = (
        np.logical_or.reduce(list(masks.values())) for masks in (references, predictions)
    )
    shown = reference if reference.any() else prediction
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    axes = figure.subplots(1, 3)
    contours, colours = [], []
    for number, name in enumerate(references):
        pair = COLOURS[number % len(COLOURS)]
        contours += [(references[name], pair[0]), (predictions[name], pair[1])]
        of_class = f" {name}" if len(references) > 1 else ""
        colours += [(f"reference{of_class}", pair[0]), (f"prediction{of_class}", pair[1])]
    for axis, (panel, name) in enumerate(zip(axes, PLANES, strict=True)):
        index = largest_section(shown, axis)
        fused = draw_plane(panel, (axis, index), case, contours)
        panel.set_title(f"{name}, slice {index}", fontsize=9)
    if fused is not None:
        figure.colorbar(fused, ax=axes, label="SUV", shrink=0.8)
    for name, colour in colours:
        axes[0].plot([], [], color=colour, label=name)
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=90)


def learning_curves(path, lines: list[dict]) -> None:
    """Writes loss and validation DSC over epochs, and the learning rate.

    Args:
        path: PNG.
        lines: of a run's metrics.jsonl.
    """
    checks, losses, rates = epochs_of(lines)
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*np.reshape(losses, (-1, 2)).T)
    left.set(xlabel="epoch", ylabel="training loss")
    rate_axis = left.twinx()
    rate_axis.plot(*np.reshape(rates, (-1, 2)).T, color="0.7", linewidth=1)
    rate_axis.set_ylabel("learning rate", color="0.5")
    right.plot(*np.reshape(checks, (-1, 2)).T, marker=".")
    right.set(xlabel="epoch", ylabel="validation DSC", ylim=(0, 1))
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=90)
