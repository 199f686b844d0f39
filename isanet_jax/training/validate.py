"""Validation: the Dice coefficient of each case that the checkpoint is chosen on."""

from itertools import islice

import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from isanet_jax.cases.cohort import Cohort
from isanet_jax.distributed.mesh import batch_part, local_rows, place_batch
from isanet_jax.errors import IsaNetError
from isanet_jax.pipeline.dataset import evaluation_data


def validate(predict, params, cohort: Cohort, cases, mesh: Mesh) -> dict:
    """DSC at threshold 0.5 on the case grid; cases are spread over the mesh's `data` axis.

    Returns:
        `mean` over the cases, and `cases`: ID -> DSC; two empty masks count 1.

    Raises:
        IsaNetError: a probability is not finite.
    """
    rows, (part, parts) = mesh.shape["data"], batch_part(mesh)
    each = rows // parts  # cases of this process at a time
    # The last case fills up the last batch.
    own = [i for i in range(-(-len(cases) // rows) * rows) if i // each % parts == part]
    stored = iter(evaluation_data(cohort, [cases[min(i, len(cases) - 1)] for i in own]))
    counts = []
    while batch := [case for _, case in islice(stored, each)]:
        images = {"ct": np.stack([c.ct for c in batch]), "pet": np.stack([c.pet for c in batch])}
        placed = place_batch(images, mesh)
        probability = local_rows(predict(params, placed["ct"], placed["pet"]))
        if not np.isfinite(probability).all():
            bad = next(i for i, p in enumerate(probability) if not np.isfinite(p).all())
            raise IsaNetError(
                f"the network's probability is not finite on the validation case "
                f"{batch[bad].meta['case']}: nothing was saved of this epoch. Look at this case; "
                "if it is sound, lower --config.optimizer.peak_learning_rate or use "
                "--config.model.dtype=float32 in a new --workdir"
            )
        masks = probability >= 0.5
        labels = [case.label > 0 for case in batch]
        counts += [(m.sum() + t.sum(), (m & t).sum()) for m, t in zip(masks, labels, strict=True)]
    of_all = multihost_utils.process_allgather(np.c_[own, counts].astype(np.int32))
    both = {index: (total, common) for index, total, common in of_all.reshape(-1, 3).tolist()}
    scores = {}
    for index, case in enumerate(cases):
        total, common = both[index]
        scores[case] = 2 * common / total if total else 1.0
    return {"mean": float(np.mean(list(scores.values()))), "cases": scores}
