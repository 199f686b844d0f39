"""What networks lose on images of another scanner: python -m benchmarks.shifts.

    python -m benchmarks.shifts --source CUT/cases.csv --cases cases/cut32 \
        --runs strong=runs/f0,...,runs/f4 isa=runs/i0,...,runs/i4

The test patients' own scans are changed before they are prepared: the PET's resolution, voxels,
noise and scale, the CT's kernel, and PET against CT. Each patient is predicted by the run whose
test fold they are in, and scored on the case grid. DSC, and the mean difference from the same
patient unchanged with its 95 % bootstrap interval.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import ndimage

from isanet_jax import datasets
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.cases.images import image_channels, unlabelled_case
from isanet_jax.comparison.statistics import bootstrap_interval
from isanet_jax.metrics.segmentation import case_metrics
from isanet_jax.nifti import read_volume
from isanet_jax.runtime import setup
from isanet_jax.volume import Volume

FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))


def blurred(volume, fwhm_mm):
    """A volume with a Gaussian of that full width at half maximum, mm."""
    sigma = fwhm_mm / FWHM_PER_SIGMA / volume.spacing_mm
    data = ndimage.gaussian_filter(volume.data.astype(np.float32), sigma, mode="nearest")
    return Volume(data, volume.affine)


def sharpened(volume, fwhm_mm, share=1.0):
    """A volume with what the Gaussian would take away added once more."""
    data = volume.data.astype(np.float32)
    return Volume(data + share * (data - blurred(volume, fwhm_mm).data), volume.affine)


def noise_like(volume, generator, fwhm_mm):
    """Noise of unit standard deviation and a scanner's grain."""
    made = Volume(generator.normal(size=volume.data.shape).astype(np.float32), volume.affine)
    found = blurred(made, fwhm_mm).data
    return found / found.std()


def coarse(volume, times):
    """A volume in voxels that are so many times larger, each the mean of what it covers."""
    shape = [max(n // times, 1) for n in volume.data.shape]
    data = volume.data[tuple(slice(n * times) for n in shape)].astype(np.float32)
    data = data.reshape([n for pair in zip(shape, [times] * 3, strict=True) for n in pair])
    affine = volume.affine.copy()
    affine[:3, 3] += volume.affine[:3, :3] @ np.full(3, (times - 1) / 2)
    affine[:3, :3] *= times
    return Volume(data.mean((1, 3, 5)), affine)


def pet_blurred(images, _):
    """Twice as wide: a point of some 6 mm becomes one of 12."""
    return images | {"pet": blurred(images["pet"], 10.4)}


def pet_coarse(images, _):
    """Voxels twice as large on each axis."""
    return images | {"pet": coarse(images["pet"], 2)}


def pet_sharp(images, _):
    """Resolution recovery: what 6 mm would blur is there twice."""
    found = sharpened(images["pet"], 6.0)
    return images | {"pet": Volume(np.maximum(found.data, 0), found.affine)}


def pet_noise(images, generator):
    """Noise of 20 % of the uptake, in grains of 6 mm."""
    pet = images["pet"]
    factor = 1 + 0.2 * noise_like(pet, generator, 6.0)
    return images | {"pet": Volume(pet.data * np.maximum(factor, 0), pet.affine)}


def pet_scale(images, _):
    """SUV too high by a fifth."""
    return images | {"pet": Volume(images["pet"].data * np.float32(1.2), images["pet"].affine)}


def ct_sharp(images, generator):
    """A bone kernel: edges twice, and noise of 40 HU."""
    ct = sharpened(images["ct"], 3.0)
    data = ct.data + 40 * noise_like(ct, generator, 2.0)
    return images | {"ct": Volume(np.clip(data, -1024, 3071), ct.affine)}


def ct_soft(images, _):
    """A smooth kernel: 4 mm more."""
    return images | {"ct": blurred(images["ct"], 4.0)}


def moved(voxels):
    """PET against CT by so many of its voxels, in a direction of its own for each patient."""

    def move(images, generator):
        pet = images["pet"]
        direction = generator.normal(size=3)
        affine = pet.affine.copy()
        affine[:3, 3] += voxels * pet.spacing_mm.mean() * direction / np.linalg.norm(direction)
        return images | {"pet": Volume(pet.data, affine)}

    return move


CHANGES = {
    "none": lambda images, _: images,
    "PET at half the resolution": pet_blurred,
    "PET in voxels twice as large": pet_coarse,
    "PET sharpened": pet_sharp,
    "PET, noise of 20 %": pet_noise,
    "PET, SUV 20 % too high": pet_scale,
    "CT, bone kernel": ct_sharp,
    "CT, smooth kernel": ct_soft,
    "PET one voxel beside CT": moved(1),
    "PET two voxels beside CT": moved(2),
}


def scores_of(runs, scans, cohort):
    """Change -> case -> DSC, of the runs of one cross-validation."""
    from isanet_jax.prediction.predictor import Predictor  # imports JAX

    scores = {change: {} for change in CHANGES}
    for run in runs:
        predictor = Predictor([Path(run)])
        name = predictor.classes[0]
        for case in predictor.descriptions[0]["split"]["test"]:
            scan, stored = scans[case], cohort.stored(case).read()
            reference = stored.masks(predictor.classes)[name]
            spacing = np.linalg.norm(np.array(stored.meta["affine"])[:3, :3], axis=0)
            images = {n: read_volume(p, case=case) for n, p in scan.images.items()}
            for change, apply in CHANGES.items():
                generator = np.random.default_rng([*change.encode(), *case.encode()])
                changed = apply(images, generator)
                channels, _, _ = image_channels(scan, changed, predictor.settings)
                shown = unlabelled_case(channels, predictor.settings)
                mask = predictor.probabilities([shown])[0][..., 0] >= 0.5
                scores[change][case] = case_metrics(mask, reference, spacing)["dsc"]
    return scores


def main():
    """Prints a table: a row for each change, two columns for each system."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="the scans that the cases were made of")
    parser.add_argument("--cases", required=True)
    parser.add_argument("--runs", nargs="+", required=True, help="NAME=RUN,RUN,..., a fold each")
    parser.add_argument("--output", help="JSON of every case")
    args = parser.parse_args()
    setup()
    _, found = datasets.read(Path(args.source))
    scans = {scan.case: scan for scan in found.scans}
    systems = dict(text.split("=", 1) for text in args.runs)
    every = {
        name: scores_of(runs.split(","), scans, read_cohort(args.cases))
        for name, runs in systems.items()
    }
    print(f"| changed | {' | '.join(f'{name} | difference' for name in every)} |")
    print("|---" * (1 + 2 * len(every)) + "|")
    for change in CHANGES:
        cells = []
        for scores in every.values():
            values = np.array([scores[change][case] for case in scores["none"]])
            apart = values - np.array(list(scores["none"].values()))
            low, high = bootstrap_interval(apart)
            shown = f"{apart.mean():+.3f} ({low:+.3f} to {high:+.3f})"
            cells += [f"{values.mean():.3f}", "" if change == "none" else shown]
        print(f"| {change} | {' | '.join(cells)} |")
    if args.output:
        Path(args.output).write_text(json.dumps(every))


if __name__ == "__main__":
    main()
