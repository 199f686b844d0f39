"""Pictures for the report: overlays in three planes, and learning curves."""

import numpy as np
from matplotlib.figure import Figure  # not pyplot: nobody's backend and figures are touched

_CT_WINDOW_HU = (-200, 250)
REFERENCE, PREDICTION = "#00c853", "#00b0ff"
PLANES = ("axial", "coronal", "sagittal")


def largest_section(mask: np.ndarray, axis: int) -> int:
    """The slice across `axis` where the mask (D, H, W) is largest; the middle where it is empty."""
    others = tuple(i for i in range(3) if i != axis)
    return int(mask.sum(others).argmax()) if mask.any() else mask.shape[axis] // 2


def draw_plane(panel, plane, images, contours, spacing_mm):
    """Draws one slice, PET over CT, with masks as contours.

    Args:
        panel: matplotlib axes.
        plane: (axis, index) of the slice.
        images: (CT in HU, PET in SUV), each (D, H, W).
        contours: (mask (D, H, W) bool, colour) pairs.
        spacing_mm: (3,) along D, H, W.

    Returns:
        The PET's image, for a colour bar in SUV.
    """
    (axis, index), (ct_hu, pet_suv) = plane, images
    rows, columns = (i for i in range(3) if i != axis)
    # D runs from feet to head: drawn upwards; H from front to back: drawn downwards.
    shape = {
        "origin": "upper" if axis == 0 else "lower",
        "aspect": spacing_mm[rows] / spacing_mm[columns],
    }
    low, high = _CT_WINDOW_HU
    panel.imshow(ct_hu.take(index, axis), cmap="gray", vmin=low, vmax=high, **shape)
    suv_max = max(5.0, float(np.percentile(pet_suv, 99.8)))
    pet = pet_suv.take(index, axis)
    opacity = np.clip(pet / suv_max * 1.5, 0, 0.6)
    fused = panel.imshow(pet, cmap="hot", vmin=0, vmax=suv_max, alpha=opacity, **shape)
    for mask, colour in contours:
        section = mask.take(index, axis)
        if section.any():
            panel.contour(section, [0.5], colors=colour, linewidths=1.3)
    panel.set_axis_off()
    return fused


def overlay(path, *, title, ct_hu, pet_suv, reference, prediction, spacing_mm) -> None:
    """Writes axial, coronal and sagittal views: PET over CT, both masks as contours.

    The planes go through the reference's largest section (the prediction's where it is empty).

    Args:
        path: PNG.
        title: above the picture.
        ct_hu, pet_suv: (D, H, W).
        reference, prediction: (D, H, W) bool.
        spacing_mm: (3,) along D, H, W.
    """
    shown = reference if reference.any() else prediction
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    axes = figure.subplots(1, 3)
    contours = ((reference, REFERENCE), (prediction, PREDICTION))
    for axis, (panel, name) in enumerate(zip(axes, PLANES, strict=True)):
        index = largest_section(shown, axis)
        fused = draw_plane(panel, (axis, index), (ct_hu, pet_suv), contours, spacing_mm)
        panel.set_title(f"{name}, slice {index}", fontsize=9)
    figure.colorbar(fused, ax=axes, label="SUV", shrink=0.8)
    for name, colour in (("reference", REFERENCE), ("prediction", PREDICTION)):
        axes[0].plot([], [], color=colour, label=name)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=90)


def learning_curves(path, lines: list[dict]) -> None:
    """Writes loss and validation DSC over epochs, and the learning rate.

    Args:
        path: PNG.
        lines: of a run's metrics.jsonl.
    """
    steps = [line for line in lines if "loss" in line]
    checks = [line for line in lines if "validation_dsc" in line]
    epochs = sorted({line["epoch"] for line in steps})
    losses = [np.mean([s["loss"] for s in steps if s["epoch"] == e]) for e in epochs]
    rates = {s["epoch"]: s["learning_rate"] for s in steps}
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, losses, label="training loss")
    left.set(xlabel="epoch", ylabel="loss (Dice + focal)")
    rate_axis = left.twinx()
    rate_axis.plot(epochs, [rates[e] for e in epochs], color="0.7", linewidth=1)
    rate_axis.set_ylabel("learning rate", color="0.5")
    right.plot([c["epoch"] for c in checks], [c["validation_dsc"] for c in checks], marker=".")
    right.set(xlabel="epoch", ylabel="validation DSC", ylim=(0, 1))
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=90)
