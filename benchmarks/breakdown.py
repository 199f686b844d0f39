"""What each patient loses: wrong place, wrong size, or the edge; and what mending each would give.

    python -m benchmarks.breakdown --cases cases/cut32 --runs runs/f0 ... runs/f4

Runs of a cross-validation, each on its own test fold (of an ensemble several with commas), on the
case grid. A wrong voxel belongs to a lesion that is missed or made up (a component that does not
touch the other mask), else to the edge (within one voxel of the reference's surface, or two), else
to the rest: parts that are too large, too small or grown into what lies beside. "Mended" is the
mean DSC where this part alone would be right; "size" is the mask of the reference's volume: the
likeliest voxels, as many as it has.
"""

import argparse

import numpy as np
from scipy import ndimage

from benchmarks.clicks import of_folds
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.metrics.segmentation import case_metrics
from isanet_jax.runtime import setup
from isanet_jax.volume import CONNECTED_26

PARTS = ("missed lesions", "made-up lesions", "edge, 1 voxel", "edge, 2 voxels", "the rest")


def untouched(mask, other):
    """The components of a mask that have no voxel in the other one."""
    parts, count = ndimage.label(mask, CONNECTED_26)
    touched = np.unique(parts[other & mask])
    return mask & ~np.isin(parts, [0, *touched]) if count else mask


def parts_of(mask, reference):
    """Name of `PARTS` -> the wrong voxels that are its own."""
    wrong, found = mask ^ reference, {}
    found["missed lesions"] = untouched(reference, mask)
    found["made-up lesions"] = untouched(mask, reference)
    inside = ndimage.distance_transform_cdt(reference, "chessboard")
    outside = ndimage.distance_transform_cdt(~reference, "chessboard")
    depth = np.where(reference, inside, outside)
    left = wrong & ~found["missed lesions"] & ~found["made-up lesions"]
    for name, near in (("edge, 1 voxel", depth <= 1), ("edge, 2 voxels", depth == 2)):
        found[name] = left & near
    found["the rest"] = left & (depth > 2)
    return found


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", required=True)
    parser.add_argument("--runs", nargs="+", required=True)
    args = parser.parse_args()
    setup()
    cohort, rows = read_cohort(args.cases), {}
    for predictor, case, stored, affine, reference in of_folds(cohort, args.runs):
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        probability = predictor.probabilities([stored])[0][..., 0]
        mask = probability >= 0.5
        row = {"dsc": case_metrics(mask, reference, spacing)["dsc"]}
        likeliest = np.sort(probability, axis=None)[-reference.sum()]
        of_size = case_metrics(probability >= likeliest, reference, spacing)["dsc"]
        row["size"] = mask.sum() / reference.sum(), of_size
        for name, part in parts_of(mask, reference).items():
            mended = case_metrics(mask ^ part, reference, spacing)["dsc"]
            row[name] = part.sum() / max((mask ^ reference).sum(), 1), mended
        rows[case] = row
        shares = ", ".join(f"{name} {row[name][0]:.2f}" for name in PARTS)
        print(f"{case}: DSC {row['dsc']:.3f}; {shares}; {row['size'][0]:.2f} of its volume")
    dsc = np.mean([row["dsc"] for row in rows.values()])
    low = sorted(rows, key=lambda case: rows[case]["dsc"])[: len(rows) // 4]
    print(f"\n{len(rows)} patients, mean DSC {dsc:.3f}; of the worst quarter "
          f"{np.mean([rows[c]['dsc'] for c in low]):.3f}")  # fmt: skip
    print("\n| | share of the wrong voxels | mended: DSC | worst quarter: share | mended |")
    print("|---|---|---|---|---|")
    for name in (*PARTS, "size"):
        cells = [np.mean([rows[c][name][i] for c in of]) for of in (rows, low) for i in (0, 1)]
        print(f"| {name} | {cells[0]:.2f} | {cells[1]:.3f} | {cells[2]:.2f} | {cells[3]:.3f} |")


if __name__ == "__main__":
    main()
