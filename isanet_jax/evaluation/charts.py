"""What report.html draws besides volumes: box plots of cases, and curves. viewer/charts.js."""

import math
from collections.abc import Mapping

import numpy as np

from isanet_jax.metrics import METRICS


def boxes(heading: str, groups: Mapping[str, Mapping[str, Mapping]], metrics) -> dict:
    """A box for each group of cases, a metric at a time.

    Args:
        heading: above the chart.
        groups: name of a method or class -> ID -> metrics.
        metrics: names of those that can be chosen, the first shown.
    """
    panels = [
        {
            "name": METRICS[metric].heading,
            "digits": METRICS[metric].digits,
            "groups": [
                {"name": name, "cases": [[case, _finite(of[metric])] for case, of in cases.items()]}
                for name, cases in groups.items()
            ],
        }
        for metric in metrics
    ]
    return {"kind": "boxes", "heading": heading, "panels": panels}


def _finite(value):
    """None of what has no place on an axis, and in JSON."""
    return float(value) if math.isfinite(value) else None


def epochs_of(lines: list[dict]) -> tuple[list, list, list]:
    """(epoch, value) pairs: validation DSC, mean loss, and the learning rate at an epoch's end.

    Args:
        lines: of a run's metrics.jsonl.
    """
    checks = [(line["epoch"], line["validation_dsc"]) for line in lines if "validation_dsc" in line]
    of_epoch = {}
    for line in lines:
        if "loss" in line:
            of_epoch.setdefault(line["epoch"], []).append(line)
    steps = sorted(of_epoch.items())
    losses = [(epoch, float(np.mean([line["loss"] for line in of]))) for epoch, of in steps]
    return checks, losses, [(epoch, of[-1]["learning_rate"]) for epoch, of in steps]


def learning_curves(logs: Mapping[str, list[dict]]) -> dict:
    """Validation DSC, training loss and learning rate over the epochs.

    Args:
        logs: a run's name -> the lines of its metrics.jsonl.
    """
    of_runs = {name: epochs_of(lines) for name, lines in logs.items()}
    checks, losses, rates = (
        {name: found[what] for name, found in of_runs.items()} for what in range(3)
    )
    panels = [
        curves_panel("validation DSC", "epoch", checks),
        curves_panel("training loss", "epoch", losses),
        curves_panel("learning rate", "epoch", rates, digits=None),
    ]
    return {"kind": "curves", "heading": "Learning curves", "panels": panels}


def mean_validations(logs: Mapping[str, list[list[dict]]]) -> dict:
    """The mean validation DSC of several trainings of each method, over their epochs.

    Args:
        logs: a method's name -> the lines of metrics.jsonl of each of its trainings.
    """
    lines = {}
    for name, trainings in logs.items():
        of_epoch = {}
        for line in (line for log in trainings for line in log if "validation_dsc" in line):
            of_epoch.setdefault(line["epoch"], []).append(line["validation_dsc"])
        lines[name] = [[epoch, float(np.mean(dsc))] for epoch, dsc in sorted(of_epoch.items())]
    panel = curves_panel("validation DSC, mean over the trainings", "epoch", lines)
    return {"kind": "curves", "heading": "Learning curves", "panels": [panel]}


def curves_panel(name: str, axis: str, lines: Mapping[str, list], *, names=None, digits=4) -> dict:
    """Lines over a common axis.

    Args:
        name: of what is drawn.
        axis: of the places' axis.
        lines: name -> (place, value), or (place, value, sd), each.
        names: of the places 0, 1, ...; None: they are numbers.
        digits: after the point; None: three significant ones.
    """
    return {
        "name": name,
        "x": axis,
        "names": names,
        "digits": digits,
        "lines": [
            {"name": of, "points": [point for point in points if all(map(math.isfinite, point))]}
            for of, points in lines.items()
            if points
        ],
    }
