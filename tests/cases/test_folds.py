from collections import Counter

import pytest

from isanet_jax.cases.folds import folds_by_centre, make_folds, split
from isanet_jax.errors import ConfigError, DataError


def cohort(patients, centres=("A", "B"), scans=2):
    return [
        {"case": f"P{p}_{s}", "patient": f"P{p}", "centre": centres[p % len(centres)], "fold": None}
        for p in range(patients)
        for s in range(scans)
    ]


def test_folds_keep_patients_together_and_centres_balanced():
    cases = cohort(23)
    fold_of = make_folds(cases, folds=5, seed=3)
    assert fold_of == make_folds(cases[::-1], folds=5, seed=3)
    assert fold_of != make_folds(cases, folds=5, seed=4)
    for patient in {c["patient"] for c in cases}:
        assert len({fold_of[c["case"]] for c in cases if c["patient"] == patient}) == 1
    sizes = Counter(fold_of.values())
    assert max(sizes.values()) - min(sizes.values()) <= 2
    for centre in "AB":
        shares = Counter(fold_of[c["case"]] for c in cases if c["centre"] == centre)
        assert len(shares) == 5
        assert max(shares.values()) - min(shares.values()) <= 2


def test_prescribed_folds_are_used_and_checked():
    cases = [{**c, "fold": int(c["patient"][1:]) % 2} for c in cohort(4)]
    assert make_folds(cases, folds=5, seed=0) == {c["case"]: c["fold"] for c in cases}
    with pytest.raises(DataError, match="a fold for every case"):
        make_folds([{**cases[0], "fold": None}, *cases[1:]], folds=5, seed=0)
    with pytest.raises(DataError, match="patient P0 is in fold"):
        make_folds([{**cases[0], "fold": 1}, *cases[1:]], folds=5, seed=0)


def test_too_few_patients():
    with pytest.raises(DataError, match="3 patients for 5 folds"):
        make_folds(cohort(3), folds=5, seed=0)
    with pytest.raises(DataError, match=r"^1 patient for 2 folds.*Prepare more patients$"):
        make_folds(cohort(1), folds=2, seed=0)  # no --folds would help
    with pytest.raises(ConfigError, match="at least 2"):
        make_folds(cohort(3), folds=1, seed=0)


def test_nested_selection_is_neither_trained_on_nor_reported():
    fold_of = make_folds(cohort(20), folds=5, seed=0)
    paper = split(fold_of, fold=4, selection="paper")
    assert paper.selection == paper.test
    nested = split(fold_of, fold=4, selection="nested")
    assert {fold_of[c] for c in nested.selection} == {0}
    assert {fold_of[c] for c in nested.test} == {4}
    # The next fold is that of the next number, however the cases are ordered.
    assert split({"a": 8, "b": 1, "c": 9}, fold=1, selection="nested").selection == ("a",)
    inner = [split(fold_of, fold=3, selection="nested", inner_fold=n) for n in range(4)]
    assert [{fold_of[c] for c in parts.selection} for parts in inner] == [{4}, {0}, {1}, {2}]
    assert {parts.test for parts in inner} == {inner[0].test}
    with pytest.raises(ConfigError, match="inner_fold is 4; with 5 folds it must be 0 to 3"):
        split(fold_of, fold=3, selection="nested", inner_fold=4)
    none = split(fold_of, fold=4, selection="none")
    assert none.test == nested.test
    assert not none.selection
    with pytest.raises(ConfigError, match="selection is 'best'; choose one of paper, nested, none"):
        split(fold_of, fold=4, selection="best")
    for parts in (paper, nested, none, *inner):
        assert not set(parts.train) & (set(parts.test) | set(parts.selection))
        assert set(parts.train) | set(parts.test) | set(parts.selection) == set(fold_of)
    with pytest.raises(ConfigError, match=r"fold is 9.*\[0, 1, 2, 3, 4\]"):
        split(fold_of, fold=9, selection="paper")
    with pytest.raises(ConfigError, match="no case to train on"):
        split({"a": 0, "b": 1}, fold=0, selection="nested")
    with pytest.raises(ConfigError, match="no case to train on"):
        split({"a": 0, "b": 0}, fold=0, selection="paper")


def test_leaving_one_centre_out():
    def cases(patients="abcd", **centres):
        return {
            case: {"centre": centre, "patient": patient}
            for patient, (case, centre) in zip(patients, centres.items(), strict=False)
        }

    found = folds_by_centre(cases(a="CHUS", b="CHGJ", c="CHUS", d="CHMR"))
    assert found == {"a": 2, "b": 0, "c": 2, "d": 1}
    assert folds_by_centre(cases(a="CHUS", b="CHGJ")) == {"a": 1, "b": 0}
    assert folds_by_centre(cases("xyx", a="CHUS", b="CHGJ", c="CHUS")) == {"a": 1, "b": 0, "c": 1}
    with pytest.raises(ConfigError, match="one centre.*'CHUM'"):
        folds_by_centre(cases(a="CHUM", b="CHUM"))
    with pytest.raises(DataError, match="case c: patient x is of the centres 'CHUS' .case a. and"):
        folds_by_centre(cases("xyx", a="CHUS", b="CHGJ", c="CHGJ"))
