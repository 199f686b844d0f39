"""Pictures for the report: overlays in three planes, and learning curves."""

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only, no window

from matplotlib import pyplot as plt

_CT_WINDOW_HU = (-200, 250)
_REFERENCE, _PREDICTION = "#00c853", "#00b0ff"


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
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.6), layout="constrained")
    suv_max = max(5.0, float(np.percentile(pet_suv, 99.8)))
    for axis, (panel, name) in enumerate(zip(axes, ("axial", "coronal", "sagittal"), strict=True)):
        others = tuple(i for i in range(3) if i != axis)
        index = int(shown.sum(others).argmax()) if shown.any() else shown.shape[axis] // 2
        rows, columns = others
        # D runs from feet to head: drawn upwards; H from front to back: drawn downwards.
        origin = "upper" if axis == 0 else "lower"
        aspect = spacing_mm[rows] / spacing_mm[columns]
        ct, pet, ref, pred = (v.take(index, axis) for v in (ct_hu, pet_suv, reference, prediction))
        low, high = _CT_WINDOW_HU
        panel.imshow(ct, cmap="gray", vmin=low, vmax=high, origin=origin, aspect=aspect)
        fused = panel.imshow(
            pet, cmap="hot", vmin=0, vmax=suv_max, origin=origin, aspect=aspect,
            alpha=np.clip(pet / suv_max * 1.5, 0, 0.6),
        )  # fmt: skip
        for mask, colour in ((ref, _REFERENCE), (pred, _PREDICTION)):
            if mask.any():
                panel.contour(mask, [0.5], colors=colour, linewidths=1.3)
        panel.set_title(f"{name}, slice {index}", fontsize=9)
        panel.set_axis_off()
    figure.colorbar(fused, ax=axes, label="SUV", shrink=0.8)
    for name, colour in (("reference", _REFERENCE), ("prediction", _PREDICTION)):
        axes[0].plot([], [], color=colour, label=name)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=90)
    plt.close(figure)


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
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    left.plot(epochs, losses, label="training loss")
    left.set(xlabel="epoch", ylabel="loss (Dice + focal)")
    rate_axis = left.twinx()
    rate_axis.plot(epochs, [rates[e] for e in epochs], color="0.7", linewidth=1)
    rate_axis.set_ylabel("learning rate", color="0.5")
    right.plot([c["epoch"] for c in checks], [c["validation_dsc"] for c in checks], marker=".")
    right.set(xlabel="epoch", ylabel="validation DSC", ylim=(0, 1))
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=90)
    plt.close(figure)
