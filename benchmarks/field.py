"""What the field of view alone says of the tumour: python -m benchmarks.field --source DIR.

A copy that was cropped around its labels gives them away: where every field ends 5 cm from the
tumour, nobody needs to look at a voxel to know where it lies and how large it is. So this draws an
ellipsoid in the middle of the field without any image, up to a margin from the field's sides (or
over a part of it, for that is what a field resized to a cube shows), with the one margin or part
that fits all patients best, and scores it on the CT's grid.

    python -m benchmarks.field --source DIR --output CUT
    isanet prepare table --source CUT/cases.csv --output cases/cut32 --size 32

cuts the fields anew, for a comparison in which they say less: of what lies between the label and
each side of the field, a random part stays (uniform, from nothing to all). NIfTI only.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np

from isanet_jax import datasets
from isanet_jax.cases.check import margins_mm
from isanet_jax.datasets.phantom import ellipsoid
from isanet_jax.errors import DataError
from isanet_jax.files import write_csv
from isanet_jax.nifti import read_volume, write_volume
from isanet_jax.volume import Volume

MARGINS_MM = range(0, 75, 5)
PARTS = [n / 20 for n in range(2, 21)]


def dsc(a: np.ndarray, b: np.ndarray) -> float:
    """Dice similarity coefficient of two masks, of which one is not empty."""
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def read_mask(scan) -> Volume:
    """A scan's label, any of its values. Raises DataError: not NIfTI, or empty."""
    label = read_volume(scan.label, case=scan.case)
    if not label.data.any():
        raise DataError("the label is empty", case=scan.case, file=scan.label, wanted="a tumour")
    return label


def cut_to(volume: Volume, low_mm: np.ndarray, high_mm: np.ndarray) -> Volume:
    """The voxels whose centres lie between two corners of a box along the volume's axes, world."""
    own = np.linalg.inv(volume.affine)
    ends = np.sort(own[:3, :3] @ np.stack([low_mm, high_mm], 1) + own[:3, 3:], axis=1)
    first = np.maximum(np.ceil(ends[:, 0] - 1e-6), 0).astype(int)
    last = np.minimum(np.floor(ends[:, 1] + 1e-6), np.array(volume.data.shape) - 1).astype(int)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    part = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
    return Volume(np.ascontiguousarray(volume.data[part]), affine)


def cut_scan(images: dict, label: Volume, generator: np.random.Generator) -> tuple[dict, Volume]:
    """A patient's images and label with a field cut anew, the same for all."""
    beside = np.rint(margins_mm(label) / label.spacing_mm[:, None])  # voxels
    off = beside - np.floor(beside * generator.uniform(0, 1, (3, 2)))
    low, high = off[:, 0], np.array(label.data.shape) - 1 - off[:, 1]
    ends = label.affine[:3, :3] @ np.stack([low - 0.5, high + 0.5], 1) + label.affine[:3, 3:]
    cut_images = {name: cut_to(image, *ends.T) for name, image in images.items()}
    return cut_images, cut_to(label, *ends.T)


def cut(source: Path, output: Path, seed: int) -> Path:
    """Cuts the fields of all of a cohort's patients anew, and returns the table of them."""
    _, found = datasets.read(source)
    rows = []
    for number, scan in enumerate(found.scans, start=1):
        images = {name: read_volume(path, case=scan.case) for name, path in scan.images.items()}
        generator = np.random.default_rng([seed, *scan.case.encode()])
        images, label = cut_scan(images, read_mask(scan), generator)
        names = {name: f"{scan.case}/{name}.nii.gz" for name in (*images, "label")}
        for name, volume in (images | {"label": label}).items():
            write_volume(output / names[name], volume)
        rows.append({"case": scan.case, **names, "patient": scan.patient})
        print(f"\rcut {number} of {len(found.scans)}", end="", flush=True)
    print()
    write_csv(output / "cases.csv", rows)
    return output / "cases.csv"


def blind(source: Path) -> None:
    """Prints what masks score that were drawn without an image."""
    _, found = datasets.read(source)
    by_margin, by_part, ends = [], [], []
    for scan in found.scans:
        volume = read_mask(scan)
        mask, spacing = volume.data > 0, volume.spacing_mm
        places = np.ogrid[tuple(slice(n) for n in mask.shape)]
        along = [(place + 0.5) * step for place, step in zip(places, spacing, strict=True)]
        half = np.array(mask.shape) * spacing / 2
        ends.append(margins_mm(volume))
        for scores, choices in (
            (by_margin, [half - margin for margin in MARGINS_MM]),
            (by_part, [half * part for part in PARTS]),
        ):
            radii = [np.maximum(choice, spacing) for choice in choices]
            scores.append([dsc(ellipsoid(along, half, one) <= 1, mask) for one in radii])
    margins = np.round(np.percentile(ends, (10, 50, 90)))
    print(f"{len(found.scans)} patients of {source}")
    print(f"from the mask to a side of the field, mm: 10 %, 50 %, 90 %: {margins}")
    print("| drawn without an image | DSC, mean | median |\n|---|---|---|")
    for what, values, choices in (
        ("ellipsoid, {} mm from the field's sides", by_margin, MARGINS_MM),
        ("ellipsoid, {} of the field", by_part, PARTS),
    ):
        best = int(np.argmax(np.mean(values, axis=0)))
        one = [row[best] for row in values]
        row = f"{statistics.mean(one):.3f} | {statistics.median(one):.3f}"
        print(f"| {what.format(choices[best])} | {row} |")


def main():
    """Cuts, where asked to, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--output", type=Path, help="where the fields that are cut anew go")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    blind(args.source)
    if args.output is not None:
        blind(cut(args.source, args.output, args.seed))


if __name__ == "__main__":
    main()
