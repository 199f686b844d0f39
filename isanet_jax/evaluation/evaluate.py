"""Scores of a trained run on its test cases, or of anyone's masks."""

from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from isanet_jax.cases.grid import grid_distance_mm, resample_label, same_grid
from isanet_jax.cases.label import read_label
from isanet_jax.cases.preparation import settings_of
from isanet_jax.classes import Classes, class_masks, ignored_mask
from isanet_jax.errors import DataError
from isanet_jax.evaluation.burden import burdens
from isanet_jax.files import files_below
from isanet_jax.kinds import pet_name
from isanet_jax.metrics.segmentation import case_metrics, mean_over_classes
from isanet_jax.metrics.thresholds import threshold_masks
from isanet_jax.nifti import NIFTI_SUFFIXES, OTHER_SUFFIXES, read_volume
from isanet_jax.pipeline.dataset import evaluation_data
from isanet_jax.prediction.predictor import check_finite, to_grid_of
from isanet_jax.volume import Volume

NETWORK = "network"
GRIDS = ("ct", "case")
MEAN = "mean of the classes"


def score_run(
    predictor,
    cohort,
    cases,
    on_case,
    *,
    classes=None,
    thresholds=True,
    grids=GRIDS,
    of_case=None,
) -> dict[str, dict[str, dict[str, dict]]]:
    """Scores the network and the thresholds on the original grid and on the case grid.

    The thresholds see what the network sees (the case's PET), and both are taken to the original
    grid by the same trilinear interpolation before they become masks.

    Args:
        predictor: `isanet_jax.prediction.predictor.Predictor`; None: the thresholds alone.
        cohort: the prepared cases.
        cases: IDs to score.
        on_case: called after each case with its ID, the stored case, the network's probability
            (D, H, W, classes; None without a predictor), the network's masks on the
            case grid (class -> bool; None without a predictor), and method -> metrics on the first
            grid, of the mean over the classes.
        classes: names to score; None: the predictor's.
        thresholds: whether to score these too, where there is a PET.
        grids: which of `ct` (the first image's, as it was) and `case`.
        of_case: dict that gets, by case, the network's tumour burden and the reference's on the
            first grid (`isanet_jax.evaluation.burden.burdens`), where there is a PET; or None.

    Returns:
        class -> grid -> method -> ID -> metrics; of several classes, `MEAN` too.
    """
    classes = tuple(classes or predictor.classes)
    names = (*classes, MEAN) if len(classes) > 1 else classes
    scores = {name: {grid: {} for grid in grids} for name in names}
    pet = pet_name(cohort.settings["images"])
    for case, stored, probability in predicted(predictor, cohort, cases):
        of_network = {}  # grid -> class -> mask
        for grid in dict.fromkeys((*grids, *(["case"] if predictor else []))):
            label = None if grid == "case" else cohort.stored(case, ()).label_on_reference()
            on_grid, references, ignored, affine = _grid(label, stored, classes)
            spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
            of_methods = {}
            if predictor:
                suv = partial(on_grid, stored.images[pet]) if pet else None
                ml = float(np.prod(spacing_mm)) / 1000
                found = {
                    name: predictor.rules[name].mask(
                        on_grid(np.ascontiguousarray(probability[..., index])), ml, suv
                    )
                    for index, name in enumerate(predictor.classes)
                }
                drawn = predictor.labels.as_drawn(found)  # as a mask in a file would say
                of_methods[NETWORK] = of_network[grid] = {name: drawn[name] for name in classes}
            if predictor and pet and of_case is not None and grid == grids[0]:
                found = burdens(of_network[grid], references, affine, _pet(stored, pet))
                of_case[case] = found
            if grid not in grids:
                continue
            if thresholds and pet:
                suv = stored.images[pet]
                for method, mask in threshold_masks(on_grid(suv), float(suv.max())).items():
                    of_methods[method] = dict.fromkeys(classes, mask)
            for method, masks in of_methods.items():
                found = _metrics(masks, references, ignored, spacing_mm)
                for name, metrics in found.items():
                    scores[name][grid].setdefault(method, {})[case] = metrics
        first = scores[names[-1]][grids[0]]
        by_method = {name: by_case[case] for name, by_case in first.items()}
        on_case(case, stored, probability, of_network.get("case"), by_method)
    return scores


def score_given(
    cohort, cases, folder, classes, on_case, *, of_case=None
) -> dict[str, dict[str, dict[str, dict]]]:
    """Scores masks that another program made, on the original grid, as `score_run` does.

    Args:
        cohort: the prepared cases.
        cases: IDs to score.
        folder: of the masks, `ID.nii.gz`, on the first image's own grid.
        classes: names to score. A mask has the values that this program writes: of a single class
            1, of several those of the labels, where one class may have another's, too.
        on_case, of_case, and what is returned: see `score_run`; there is no other method than
            `NETWORK`.

    Raises:
        DataError: masks that are missing, unreadable, or on another grid.
    """
    every = settings_of(cohort.settings).classes
    written = Classes({n: every.values[n] if len(classes) > 1 else (1,) for n in classes})
    scores, pet = {}, pet_name(cohort.settings["images"])
    paths = {case: Path(folder) / f"{case}.nii.gz" for case in cases}
    if lacking := [case for case, path in paths.items() if not path.is_file()]:
        raise DataError(
            f"no masks of {', '.join(lacking[:5])}" + (", ..." if len(lacking) > 5 else ""),
            file=folder,
            wanted=f"{lacking[0]}.nii.gz and so on, of all {len(paths)} cases of the fold",
        )
    for case, stored in evaluation_data(cohort, cases):
        mask = read_label(paths[case], written, case=case, placed=False)
        label, settings = cohort.stored(case, ()).label_on_reference(), stored.meta["settings"]
        _check_grids(mask, label, case, paths[case], "the case's")
        given = class_masks(mask.data, written.to_json(), classes)
        true = class_masks(label.data, settings, classes)
        found = _metrics(given, true, ignored_mask(label.data, settings), label.spacing_mm)
        if of_case is not None and pet:
            of_case[case] = burdens(given, true, label.affine, _pet(stored, pet))
        for name, metrics in found.items():
            of_case = scores.setdefault(name, {"ct": {NETWORK: {}}})
            of_case["ct"][NETWORK][case] = metrics
        bits = resample_label(mask, stored.label.shape, np.array(stored.meta["affine"]))
        *_, primary = found.values()
        found_masks = class_masks(bits, written.to_json(), classes)
        on_case(case, stored, None, found_masks, {NETWORK: primary})
    return scores


