"""The figures of a comparison: per method, fold and case, and beside the paper's."""

import dataclasses
import math
from collections import defaultdict

import numpy as np

from isanet_jax.comparison.grid import THRESHOLDS, Cell
from isanet_jax.comparison.statistics import holm, paired_test
from isanet_jax.evaluation.evaluate import NETWORK
from isanet_jax.metrics import METRICS, shown_in
from isanet_jax.metrics.segmentation import DISTANCES, summarise

NO_VALUE = "–"
NOT_INDEPENDENT = "†"  # of a method whose start had seen its cases


@dataclasses.dataclass
class Row:
    """A method of the table.

    Attributes:
        name, label: of the method.
        published: metric -> the paper's figure.
        of_fold: fold -> the summary (`isanet_jax.metrics.segmentation.summarise`) of each seed.
        cases: ID -> metrics, the mean over the seeds.
        missing: folds and seeds without a result.
        total: folds x seeds that were asked for.
    """

    name: str
    label: str
    published: dict[str, float]
    of_fold: dict[int, list[dict]]
    cases: dict[str, dict[str, float]]
    missing: int
    total: int

    def figure(self, metric: str) -> tuple[float, float, int]:
        """Mean and sd over the folds of the folds' means, and the number of folds.

        A fold's mean is over its cases where the metric is finite, and over its seeds. (inf, nan,
        0) where no fold has a finite one.
        """
        means = []
        for summaries in self.of_fold.values():
            of_seed = [s[metric] if metric == "dsc_agg" else s[metric]["mean"] for s in summaries]
            finite = [value for value in of_seed if math.isfinite(value)]
            if finite:
                means.append(np.mean(finite))
        if not means:
            return math.inf, math.nan, 0
        sd = float(np.std(means, ddof=1)) if len(means) > 1 else math.nan
        return float(np.mean(means)), sd, len(means)

    def shown(self, metric: str, separator: str = "±") -> str:
        """`figure` as the tables print it."""
        mean, sd, folds = self.figure(metric)
        if not folds:
            return "inf" if metric in DISTANCES else NO_VALUE
        places = METRICS[metric].digits
        return f"{mean:.{places}f}" + ("" if math.isnan(sd) else f" {separator} {sd:.{places}f}")

    @property
    def n_infinite(self) -> int:
        """Cases (counted once for each seed) with an infinite distance."""
        return sum(s["hd"]["n_infinite"] for summaries in self.of_fold.values() for s in summaries)

    @property
    def n_scored(self) -> int:
        """Cases, counted once for each seed."""
        return sum(s["n_cases"] for summaries in self.of_fold.values() for s in summaries)


def collect(comparison: dict, cells: list[Cell], classes=(), of_class=None) -> list[Row]:
    """The rows of all methods with a result, thresholds last.

    Args:
        comparison: see configs/compare/comparison.py.
        cells: all, done or not.
        classes: names, where there are several.
        of_class: the class that the rows are of; None: the only one, or the mean over `classes`.
    """
    results = defaultdict(list)  # row's name -> (cell, ID -> metrics)
    missing, total = defaultdict(int), defaultdict(int)
    for cell in cells:
        total[cell.method] += 1
        if not cell.is_done:
            missing[cell.method] += 1
            continue
        for name, cases in cell.scores(of_class).items():
            results[name if cell.method == THRESHOLDS else cell.method].append((cell, cases))
    rows = []
    for name in [*comparison["order"], *sorted(results.keys() - comparison["methods"].keys())]:
        if name not in results:
            continue
        method = comparison["methods"].get(name, {"label": name, "published": {}})
        of_fold, of_case = defaultdict(list), defaultdict(list)
        for cell, cases in results[name]:
            summary = summarise(cases)
            if classes and of_class is None:  # each class's cases together, then the mean
                each = [summarise(cell.scores(one)[_method_of(cell, name)]) for one in classes]
                summary["dsc_agg"] = float(np.mean([one["dsc_agg"] for one in each]))
            of_fold[cell.fold].append(summary)
            for case, metrics in cases.items():
                of_case[case].append(metrics)
        cases = {
            case: {metric: float(np.mean([m[metric] for m in seeds])) for metric in seeds[0]}
            for case, seeds in of_case.items()
        }
        kind = name if name in comparison["methods"] else THRESHOLDS
        mark = f" {NOT_INDEPENDENT}" if any(has_seen(cell) for cell, _ in results[name]) else ""
        rows.append(
            Row(
                name, method["label"] + mark, method["published"], dict(of_fold), cases,
                missing[kind], total[kind],
            )
        )  # fmt: skip
    return rows


def has_seen(cell: Cell) -> bool:
    """Whether a cell's training started from a network that had seen its test or selection fold."""
    return bool(cell.is_trained and (cell.training or {}).get("start_has_seen"))


def _method_of(cell, name):
    """What a row's method is called in its cell's scores."""
    return name if cell.method == THRESHOLDS else NETWORK


def tests(rows: list[Row], reference: str) -> list[dict]:
    """Each method against the reference over the cases that both have, Holm-corrected per metric.

    Returns:
        A dict per method and metric: method, label, metric, and `paired_test`'s values of method
        minus reference, with p_holm.
    """
    by_name = {row.name: row for row in rows}
    if reference not in by_name:
        return []
    results = []
    for metric in shown_in("tests"):
        tests_of_metric = []
        for row in rows:
            shared = sorted(row.cases.keys() & by_name[reference].cases.keys())
            if row.name == reference or not shared:
                continue
            a, b = (
                np.array([r.cases[case][metric] for case in shared])
                for r in (row, by_name[reference])
            )
            tests_of_metric.append(
                {"method": row.name, "label": row.label, "metric": metric} | paired_test(a, b)
            )
        corrected = holm([test["p"] for test in tests_of_metric])
        results += [
            test | {"p_holm": p} for test, p in zip(tests_of_metric, corrected, strict=True)
        ]
    return results
