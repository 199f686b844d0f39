"""A simulated reader's clicks: DSC and lesion F1 after 0, 1, 3, 5 and 10 of them.

    python -m benchmarks.clicks --cases cases/cut32 --guided runs/c0 ... runs/c4 \
        --plain runs/f0 ... runs/f4

Runs of a cross-validation, each scored on its own test fold. After each look the reader clicks into
the largest error, at the voxel that is deepest in it, and the network answers. Beside it: the same
clicks as spheres at 41 % of SUVmax on the network's first mask, and, from nothing, as many spheres
as clicks, each in the largest lesion that is missed. On the case grid. Of several classes the
reader looks at one, `--name`, in which all clicks are.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import ndimage

from isanet_jax.annotate.tools import ball, followed, threshold_in_sphere
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.metrics.segmentation import case_metrics
from isanet_jax.runtime import setup
from isanet_jax.volume import CONNECTED_26, Volume

COUNTS = (0, 1, 3, 5, 10)
_LEAST_MM = 15.0  # radius of a sphere


def next_click(mask, reference, spacing):
    """The largest error's deepest voxel, whether it is a miss, its depth in mm; or None."""
    best, size = None, 0
    for wrong, here in ((reference & ~mask, True), (mask & ~reference, False)):
        parts, count = ndimage.label(wrong, CONNECTED_26)
        if count:
            sizes = np.bincount(parts.ravel())[1:]
            if sizes.max() > size:
                size, best = sizes.max(), (parts == sizes.argmax() + 1, here)
    if best is None:
        return None
    depth = ndimage.distance_transform_edt(np.pad(best[0], 1), spacing)[1:-1, 1:-1, 1:-1]
    return np.array(np.unravel_index(int(depth.argmax()), depth.shape)), best[1], depth.max()


def by_spheres(mask, clicks, pet, affine):
    """A mask with clicks as spheres: at a miss 41 % of SUVmax in one that is twice as large as what
    is missed, else a ball as deep as the error erased.
    """
    grid = Volume(pet, affine)
    for voxel, here, depth in clicks:
        ras = affine[:3, :3] @ voxel + affine[:3, 3]
        if here:
            radius_mm = max(2 * depth, _LEAST_MM)
            mask = mask | threshold_in_sphere(grid, grid, ras, radius_mm=radius_mm)
        else:
            mask = mask & ~ball(grid, ras, depth)
    return mask


def read_by(answer, reference, spacing):
    """Count -> mask of a reader who clicks, and the clicks; `answer` makes a mask of clicks."""
    clicks, masks = [], {}
    for count in range(max(COUNTS) + 1):
        mask = answer(clicks)
        if count in COUNTS:
            masks[count] = mask
        click = next_click(mask, reference, spacing)
        if click is not None:
            clicks = [*clicks, click]
    return masks, clicks


def in_mm(clicks, affine):
    """The clicks' points, here and away, RAS mm."""
    ras = [(affine[:3, :3] @ v + affine[:3, 3], here) for v, here, _ in clicks]
    return tuple([p for p, h in ras if h is here] for here in (True, False))


def as_the_page(mask, case, affine, clicks):
    """Each click is followed, also where the network did not."""
    pet = Volume(case.images["pet"].astype(np.float32), affine)
    return followed(mask, pet, pet, *in_mm(clicks, affine))


def network(predictor, case, affine, name=None):
    """A function of clicks (voxel, here, depth): the network's mask of a class with them."""
    name = name or predictor.classes[0]
    if predictor.settings.fit == "whole":
        return network_of_bodies(predictor, case, affine, name)

    def answer(clicks):
        shown = case
        if clicks:
            shown = predictor.with_clicks(case, affine, {name: in_mm(clicks, affine)})
        # As the page does: without mirror images once there are clicks.
        quick = predictor.quick if clicks else predictor
        mask = quick.probabilities([shown])[0][..., predictor.classes.index(name)] >= 0.5
        return as_the_page(mask, case, affine, clicks)

    return answer


