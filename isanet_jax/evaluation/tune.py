"""How probabilities become masks, chosen on cases that no network has learnt from."""

import itertools
import logging
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

from isanet_jax.cases.cohort import read_cohort
from isanet_jax.errors import ConfigError
from isanet_jax.evaluation.evaluate import predicted
from isanet_jax.files import is_bundle, write_json
from isanet_jax.kinds import pet_name
from isanet_jax.metrics.segmentation import LESION_IOU
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.prediction.rules import Rules, write_form
from isanet_jax.runs.seen import in_cohort, said_of, seen
from isanet_jax.settings import read_stored
from isanet_jax.volume import CONNECTED_18, CONNECTED_26

_log = logging.getLogger(__name__)

# Of a run's cases: its test fold, or those that its checkpoint was chosen on (with selection
# `nested`, others), which leaves the test fold unseen.
ROLES = ("test", "selection")
METRICS = ("dsc", "lesion_f1", "autopet")
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SMALLEST_ML = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
LEAST_SUV_MAX = (0.0, 1.5, 2.0, 2.5, 3.0, 4.0)
_GAIN = 1e-4  # that a rule must bring to be kept


class Components(NamedTuple):
    """The components of a case's mask at one threshold: what any rule's scores follow from.

    Attributes:
        ml, suv_max: (n,) of each.
        true_ml: (n,) the part of each that is in the reference.
        false_ml: (n,) the 18-connected parts of each that touch nothing of the reference.
        overlaps: (n, m) IoU with the reference's components.
        reference_ml: () of the reference.
        missed: (n, e) whether a component touches one of the reference's (18-connected).
        parts_ml: (e,) volumes of these.
    """

    ml: np.ndarray
    suv_max: np.ndarray
    true_ml: np.ndarray
    false_ml: np.ndarray
    overlaps: np.ndarray
    reference_ml: float
    missed: np.ndarray
    parts_ml: np.ndarray


def components(probability, threshold, reference, suv, voxel_ml: float) -> Components:
    """The components of a case.

    Args:
        probability: (D, H, W).
        threshold: least of a voxel.
        reference: (D, H, W) bool.
        suv: (D, H, W), or None.
        voxel_ml: volume of a voxel.
    """
    parts, count = ndimage.label(probability >= threshold, CONNECTED_26)
    real, lesions = ndimage.label(reference, CONNECTED_26)
    edged, pieces = ndimage.label(reference, CONNECTED_18)
    numbers = np.arange(1, count + 1)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    inside = parts > 0
    shared = np.zeros((count + 1, lesions + 1))
    np.add.at(shared, (parts[inside], real[inside]), 1)
    touched = np.zeros((count + 1, pieces + 1))
    np.add.at(touched, (parts[inside], edged[inside]), 1)
    shared, touched = shared[1:, 1:], touched[1:, 1:]
    real_sizes = np.bincount(real.ravel(), minlength=lesions + 1)[1:]
    true = shared.sum(1)
    pieces_of, pieces_count = ndimage.label(inside, CONNECTED_18)
    is_false = np.ones(pieces_count + 1, bool)
    is_false[np.unique(pieces_of[reference])] = False
    wrong = inside & is_false[pieces_of]
    false = np.bincount(parts[wrong], minlength=count + 1)[1:]
    hottest = np.full(count, np.inf)
    if suv is not None and count:
        hottest = np.asarray(ndimage.maximum(suv, parts, numbers))
    return Components(
        sizes * voxel_ml,
        hottest,
        true * voxel_ml,
        false * voxel_ml,
        shared / np.maximum(sizes[:, None] + real_sizes - shared, 1),
        float(reference.sum() * voxel_ml),
        touched > 0,
        np.bincount(edged.ravel(), minlength=pieces + 1)[1:] * voxel_ml,
    )


def scores(found: Components, rules: Rules) -> dict[str, float]:
    """A case's metrics under rules of that threshold; DSC is NaN where there is no lesion.

    As in autoPET: a patient without a lesion has no DSC, and its false positives count.
    """
    kept = rules.kept(found.ml, found.suv_max)
    predicted, true = found.ml[kept].sum(), found.true_ml[kept].sum()
    total = predicted + found.reference_ml
    lesions = found.overlaps.shape[1]
    count = int(kept.sum())
    if count == 0 or lesions == 0:
        f1 = float(count == lesions)
    else:
        matches = found.overlaps[kept] > LESION_IOU
        hits = matches[linear_sum_assignment(matches, maximize=True)].sum()
        f1 = 2 * hits / (count + lesions)
    seen = found.missed[kept].any(0)
    return {
        "dsc": 2 * true / total if total else 1.0,
        "dsc_with_lesion": 2 * true / total if found.reference_ml else np.nan,
        "lesion_f1": float(f1),
        "fp_ml": float(found.false_ml[kept].sum()),
        "fn_ml": float(found.parts_ml[~seen].sum()),
    }