def _metrics(masks, references, ignored, spacing_mm) -> dict[str, dict[str, float]]:
    """Class -> metrics of a case's masks, by class; of several classes, `MEAN` too."""
    found = {
        name: case_metrics(_known(mask, ignored), _known(references[name], ignored), spacing_mm)
        for name, mask in masks.items()
    }
    if len(found) > 1:
        found[MEAN] = mean_over_classes(list(found.values()))
    return found


def _known(mask, ignored):
    """The mask without voxels that nothing is known of."""
    return mask if ignored is None else mask & ~ignored


def predicted(predictor, cohort, cases):
    """Each case with the network's probability (None without one), a device's worth at a time."""
    data = iter(evaluation_data(cohort, cases))
    while group := list(islice(data, predictor.devices if predictor else 1)):
        found = [None] * len(group)
        if predictor:
            found = predictor.probabilities([stored for _, stored in group])
        for (case, stored), probability in zip(group, found, strict=True):
            if probability is not None:
                check_finite(probability, case=case)
            yield case, stored, probability


def _grid(label, stored, classes):
    """How values of a case are taken to a grid; the true masks there, by class, and which voxels
    nothing is known of (or None); its affine.
    """
    settings = stored.meta["settings"]
    if label is None:  # on the case grid
        return (
            lambda values: values,
            stored.masks(classes),
            stored.ignored,
            np.array(stored.meta["affine"]),
        )
    affine = np.array(stored.meta["affine"])
    return (
        lambda values: to_grid_of(values, affine, label).data,
        class_masks(label.data, settings, classes),
        ignored_mask(label.data, settings),
        label.affine,
    )


def _pet(stored, name):
    """The PET of a case, on its grid."""
    return Volume(stored.images[name], np.array(stored.meta["affine"]))


def pair_masks(predictions, references) -> dict[str, tuple[Path, Path]]:
    """NIfTI files of two folders, paired by their path below them.

    Returns:
        name without suffix -> (prediction, reference).

    Raises:
        DataError: no such folder, no masks, a mask without its counterpart, or volumes that are
            not NIfTI.
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
    for path in files_below(folder):
        suffix = next((s for s in NIFTI_SUFFIXES if path.name.lower().endswith(s)), None)
        if suffix:
            name = path.relative_to(folder).as_posix()[: -len(suffix)]
            if name in masks:
                raise DataError(f"two masks named {name}", file=path)
            masks[name] = path
        elif path.suffix.lower() in OTHER_SUFFIXES:  # it would be left out of the figures
            raise DataError("is not NIfTI", file=path, wanted="masks as .nii.gz or .nii")
    if not masks:
        raise DataError("no NIfTI files", file=folder, wanted="masks as .nii.gz or .nii")
    return masks


def _check_grids(mask, reference, case, path, whose):
    """Raises DataError where a mask does not lie on its reference's grid."""
    if same_grid(mask, reference):
        return
    mine, other = (
        f"{m.data.shape} voxels of {np.round(m.spacing_mm, 5).tolist()} mm at "
        f"{np.round(m.affine[:3, 3], 3).tolist()}"
        for m in (mask, reference)
    )
    apart = ""
    if mask.data.shape == reference.data.shape:
        apart = f", up to {grid_distance_mm(mask, reference):.3g} mm apart"
    raise DataError(
        f"its grid is {mine}, {whose} {other}{apart}",
        case=case,
        file=path,
        wanted="equal grids",
        action="Resample the prediction onto the reference's grid first",
    )


def score_masks(
    name, prediction, reference, classes: Classes, *, pet=None
) -> tuple[dict[str, dict[str, float]], dict | None]:
    """Metrics of one pair of mask files: class -> metrics; of several classes, `MEAN` too.

    Args:
        name: of the pair, for messages.
        prediction, reference: NIfTI masks on one grid.
        classes: what their values stand for.
        pet: NIfTI in SUV, on any grid; None: none.

    Returns:
        the metrics, and the tumour burdens (`isanet_jax.evaluation.burden.burdens`), or None.

    Raises:
        DataError: unreadable, unexpected values, or grids that differ.
    """
    masks: list[Volume] = [
        read_label(path, classes, case=name, placed=False) for path in (prediction, reference)
    ]
    _check_grids(*masks, name, prediction, f"the reference's ({reference})")
    settings = classes.to_json()
    both = [class_masks(m.data, settings, classes.names) for m in masks]
    metrics = _metrics(*both, ignored_mask(masks[1].data, settings), masks[0].spacing_mm)
    if pet is None:
        return metrics, None
    return metrics, burdens(*both, masks[0].affine, read_volume(pet, case=name))
