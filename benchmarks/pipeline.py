"""Cases per second of reading, augmentation and normalisation: python -m benchmarks.pipeline.

isanet_jax: prepared cases from disk through grain, the rest compiled (rotation, mirroring, mixup,
normalisation with the paper's probabilities). MONAI: its transforms of the same operations, with
the same probabilities, in a DataLoader with a worker per core; its cases lie in memory already.
Every round is a process of its own; isanet_jax's is set up as its programs are.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile

from benchmarks.patches import items_per_second
from isanet_jax import machine

if "isanet_jax" in sys.argv:  # this round's: before JAX is imported
    machine.keep_memory()

import jax
import numpy as np
import torch
from monai import transforms

from isanet_jax.cases.cohort import read_cohort
from isanet_jax.cases.prepare_cohort import prepare_phantoms
from isanet_jax.datasets.layout import PET_CT
from isanet_jax.pipeline.augment import augment
from isanet_jax.pipeline.dataset import training_data
from isanet_jax.pipeline.inputs import Inputs
from isanet_jax.pipeline.normalise import normalise
from isanet_jax.settings.table import Augment

KEYS = ["ct", "pet", "label"]


class MonaiCases(torch.utils.data.Dataset):
    """Cases in memory -> augmented cases, endless."""

    def __init__(self, cases, settings):
        self.cases, self.settings = cases, settings
        self.generator = np.random.default_rng(0)
        angle = np.deg2rad(settings.rotation_degrees)
        mirror = settings.mirror_probability / 2  # of each axis
        self.transform = transforms.Compose(
            [
                transforms.RandRotated(
                    KEYS, range_x=angle, range_y=angle, range_z=angle,
                    prob=settings.rotation_probability,
                    mode=["bilinear", "bilinear", "nearest"], padding_mode="zeros",
                ),
                *[transforms.RandFlipd(KEYS, prob=mirror, spatial_axis=a) for a in range(3)],
                transforms.ScaleIntensityRanged("ct", -1024, 1024, -1, 1, clip=True),
                transforms.NormalizeIntensityd("pet"),
            ]
        )  # fmt: skip

    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        case = self.cases[index % len(self.cases)]
        if self.generator.random() < self.settings.mixup_probability:
            partner = self.cases[self.generator.integers(len(self.cases))]
            case = {key: 0.5 * case[key] + 0.5 * partner[key] for key in KEYS}
        return self.transform(dict(case))


@jax.jit
def prepare(batch):
    """The part of a train step that is the pipeline's."""
    images, labels, _ = augment(batch, batch["images"]["ct"].shape[1:])
    return normalise(images, dict(PET_CT), of_volume=True), labels


def ours(cohort, settings):
    """Endless prepared batches."""
    shape = (cohort.settings.size,) * 3
    inputs = Inputs(dict(PET_CT), ("tumour",), shape, shape)
    data = training_data(cohort, list(cohort.cases), inputs, batch=1, seed=0, augment=settings)
    with contextlib.closing(iter(data)) as batches:
        for batch in batches:
            yield jax.block_until_ready(prepare(batch))


def monai(cohort, settings):
    """Endless prepared batches."""
    cases = []
    for case in cohort.cases:
        stored = cohort.stored(case).read()
        arrays = {**stored.images, "label": stored.label}
        cases.append({k: torch.tensor(np.float32(arrays[k]))[None] for k in KEYS})
    yield from torch.utils.data.DataLoader(
        MonaiCases(cases, settings), batch_size=1, num_workers=os.cpu_count()
    )


PIPELINES = {"isanet_jax": ours, "MONAI": monai}


def rate(name, folder, count):
    """Cases per second of one pipeline over the cases of a folder."""
    batches = PIPELINES[name](read_cohort(folder), Augment())
    return items_per_second(batches, count)


def main():
    """Prints a Markdown table; the two alternate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=144)
    parser.add_argument("--cases", type=int, default=40, help="in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(rate(*args.worker, args.cases))
        return
    rates = {name: [] for name in PIPELINES}
    with tempfile.TemporaryDirectory() as folder:
        prepare_phantoms(folder, cases=6, size=args.size, seed=0)
        for _ in range(args.rounds):
            for name, measured in rates.items():
                command = [sys.executable, "-m", "benchmarks.pipeline", "--worker", name, folder]
                command += ["--cases", str(args.cases)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                measured.append(float(done.stdout.split()[-1]))
    base = np.median(rates["MONAI"])
    print(f"| input pipeline, {args.size}^3 | cases/s | times MONAI |")
    print("|---|---|---|")
    for name, measured in rates.items():
        print(f"| {name} | {np.median(measured):.2f} | {np.median(measured) / base:.1f} |")


if __name__ == "__main__":
    main()