def choose(cases: list[dict[float, Components]], metric: str, *, has_pet: bool) -> tuple:
    """The rules of a class that are best on some cases.

    Of those that are not worse than the best by more than the standard error of the difference over
    the cases, the ones that change least are taken (Breiman et al. 1984, section 3.4.3): of few
    cases, the best of hundreds of rules is mostly luck.

    Args:
        cases: of each case, threshold -> components.
        metric: of `METRICS`: the mean DSC (two empty masks count 1), the mean lesion F1, or the
            ranks of autoPET's three (DSC of patients with a lesion one half, false positive and
            false negative volumes a quarter each).
        has_pet: whether SUVmax may be a rule.

    Returns:
        the rules; metric -> mean with them; and with the defaults.
    """
    suvs = LEAST_SUV_MAX if has_pet else (0.0,)
    every = [
        Rules(threshold=t, smallest_ml=ml, least_suv_max=suv, largest_only=only)
        for t, ml, suv, only in itertools.product(THRESHOLDS, SMALLEST_ML, suvs, (False, True))
    ]
    of_cases = [_of_cases(cases, rules) for rules in every]
    means = [_means(one) for one in of_cases]
    default = every.index(Rules())
    if metric == "autopet":
        columns = {"dsc_with_lesion": -0.5, "fp_ml": 0.25, "fn_ml": 0.25}
        value = -sum(
            abs(weight) * rankdata([np.sign(weight) * mean[name] for mean in means])
            for name, weight in columns.items()
        ) / len(every)
        error = 0.0  # ranks are of all cases together
    else:
        of_rules = np.array([one[metric] for one in of_cases])
        value = of_rules.mean(1)
        differences = of_rules[value.argmax()] - of_rules
        error = differences.std(1, ddof=1) / np.sqrt(len(cases)) if len(cases) > 1 else 0.0
    # Of those that are as good as the best, the one that changes least.
    good = np.flatnonzero(value >= value.max() - np.maximum(error, _GAIN))
    best = min(good, key=lambda i: (_distance(every[i]), -value[i]))
    if value[default] >= value[best] - _GAIN:
        best = default
    return every[best], means[best], means[default]


def _of_cases(cases, rules):
    """Metric -> (n,) of the cases."""
    found = [scores(case[rules.threshold], rules) for case in cases]
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def _means(values):
    return {
        name: float(np.nanmean(v)) if np.isfinite(v).any() else 1.0 for name, v in values.items()
    }


def _distance(rules):
    """How many rules differ from the defaults, and by how much."""
    changes = rules.smallest_ml > 0, rules.least_suv_max > 0, rules.largest_only
    return (
        sum(changes) + (rules.threshold != Rules.threshold),
        abs(rules.threshold - Rules.threshold),
        rules.smallest_ml,
        rules.least_suv_max,
    )


def out_of_fold(predictors, cohort, cases, *, on_case=lambda: None) -> dict[str, list]:
    """Class -> of each case that a network was tested on, threshold -> its components.

    On the case grid, whose probabilities need not be kept.

    Args:
        predictors: a network each, with the fold that it was tested on.
        cohort: their cases.
        cases: of each network, the IDs of those that it is looked at on.
        on_case: called after each case.
    """
    classes = predictors[0].classes
    found = {name: [] for name in classes}
    pet = pet_name(cohort.settings["images"])
    for predictor, tested in zip(predictors, cases, strict=True):
        for _, stored, probability in predicted(predictor, cohort, tested):
            voxel_ml = float(np.prod(stored.meta["spacing_mm"]) / 1000)
            suv = stored.images.get(pet)
            for index, (name, reference) in enumerate(stored.masks(classes).items()):
                known = slice(None) if stored.ignored is None else ~stored.ignored
                values = np.zeros_like(probability[..., index])
                values[known] = probability[..., index][known]
                truth = reference if stored.ignored is None else reference & ~stored.ignored
                of_case = {t: components(values, t, truth, suv, voxel_ml) for t in THRESHOLDS}
                found[name].append(of_case)
            on_case()
    return found


