"""Validation: the Dice coefficient of the cases that the checkpoint is chosen on."""

import contextlib
from itertools import islice

import numpy as np
from jax.experimental import multihost_utils

from isanet_jax.distributed.mesh import batch_part, fill_up, local_rows, place_batch
from isanet_jax.errors import IsaNetError
from isanet_jax.kinds import KINDS
from isanet_jax.network.whole_volume import over_windows
from isanet_jax.pipeline.dataset import evaluation_data, training_data
from isanet_jax.pipeline.normalise import standardised, statistics_of
from isanet_jax.training.picture import PICTURED, picture
from isanet_jax.training.setup import Training

_PATCHES = 50  # of a validation on patches, as in nnU-Net


def validate(training: Training, params, epoch: int, *, show=None) -> dict:
    """DSC at threshold 0.5, of whole cases or of patches, as `train.validate_on` says.

    Of cases: on the case grid, spread over the mesh's `data` axis; two empty masks count 1. Of
    patches: drawn anew for each epoch like those that are trained on, but for the augmentation;
    the DSC of each class is of the voxels of all of them together.

    Args:
        training, params, epoch: what is validated, and when.
        show: called with the ID and a picture of each of the first cases; None: none are drawn.

    Returns:
        `mean` over the cases, or of patches over the classes; `cases`: ID -> DSC, the mean over its
        classes, none of patches; `classes`: name -> mean over the cases, or of the patches.

    Raises:
        IsaNetError: a probability is not finite.
    """
    if training.config.train.validate_on == "patches":
        return _validate_patches(training, params, epoch)
    cases, classes = training.parts.selection, training.inputs.classes
    count = _count_windows if training.config.data.patch_shape else _count_volumes
    both = count(training, params, cases, show)
    scores = {case: [_dice(*counts) for counts in both[i].tolist()] for i, case in enumerate(cases)}
    by_case = {case: float(np.mean(of_case)) for case, of_case in scores.items()}
    means = np.mean(list(scores.values()), 0)
    return {
        "mean": float(np.mean(list(by_case.values()))),
        "cases": by_case,
        "classes": dict(zip(classes, means.tolist(), strict=True)),
    }


def _validate_patches(training, params, epoch):
    """See `validate`; each process reads its part of every batch."""
    rows, classes = training.mesh.shape["data"], training.inputs.classes
    data = training_data(
        training.cohort,
        training.parts.selection,
        training.inputs._replace(read=training.inputs.shape),
        batch=rows,
        seed=int(np.random.SeedSequence([training.config.seed, epoch]).generate_state(1)[0]),
        augment=training.config.augment.without,
        part=batch_part(training.mesh),
    )
    both = np.zeros((len(classes), 2), np.int64)
    with contextlib.closing(iter(data)) as batches:
        for batch in islice(batches, -(-_PATCHES // rows)):
            found = local_rows(
                training.predict(params, place_batch(batch["images"], training.mesh))
            )
            _check_finite(found, "a validation patch")
            known = batch["ignored"] == 0 if "ignored" in batch else True
            for index, name in enumerate(classes):
                mask, truth = (
                    (found[..., index] >= 0.5) & known,
                    (batch["labels"][name] > 0) & known,
                )
                both[index] += mask.sum() + truth.sum(), (mask & truth).sum()
    both = multihost_utils.process_allgather(both).reshape(-1, *both.shape).sum(0)
    scores = {n: _dice(*counts) for n, counts in zip(classes, both.tolist(), strict=True)}
    return {"mean": float(np.mean(list(scores.values()))), "cases": {}, "classes": scores}


def _dice(total, common):
    return 2 * common / total if total else 1.0


def _count_volumes(training, params, cases, show):
    """Index of a case -> (classes, 2), see `_counts`: whole volumes, spread over the devices."""
    rows, (part, parts) = training.mesh.shape["data"], batch_part(training.mesh)
    each = rows // parts  # cases of this process at a time
    # The last case fills up the last batch.
    own = [i for i in range(-(-len(cases) // rows) * rows) if i // each % parts == part]
    names = [cases[min(i, len(cases) - 1)] for i in own]
    stored = iter(evaluation_data(training.cohort, names, training.inputs.images))
    counts = []
    while batch := [case for _, case in islice(stored, each)]:
        given = [_given(training, case)[0] for case in batch]
        images = {name: np.stack([one[name] for one in given]) for name in training.inputs.images}
        found = local_rows(training.predict(params, place_batch(images, training.mesh)))
        counts += [_counts(training, *both) for both in zip(batch, found, strict=True)]
        for case, probability in zip(batch, found, strict=True):
            _show(training, case, probability, cases, show)
    table = np.concatenate([np.array(own)[:, None], np.reshape(counts, (len(own), -1))], 1)
    of_all = multihost_utils.process_allgather(table.astype(np.int32))
    rows_of_all = of_all.reshape(-1, table.shape[1])
    return {row[0]: np.reshape(row[1:], (-1, 2)) for row in rows_of_all}


def _count_windows(training, params, cases, show):
    """The same of cases that are seen in windows, one after the other: windows are spread."""
    rows, (part, parts) = training.mesh.shape["data"], batch_part(training.mesh)
    own = slice(part * (rows // parts), (part + 1) * (rows // parts))

    def predict(images):
        count = len(next(iter(images.values())))
        images = {name: x[own] for name, x in fill_up(images, rows).items()}
        found = local_rows(training.predict(params, place_batch(images, training.mesh)))
        if parts > 1:
            found = multihost_utils.process_allgather(found).reshape(-1, *found.shape[1:])
        return found[:count]

    counts = {}
    stored = evaluation_data(training.cohort, cases, training.inputs.images)
    window, classes = training.inputs.shape, len(training.inputs.classes)
    for index, (_, case) in enumerate(stored):
        images, outside = _given(training, case)
        name, kind = next(iter(training.inputs.images.items()))
        is_whole = training.config.data.is_whole
        body = KINDS[kind].body(case.images[name]) if is_whole else None
        found = over_windows(predict, images, outside, window, classes, body=body, batch=rows)
        counts[index] = np.array(_counts(training, case, found))
        _show(training, case, found, cases, show)
    return counts


def _show(training, case, probability, cases, show):
    if show is not None and (name := case.meta["case"]) in cases[:PICTURED]:
        show(name, picture(case.images, probability, case.masks(training.inputs.classes)))


def _given(training, case):
    """Images as the device is given them, and what they are beyond their fields."""
    return standardised(
        case.images,
        statistics_of(case, training.inputs.images, training.inputs.pet_scale),
        training.inputs.images,
        of_volume=training.inputs.of_volume,
    )


def _counts(training, case, probability):
    """(classes, 2): the voxels of both masks together, and those that they share."""
    _check_finite(probability, f"the validation case {case.meta['case']}")
    known = True if case.ignored is None else ~case.ignored
    counts = []
    for index, label in enumerate(case.masks(training.inputs.classes).values()):
        mask, truth = (probability[..., index] >= 0.5) & known, label & known
        counts.append((mask.sum() + truth.sum(), (mask & truth).sum()))
    return counts


def _check_finite(probability, what):
    if not np.isfinite(probability).all():
        raise IsaNetError(
            f"the network's probability is not finite on {what}: nothing was saved of this epoch. "
            "Look at it; if it is sound, lower --config.optimizer.peak_learning_rate or use "
            "--config.model.dtype=float32 in a new --workdir"
        )
