"""Validation: the Dice coefficient of each case that the checkpoint is chosen on."""

from itertools import islice

import numpy as np
from jax.experimental import multihost_utils

from isanet_jax.distributed.mesh import batch_part, fill_up, local_rows, place_batch
from isanet_jax.errors import IsaNetError
from isanet_jax.kinds import KINDS
from isanet_jax.network.whole_volume import over_windows
from isanet_jax.pipeline.dataset import evaluation_data, standardised
from isanet_jax.training.run import Run


def validate(run: Run, params) -> dict:
    """DSC at threshold 0.5 on the case grid; cases are spread over the mesh's `data` axis.

    Returns:
        `mean` over the cases; `cases`: ID -> DSC, the mean over its classes; `classes`: name ->
        mean over the cases. Two empty masks count 1.

    Raises:
        IsaNetError: a probability is not finite.
    """
    cases, classes = run.parts.selection, run.inputs.classes
    count = _count_windows if run.config["data"]["fit"] == "whole" else _count_volumes
    both = count(run, params, cases)
    scores = {
        case: [2 * common / total if total else 1.0 for total, common in both[i].tolist()]
        for i, case in enumerate(cases)
    }
    by_case = {case: float(np.mean(of_case)) for case, of_case in scores.items()}
    means = np.mean(list(scores.values()), 0)
    return {
        "mean": float(np.mean(list(by_case.values()))),
        "cases": by_case,
        "classes": dict(zip(classes, means.tolist(), strict=True)),
    }


def _count_volumes(run, params, cases):
    """Index of a case -> (classes, 2), see `_counts`: whole volumes, spread over the devices."""
    rows, (part, parts) = run.mesh.shape["data"], batch_part(run.mesh)
    each = rows // parts  # cases of this process at a time
    # The last case fills up the last batch.
    own = [i for i in range(-(-len(cases) // rows) * rows) if i // each % parts == part]
    names = [cases[min(i, len(cases) - 1)] for i in own]
    stored = iter(evaluation_data(run.cohort, names, run.inputs.images))
    counts = []
    while batch := [case for _, case in islice(stored, each)]:
        given = [_given(run, case)[0] for case in batch]
        images = {name: np.stack([one[name] for one in given]) for name in run.inputs.images}
        found = local_rows(run.predict(params, place_batch(images, run.mesh)))
        counts += [_counts(run, *both) for both in zip(batch, found, strict=True)]
    table = np.concatenate([np.array(own)[:, None], np.reshape(counts, (len(own), -1))], 1)
    of_all = multihost_utils.process_allgather(table.astype(np.int32))
    rows_of_all = of_all.reshape(-1, table.shape[1])
    return {row[0]: np.reshape(row[1:], (-1, 2)) for row in rows_of_all}


def _count_windows(run, params, cases):
    """The same of cases of any shape, one after the other: its windows are spread."""
    rows, (part, parts) = run.mesh.shape["data"], batch_part(run.mesh)
    own = slice(part * (rows // parts), (part + 1) * (rows // parts))

    def predict(images):
        count = len(next(iter(images.values())))
        images = {name: x[own] for name, x in fill_up(images, rows).items()}
        found = local_rows(run.predict(params, place_batch(images, run.mesh)))
        if parts > 1:
            found = multihost_utils.process_allgather(found).reshape(-1, *found.shape[1:])
        return found[:count]

    counts = {}
    stored = evaluation_data(run.cohort, cases, run.inputs.images)
    window, classes = run.inputs.shape, len(run.inputs.classes)
    for index, (_, case) in enumerate(stored):
        images, outside = _given(run, case)
        name, kind = next(iter(run.inputs.images.items()))
        body = KINDS[kind].body(case.images[name])
        found = over_windows(predict, images, outside, window, classes, body=body, batch=rows)
        counts[index] = np.array(_counts(run, case, found))
    return counts


def _given(run, case):
    """Images as the device is given them, and what they are beyond their fields."""
    return standardised(
        case.images, case.statistics, run.inputs.images, of_volume=not run.inputs.is_patch
    )


def _counts(run, case, probability):
    """(classes, 2): the voxels of both masks together, and those that they share."""
    if not np.isfinite(probability).all():
        raise IsaNetError(
            f"the network's probability is not finite on the validation case "
            f"{case.meta['case']}: nothing was saved of this epoch. Look at this case; "
            "if it is sound, lower --config.optimizer.peak_learning_rate or use "
            "--config.model.dtype=float32 in a new --workdir"
        )
    known = True if case.ignored is None else ~case.ignored
    counts = []
    for index, label in enumerate(case.masks(run.inputs.classes).values()):
        mask, truth = (probability[..., index] >= 0.5) & known, label & known
        counts.append((mask.sum() + truth.sum(), (mask & truth).sum()))
    return counts