def cases_for_rules(description, found, role) -> list[str]:
    """The cases of a network's role that neither it nor what it was started from has learnt from.

    Args:
        description: of a run.
        found: the same of `isanet_jax.runs.seen.in_cohort`.
        role: `test`: those that it was not chosen on either, but for selection `paper`;
            `selection`: those that it was chosen on.
    """
    split = {name: set(cases) for name, cases in found["split"].items()}
    unfit = seen(found) if role == "test" else split["train"] | split["before_train"]
    return sorted(set(description["split"][role]) & split[role] - unfit)


def tune_runs(
    workdirs, output, *, metric="dsc", role="test", cases=None, checkpoint="best"
) -> dict:
    """Chooses each class's rules on the test folds of runs, and writes them.

    Args:
        workdirs: folders of the runs of a cross-validation, or of one run.
        output: file of the rules.
        metric: see `choose`.
        role: of the cases that it is chosen on, see `ROLES`.
        cases: folder of the cases, where they have moved; None: the runs' own.
        checkpoint: the `best` one of each run, or the `latest`.

    Returns:
        the file's content: `classes` (name -> rules), `metric`, `before` and `after` (class ->
        metric -> mean over the cases), `cases` and `runs`.

    Raises:
        ConfigError: no such metric; runs of different classes or preparations.
        CheckpointError, DataError: see the functions called.
    """
    from tqdm import tqdm

    if metric not in METRICS:
        raise ConfigError(f"the metric is {metric!r}; choose from {', '.join(METRICS)}")
    if models := [workdir for workdir in workdirs if is_bundle(workdir)]:
        raise ConfigError(
            f"{models[0]} is a model, and knows none of its test cases; choose rules on its runs, "
            "and put them into it with isanet bundle --rules"
        )
    predictors = [Predictor([workdir], checkpoint=checkpoint) for workdir in workdirs]
    first = predictors[0]
    for predictor, workdir in zip(predictors, workdirs, strict=True):
        same = predictor.classes == first.classes and predictor.settings == first.settings
        if not same:
            raise ConfigError(
                f"{workdir} and {workdirs[0]} have other classes, or cases prepared differently; "
                "rules are for one kind of run"
            )
    cohort = read_cohort(cases or read_stored(first.descriptions[0]["config"]).data.cases)
    described = [predictor.descriptions[0] for predictor in predictors]
    found = [in_cohort(description, cohort) for description in described]
    of_each = [cases_for_rules(*both, role) for both in zip(described, found, strict=True)]
    tested = [case for of_one in of_each for case in of_one]
    asked = {case for description in described for case in description["split"][role]}
    left_out = asked & cohort.cases.keys() - set(tested)
    if left_out and (said := said_of(cohort, found, left_out)):
        _log.info(said)
    if not tested:
        raise ConfigError(
            f"none of these runs' cases has the role {role!r}: none is left to choose rules on. "
            "Choose them on the test folds (--on test) of a cross-validation"
        )
    has_pet = pet_name(first.settings.images) is not None
    with tqdm(total=len(tested), unit="case", disable=None) as bar:
        found = out_of_fold(predictors, cohort, of_each, on_case=bar.update)
    rules, before, after = {}, {}, {}
    for name, of_cases in found.items():
        rules[name], after[name], before[name] = choose(of_cases, metric, has_pet=has_pet)
    content = {
        "metric": metric,
        "chosen_on": role,
        "classes": write_form(rules),
        "before": before,
        "after": after,
        "cases": tested,
        "runs": [str(workdir) for workdir in workdirs],
    }
    write_json(output, content)
    return content


def describe(content: dict) -> str:
    """What was chosen, and what it brings, as a Markdown table."""
    shown = ("dsc", "dsc_with_lesion", "lesion_f1", "fp_ml", "fn_ml")
    lines = ["| class | rules | " + " | ".join(shown) + " |", "|---" * (len(shown) + 2) + "|"]
    for name, rules in content["classes"].items():
        text = (
            f"p >= {rules['threshold']:g}, at least {rules['smallest_ml']:g} ml and SUVmax "
            f"{rules['least_suv_max']:g}" + (", the largest alone" * rules["largest_only"])
        )
        for label, means in (("one half", content["before"]), (text, content["after"])):
            cells = " | ".join(f"{means[name][metric]:.4g}" for metric in shown)
            lines.append(f"| {name} | {label} | {cells} |")
    return "\n".join(lines)
