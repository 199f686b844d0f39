"""The figures of a comparison, from scores that are written by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from isanet_jax.comparison import page, report, table
from isanet_jax.comparison.grid import THRESHOLDS
from isanet_jax.comparison.report import latex_table, markdown_table
from isanet_jax.metrics.segmentation import case_metrics


def scores(**dsc):
    """Metrics of cases with the given DSC (100 voxels each in mask and truth); 0 is empty."""
    none = np.zeros((2, 2, 2), bool)
    names = case_metrics(none, none, (1, 1, 1))
    return {
        case: dict.fromkeys(names, value)
        | {"hd": 10.0 / value if value else math.inf, "tp": round(100 * value)}
        | {"predicted_voxels": 100 if value else 0, "reference_voxels": 100}
        for case, value in dsc.items()
    }


def cell(method, fold, seed, **of):
    def scores_of(of_class=None):
        return of[of_class] if of_class else of.get("mean", of)

    return SimpleNamespace(
        method=method,
        fold=fold,
        seed=seed,
        is_done=bool(of),
        scores=scores_of,
        name=method,
        is_trained=False,
    )


COMPARISON = {
    "order": ["a", "b"],
    "methods": {
        "a": {"label": "A_1", "published": {"dsc": 0.75}},
        "b": {"label": "B", "published": {}},
    },
}
CELLS = [
    cell("a", 0, 0, network=scores(p=0.6, q=0.8)),
    cell("a", 0, 1, network=scores(p=0.4, q=0.8)),
    cell("a", 1, 0, network=scores(r=0.9, s=0.0, t=0.3)),
    cell("a", 1, 1),
    cell("b", 0, 0, network=scores(p=0.5, q=0.9)),
    cell("b", 1, 0, network=scores(r=0.8, s=0.4, t=0.2)),
    cell(THRESHOLDS, 0, 0, **{"SUV >= 2.5": scores(p=0.2, q=0.4)}),
]


@pytest.fixture
def rows():
    return {row.name: row for row in table.collect(COMPARISON, CELLS)}


def test_figures_are_means_over_folds_of_means_over_seeds(rows):
    assert list(rows) == ["a", "b", "SUV >= 2.5"]
    fold_0, fold_1 = (0.7 + 0.6) / 2, 0.4
    mean, sd, folds = rows["a"].figure("dsc")
    assert (mean, folds) == (pytest.approx((fold_0 + fold_1) / 2), 2)
    assert sd == pytest.approx(abs(fold_0 - fold_1) / 2**0.5)
    assert (rows["a"].missing, rows["a"].total) == (1, 4)
    assert rows["a"].cases["p"]["dsc"] == pytest.approx(0.5)


def test_infinite_distances_are_counted_and_in_no_mean(rows):
    row = rows["a"]
    assert (row.n_infinite, row.n_scored) == (1, 7)
    of_fold_1 = (10 / 0.9 + 10 / 0.3) / 2
    of_fold_0 = np.mean([10 / 0.6, 10 / 0.8, 10 / 0.4, 10 / 0.8])
    assert row.figure("hd")[0] == pytest.approx((of_fold_0 + of_fold_1) / 2)
    # The aggregated DSC has them: 2 x (90 + 0 + 30) / (200 + 100 + 200).
    assert row.of_fold[1][0]["dsc_agg"] == pytest.approx(240 / 500)


def test_each_class_has_rows_and_the_mean_has_the_mean_of_their_aggregated_dsc():
    big, small = scores(p=0.9, q=0.7), scores(p=0.1, q=0.3)
    mean = {case: {m: (big[case][m] + small[case][m]) / 2 for m in big[case]} for case in big}
    for case in mean:
        mean[case] |= {m: big[case][m] + small[case][m] for m in ("tp", "reference_voxels")}
    of = {"mean": {"network": mean}, "big": {"network": big}, "small": {"network": small}}
    comparison = {"order": ["a"], "methods": COMPARISON["methods"]}
    cells = [cell("a", 0, 0, **of)]
    (row,) = table.collect(comparison, cells, ("big", "small"))
    assert row.figure("dsc")[0] == pytest.approx(0.5)
    assert row.figure("dsc_agg")[0] == pytest.approx((0.8 + 0.2) / 2)
    (row,) = table.collect(comparison, cells, ("big", "small"), "big")
    assert row.figure("dsc")[0] == pytest.approx(0.8)
    assert row.figure("dsc_agg")[0] == pytest.approx(0.8)


def test_a_fold_without_a_finite_distance_is_in_no_mean():
    cells = [cell("a", 0, 0, network=scores(p=0.0)), cell("a", 1, 0, network=scores(q=0.5))]
    (row,) = table.collect({"order": ["a"], "methods": COMPARISON["methods"]}, cells)
    assert row.figure("hd")[::2] == (20, 1)
    assert row.figure("dsc")[::2] == (0.25, 2)


def test_a_method_that_finds_nothing_has_no_finite_distance():
    (row,) = table.collect(
        {"order": ["a"], "methods": COMPARISON["methods"]}, [cell("a", 0, 0, network=scores(p=0.0))]
    )
    mean, sd, folds = row.figure("hd")
    assert (mean, math.isnan(sd), folds) == (math.inf, True, 0)
    assert "| inf |" in markdown_table([row])


def test_methods_are_compared_over_the_cases_of_both(rows):
    results = table.tests(list(rows.values()), "b")
    dsc = {test["method"]: test for test in results if test["metric"] == "dsc"}
    assert dsc.keys() == {"a", "SUV >= 2.5"}
    assert (dsc["a"]["n"], dsc["SUV >= 2.5"]["n"]) == (5, 2)
    assert dsc["a"]["difference"] == pytest.approx(np.mean([0, -0.1, 0.1, -0.4, 0.1]))
    clearest = min(dsc.values(), key=lambda test: test["p"])
    assert clearest["p"] <= 0.5
    assert clearest["p_holm"] == pytest.approx(2 * clearest["p"])
    assert table.tests(list(rows.values()), "absent") == []


def test_the_tests_are_a_table_or_the_reason_why_there_is_none():
    assert report.tests_table([]) == "None: the reference or every other method is missing."
    test = {"label": "B", "metric": "dsc", "n": 7, "difference": -0.0312, "low": -0.05}
    test |= {"high": 0.01, "p": 0.0123, "p_holm": 0.0246, "n_infinite": 1}
    *_, row = report.tests_table([test]).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["B", "DSC", "7", "-0.0312", "-0.0500 to +0.0100", "0.0123", "0.0246", "1"]


def test_the_page_has_curves_where_any_method_has_a_log(monkeypatch, rows, tmp_path):
    lines = [{"epoch": 1, "validation_dsc": 0.5}, {"epoch": 2, "validation_dsc": 0.6}]
    written = {}
    volumes = SimpleNamespace(write=lambda path, **content: written.update(content))
    monkeypatch.setattr(page, "_volumes", lambda *_: volumes)
    monkeypatch.setattr(page, "case_folder", lambda *_: None)
    of_comparison = COMPARISON | {"curve": "", "title": "t", "dataset": "sts"}
    for logs, charts in (({"a": [lines], "b": []}, 2), ({"a": [], "b": []}, 1)):
        cells = [SimpleNamespace(method=name, is_done=True, logs=logs[name]) for name in logs]
        page.write_page(
            tmp_path / "r.html", comparison=of_comparison, lines=[], rows=list(rows.values()),
            of_class={}, masks={}, cells=cells,
        )  # fmt: skip
        assert len(written["charts"]) == charts


def test_tables_show_ours_beside_the_papers(rows):
    markdown = markdown_table(list(rows.values())).splitlines()
    ours, paper, difference = (line for line in markdown[2:5])
    assert ours.startswith("| A_1 | ours | 0.5250 ± 0.1768 |")
    assert ours.endswith("| 1 of 7 | 1 of 4 |")
    assert paper.startswith("| | paper | 0.7500 | – |")
    assert difference.startswith("| | difference | -0.2250 | – |")
    assert len({line.count("|") for line in markdown}) == 1
    latex = latex_table(list(rows.values()), "Title")
    assert r"A\_1 & 0.5250 $\pm$ 0.1768 &" in latex
    assert r"SUV $\geq$ 2.5 & 0.3000 &" in latex
    # Of A's seven scored cases one is infinite: that comes first.
    (row,) = (line for line in latex.splitlines() if line.startswith(r"A\_1 "))
    assert row.endswith(r"& 1/7 \\")
    columns = latex.split("tabular}{")[1].split("}")[0]
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in body} == {len(columns) - 1}


def test_a_method_whose_start_had_seen_its_cases_is_marked_in_every_table():
    marked = [
        SimpleNamespace(
            **vars(one) | {"is_trained": True, "training": {"start_has_seen": {"test": 3}}}
        )
        if one.method == "a" and one.seed == 1
        else one
        for one in CELLS
    ]
    labels = {row.name: row.label for row in table.collect(COMPARISON, marked)}
    assert labels["a"] == "A_1 †"
    assert labels["b"] == "B"
    assert "A_1 †" in markdown_table(table.collect(COMPARISON, marked))
