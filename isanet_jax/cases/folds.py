"""Cross-validation folds: by patient, stratified by centre, the same for every method."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from isanet_jax.errors import ConfigError, DataError

SELECTIONS = ("paper", "nested", "none")
FOLDS_BY = ("fold", "centre")
ALL_CASES = "all"  # in a fold's place: none is left out
_NONE = MappingProxyType({})


def make_folds(cases, *, folds: int, seed: int, before: Mapping[str, int] = _NONE):
    """Deals patients into folds, centre by centre, those without a lesion apart.

    Patients who have a fold keep it; new ones go where those of their kind are fewest. Patients who
    share a scan under two IDs go into one fold, if there are scans enough for all folds.

    Args:
        cases: dicts with `case`, `patient`, `centre`, `fold` (None, or prescribed for all) and, if
            they are known, `volume_ml` and `content`.
        folds: how many.
        seed: of the shuffle.
        before: patient -> the fold that they have.

    Returns:
        Case ID -> fold.

    Raises:
        ConfigError: fewer than two folds.
        DataError: fewer patients than folds, folds prescribed for some cases only, or one patient
            in two prescribed folds.
    """
    if folds < 2:
        raise ConfigError(f"folds is {folds}; cross-validation needs at least 2")
    prescribed = {c["case"]: c["fold"] for c in cases if c["fold"] is not None}
    if prescribed:
        _check_prescribed(cases, prescribed)
        return prescribed
    centre_of = {c["patient"]: c["centre"] for c in cases}
    if len(centre_of) < folds:
        fewer = f", or use --folds {len(centre_of)}" if len(centre_of) >= 2 else ""
        raise DataError(
            f"{len(centre_of)} patient{'s' if len(centre_of) != 1 else ''} for {folds} folds",
            wanted="at least one patient per fold, and two folds",
            action=f"Prepare more patients{fewer}",
        )
    with_lesion = {c["patient"] for c in cases if c.get("volume_ml", 1) > 0}
    fold_of = {patient: fold for patient, fold in before.items() if patient in centre_of}
    if beyond := sorted(p for p, fold in fold_of.items() if fold not in range(folds)):
        raise ConfigError(
            f"patient {beyond[0]} is in fold {fold_of[beyond[0]]}, and there are to be {folds} "
            "folds; give as many as there are, or deal them anew with --refold"
        )
    leader_of = _leaders(cases, fold_of)
    if len(set(leader_of.values())) < folds:  # too few to keep copies together: they are told
        leader_of = {patient: patient for patient in centre_of}
    stratum_of = {p: (centre, p in with_lesion) for p, centre in centre_of.items()}
    new = defaultdict(list)
    for patient in sorted(centre_of.keys() - fold_of.keys()):
        if leader_of[patient] == patient:
            new[stratum_of[patient]].append(patient)
    of_stratum = Counter((stratum_of[p], fold) for p, fold in fold_of.items())
    sizes = Counter(fold_of.values())
    generator = np.random.default_rng(seed)
    for stratum in sorted(new):
        for patient in generator.permutation(new[stratum]).tolist():
            # From nothing, so every fold gets its share of each stratum, and sizes differ by 1.
            fold = min(range(folds), key=lambda f: (of_stratum[stratum, f], sizes[f]))
            fold_of[patient] = fold
            of_stratum[stratum, fold] += 1
            sizes[fold] += 1
    fold_of |= {p: fold_of[leader] for p, leader in leader_of.items() if p not in fold_of}
    return {c["case"]: fold_of[c["patient"]] for c in cases}


def _leaders(cases, fold_of):
    """Patient -> the one whose fold they get: another where they share a scan, else themselves."""
    leader_of, first_with = {}, {}
    # Those who have a fold lead.
    for case in sorted(cases, key=lambda c: (c["patient"] not in fold_of, c["patient"])):
        patient = case["patient"]
        leader = leader_of.setdefault(patient, patient)
        if case.get("content"):
            other = first_with.setdefault(case["content"], leader)
            leader_of[patient] = leader_of[other]
    return leader_of


def _check_prescribed(cases, prescribed):
    without = [c["case"] for c in cases if c["fold"] is None]
    if without:
        raise DataError(
            f"{len(prescribed)} cases have a fold and {len(without)} have none "
            f"({', '.join(without[:5])}, ...)",
            wanted="a fold for every case, or for none",
        )
    fold_of_patient = {}
    for case in cases:
        first = fold_of_patient.setdefault(case["patient"], case)
        if first["fold"] != case["fold"]:
            raise DataError(
                f"patient {case['patient']} is in fold {first['fold']} (case {first['case']}) and "
                f"in fold {case['fold']}",
                case=case["case"],
                wanted="all cases of a patient in one fold",
            )


def folds_by_centre(cases: dict[str, dict]) -> dict[str, int]:
    """A fold for each centre, in alphabetical order: leave-one-centre-out.

    Args:
        cases: case ID -> `centre` and `patient`.

    Raises:
        ConfigError: fewer than two centres.
        DataError: a patient of two centres, who would be trained on and tested on.
    """
    centre_of = {case: entry["centre"] for case, entry in cases.items()}
    first = {}
    for case, entry in cases.items():
        other = first.setdefault(entry["patient"], case)
        if centre_of[other] != centre_of[case]:
            raise DataError(
                f"patient {entry['patient']} is of the centres {centre_of[other]!r} (case {other}) "
                f"and {centre_of[case]!r}",
                case=case,
                wanted="with fold_by 'centre', all cases of a patient in one",
                action="Use fold_by 'fold', or prepare them with one centre for each patient",
            )
    centres = sorted(set(centre_of.values()))
    if len(centres) < 2:
        raise ConfigError(
            f"fold_by is 'centre', and these cases have one centre ({centres[0]!r}); use 'fold', "
            "or give the centres when you prepare them"
        )
    return {case: centres.index(centre) for case, centre in centre_of.items()}


@dataclasses.dataclass(frozen=True)
class Split:
    """Case IDs by role. `selection`, if any, chooses the checkpoint; `test` is reported."""

    train: tuple[str, ...]
    selection: tuple[str, ...]
    test: tuple[str, ...]


def inner_folds(fold_of: dict[str, int]) -> int:
    """How many folds are left beside a test fold, to choose a checkpoint on."""
    return len(set(fold_of.values())) - 1


def split(
    fold_of: dict[str, int], *, fold: int | str, selection: str, inner_fold: int = 0
) -> Split:
    """Roles of the cases when `fold` is the test fold.

    `paper`: the checkpoint is chosen on the test fold itself, as in the paper (optimistic).
    `nested`: it is chosen on one of the other folds, which is then not trained on: the next one,
    or that which comes `inner_fold` folds after it.
    `none`: all that is not tested is trained on, and the last checkpoint is kept, as in nnU-Net.
    Where the fold is `ALL_CASES`, all are trained on, and there is nothing to choose by.

    Raises:
        ConfigError: no such fold or inner fold, an unknown selection, or nothing left to train on.
    """
    if fold == ALL_CASES:
        return Split(tuple(sorted(fold_of)), (), ())
    numbers = sorted(set(fold_of.values()))
    if fold not in numbers:
        raise ConfigError(f"fold is {fold}; these cases have the folds {numbers}")
    if selection not in SELECTIONS:
        raise ConfigError(f"selection is {selection!r}; choose one of {', '.join(SELECTIONS)}")
    inner = inner_folds(fold_of)
    if inner_fold not in range(max(inner, 1)):  # of one fold, see below
        raise ConfigError(
            f"inner_fold is {inner_fold}; with {len(numbers)} folds it must be 0 to {inner - 1}"
        )
    following = numbers[(numbers.index(fold) + 1 + inner_fold) % len(numbers)]
    chosen_on = {"paper": (fold,), "nested": (following,), "none": ()}[selection]

    def members(*folds):
        return tuple(sorted(case for case, number in fold_of.items() if number in folds))

    train = members(*(n for n in numbers if n != fold and n not in chosen_on))
    if not train:
        raise ConfigError(
            f"selection {selection!r} leaves no case to train on with the folds {numbers}; prepare "
            "the cases with more folds, or use selection 'paper'"
        )
    return Split(train, members(*chosen_on), members(fold))
