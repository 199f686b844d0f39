"""Scores of a trained run on its test cases, or of anyone's masks."""

from itertools import islice
from pathlib import Path

import numpy as np

from isanet_jax.cases.case import read_label_on_ct
from isanet_jax.cases.cohort import Cohort
from isanet_jax.cases.grid import grid_distance_mm, same_grid
from isanet_jax.cases.prepare import read_label
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.files import visible
from isanet_jax.metrics.segmentation import case_metrics
from isanet_jax.metrics.thresholds import threshold_masks
from isanet_jax.pipeline.dataset import evaluation_data
from isanet_jax.prediction.predictor import THRESHOLD, check_finite, to_ct_grid
from isanet_jax.volume import NIFTI_SUFFIXES, Volume

NETWORK = "network"
GRIDS = ("ct", "case")


def score_run(
    predictor, cohort, cases, on_case, *, thresholds=True, grids=GRIDS
) -> dict[str, dict[str, dict]]:
    """Scores the network and the thresholds on the original CT grid and on the case grid.

    The thresholds see what the network sees (the case's PET), and both are taken to the CT grid
    by the same trilinear interpolation before they become masks.

    Args:
        predictor: `isanet_jax.prediction.predictor.Predictor`; None: the thresholds alone.
        cohort: the prepared cases.
        cases: IDs to score.
        on_case: called after each case with its ID, the stored case, the network's mask on the
            case grid (None without a predictor), and method -> metrics on the first grid.
        thresholds: whether to score these too.
        grids: which of `ct` and `case`.

    Returns:
        grid -> method -> ID -> metrics.
    """
    scores = {grid: {} for grid in grids}
    for case, stored, probability in _predicted(predictor, cohort, cases):
        suv_max = float(stored.pet.max())
        for grid in grids:
            on_grid, reference, spacing_mm = _grid(grid, stored, cohort.path(case))
            masks = {}
            if predictor:
                masks[NETWORK] = on_grid(probability) >= THRESHOLD
            if thresholds:
                masks |= threshold_masks(on_grid(stored.pet), suv_max)
            for method, mask in masks.items():
                of_method = scores[grid].setdefault(method, {})
                of_method[case] = case_metrics(mask, reference, spacing_mm)
        mask = probability >= THRESHOLD if predictor else None
        on_case(
            case, stored, mask, {name: by_case[case] for name, by_case in scores[grids[0]].items()}
        )
    return scores


def _predicted(predictor, cohort, cases):
    """Each case with the network's probability (None without one), a device's worth at a time."""
    data = iter(evaluation_data(cohort, cases))
    while group := list(islice(data, predictor.devices if predictor else 1)):
        predicted = [None] * len(group)
        if predictor:
            predicted = predictor.probabilities(
                np.stack([stored.ct for _, stored in group]),
                np.stack([stored.pet for _, stored in group]),
            )
        for (case, stored), probability in zip(group, predicted, strict=True):
            if probability is not None:
                check_finite(probability, case=case)
            yield case, stored, probability


def unseen_cases(cohort: Cohort, splits: list[dict]) -> list[str]:
    """The cases of a cohort on which networks may be scored: none of them has learnt from these.

    For one network on its own cohort, its test fold. A case that a network does not know is of
    another cohort, and unseen; a case that it was only selected on is not.

    Args:
        cohort: the prepared cases.
        splits: of each network: `train`, `selection` and `test`, case IDs each.

    Raises:
        DataError: test cases that the cohort lacks.
        ConfigError: some network has seen every case.
    """
    unseen = set(cohort.cases)
    for split in splits:
        test = set(split["test"])
        known = test.union(split["train"], split["selection"])
        lacking = sorted(test - cohort.cases.keys())
        if lacking and known & cohort.cases.keys():
            raise DataError(
                f"lacks the test cases {', '.join(lacking[:5])}",
                file=cohort.folder,
                action="Name the folder that the run was trained on with --cases",
            )
        unseen -= known - test
    if not unseen:
        raise ConfigError(
            f"each of the {len(cohort.cases)} cases in {cohort.folder} was trained or selected on "
            "by one of the networks. Folds of one cohort can only be scored together on other "
            "cases: name them with --cases"
        )
    return sorted(unseen)


def _grid(grid, stored, path):
    """How values of a case are taken to the grid, the true mask on it, and its voxel size."""
    if grid == "case":
        return (lambda values: values), stored.label > 0, stored.meta["spacing_mm"]
    label, affine = read_label_on_ct(path), np.array(stored.meta["affine"])
    return (lambda values: to_ct_grid(values, affine, label).data), label.data, label.spacing_mm


def pair_masks(predictions, references) -> dict[str, tuple[Path, Path]]:
    """NIfTI files of two folders, paired by their path below them.

    Returns:
        name without suffix -> (prediction, reference).

    Raises:
        DataError: no such folder, no masks, or a mask without its counterpart.
    """
    found = [_masks(folder) for folder in (predictions, references)]
    alone = [
        f"{name} only in {folder}"
        for folder, here, there in ((predictions, *found), (references, *reversed(found)))
        for name in sorted(here.keys() - there.keys())
    ]
    if alone:
        more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
        raise DataError(
            f"masks without a counterpart: {', '.join(alone[:5])}{more}",
            wanted="the same names in both folders",
        )
    return {name: (found[0][name], found[1][name]) for name in sorted(found[0])}


def _masks(folder):
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no such folder", file=folder, wanted="a folder of NIfTI masks")
    masks = {}
    for path in visible(folder.rglob("*")):
        suffix = next((s for s in NIFTI_SUFFIXES if path.name.lower().endswith(s)), None)
        if suffix and path.is_file():
            name = path.relative_to(folder).as_posix()[: -len(suffix)]
            if name in masks:
                raise DataError(f"two masks named {name}", file=path)
            masks[name] = path
    if not masks:
        raise DataError("no NIfTI files", file=folder, wanted="masks as .nii.gz or .nii")
    return masks


def score_masks(name, prediction, reference, label_values) -> dict[str, float]:
    """Metrics of one pair of mask files.

    Raises:
        DataError: unreadable, unexpected values, or grids that differ.
    """
    masks: list[Volume] = [
        read_label(path, label_values, case=name, placed=False) for path in (prediction, reference)
    ]
    if not same_grid(*masks):
        described = [
            f"{m.data.shape} voxels of {np.round(m.spacing_mm, 5).tolist()} mm at "
            f"{np.round(m.affine[:3, 3], 3).tolist()}"
            for m in masks
        ]
        apart = ""
        if masks[0].data.shape == masks[1].data.shape:
            apart = f", up to {grid_distance_mm(*masks):.3g} mm apart"
        raise DataError(
            f"its grid is {described[0]}, the reference's {described[1]} ({reference}){apart}",
            case=name,
            file=prediction,
            wanted="equal grids",
            action="Resample the prediction onto the reference's grid first",
        )
    return case_metrics(masks[0].data, masks[1].data, masks[0].spacing_mm)