def network_of_bodies(predictor, case, affine, name):
    """The same as the page does it: each click is answered in the window around it."""
    index, masks = predictor.classes.index(name), {}

    def answer(clicks):
        if len(clicks) in masks:
            return masks[len(clicks)]
        if not clicks:
            masks[0] = predictor.quick.probabilities([case])[0][..., index] >= 0.5
        else:
            given, (last, *_) = {name: in_mm(clicks, affine)}, clicks[-1]
            point = affine[:3, :3] @ last + affine[:3, 3]
            first = Volume(answer([]) * np.uint8(predictor.labels.written[name]), affine)
            values, place, inner = predictor.quick.around(case, affine, point, given, first)
            start = np.rint(np.linalg.solve(affine[:3, :3], place[:3, 3] - affine[:3, 3]))
            part = tuple(slice(int(a), int(a) + n) for a, n in zip(start, inner.shape, strict=True))
            mask = answer(clicks[:-1]).copy()
            mask[part] = np.where(inner > 0.5, values[..., index] >= 0.5, mask[part])
            masks[len(clicks)] = as_the_page(mask, case, affine, clicks)
        return masks[len(clicks)]

    return answer


def of_folds(cohort, runs, name=None):
    """Each run's test cases: its predictor, the case's name, the case, its affine, the reference.

    Args:
        cohort: of the cases.
        runs: folders; of an ensemble several with commas.
        name: of the class that the reference is of; None: the first.
    """
    from isanet_jax.prediction.predictor import Predictor  # imports JAX

    for run in runs:
        predictor = Predictor([Path(one) for one in run.split(",")])
        for case in predictor.descriptions[0]["split"]["test"]:
            stored = cohort.stored(case).read()
            reference = stored.masks(predictor.classes)[name or predictor.classes[0]]
            yield predictor, case, stored, np.array(stored.meta["affine"]), reference


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", required=True)
    parser.add_argument(
        "--guided", nargs="+", required=True, help="a run, or of an ensemble several with commas"
    )
    parser.add_argument("--plain", nargs="+", default=[], help="trained without clicks")
    parser.add_argument("--name", help="class that is read (default: the first)")
    parser.add_argument("--output", help="JSON of every case")
    args = parser.parse_args()
    setup()
    cohort, scores = read_cohort(args.cases), {}

    def note(method, count, case, masks):
        metrics = case_metrics(*masks)
        scores.setdefault(method, {}).setdefault(count, {})[case] = {
            name: metrics[name] for name in ("dsc", "lesion_f1")
        }

    for predictor, name, case, affine, reference in of_folds(cohort, args.guided, args.name):
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        pet = case.images["pet"].astype(np.float32)
        answer = network(predictor, case, affine, args.name)
        masks, clicks = read_by(answer, reference, spacing)
        if predictor.settings.fit == "whole":
            for count in COUNTS:
                note("network with clicks", count, name, (masks[count], reference, spacing))
            print(name, [round(scores["network with clicks"][c][name]["lesion_f1"], 2)
                         for c in COUNTS], flush=True)  # fmt: skip
            continue
        first = masks[0]
        start = {"spheres alone": np.zeros(pet.shape, bool), "its mask, then spheres": first}
        others = {}
        for method, of in start.items():

            def edit(c, of=of, pet=pet, affine=affine):
                return by_spheres(of, c, pet, affine)

            others[method], _ = read_by(edit, reference, spacing)
        for count in COUNTS:
            same = by_spheres(first, clicks[:count], pet, affine)
            found = {"network with clicks": masks[count]}
            found |= {"its mask, the same clicks as spheres": same}
            found |= {method: of[count] for method, of in others.items()}
            for method, mask in found.items():
                note(method, count, name, (mask, reference, spacing))
    for predictor, name, case, affine, reference in of_folds(cohort, args.plain):
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        masks, _ = read_by(network(predictor, case, affine), reference, spacing)
        for count in COUNTS:
            note("network trained without clicks", count, name, (masks[count], reference, spacing))
    tell(scores)
    if args.output:
        Path(args.output).write_text(json.dumps(scores))


def tell(scores):
    """Prints the table: a row for each method."""
    heads = " | ".join(f"{count} clicks" for count in COUNTS)
    print(f"| DSC (lesion F1) | {heads} | area |\n|---" + "|---" * (len(COUNTS) + 1) + "|")
    for method, of_count in scores.items():
        means = {
            c: [np.nanmean([one[n] for one in of.values()]) for n in ("dsc", "lesion_f1")]
            for c, of in of_count.items()
        }
        cells = [f"{means[c][0]:.3f} ({means[c][1]:.2f})" if c in means else "" for c in COUNTS]
        dsc = [means[c][0] for c in COUNTS if c in means]
        area = np.trapezoid(dsc, COUNTS) / COUNTS[-1] if len(dsc) == len(COUNTS) else None
        print(f"| {method} | {' | '.join(cells)} | {'' if area is None else f'{area:.3f}'} |")


if __name__ == "__main__":
    main()
