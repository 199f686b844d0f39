"""Patches of whole bodies per second, and memory: python -m benchmarks.patches rate|memory.

rate: this package's pipeline beside nnU-Net's own (its dataset, loader and two processes), for the
same arrays, patch and rotation (pip install nnunetv2).
memory: what the host holds while patches of 20 large cases are read, and of 20 small ones.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.bodies import make_arrays

KINDS = {"ct": "ct", "pet": "pet"}
DEGREES, SHARE = 45.0, 0.5  # rotation of a patch: the largest angle, and how many are turned
CLASSES = ("tumour",)
SPACING_MM = 2.0


def write_scans(folder, shapes):
    """Made bodies as NIfTI, and `cases.csv` of them: case -> voxels (feet-head, ...)."""
    from isanet_jax.nifti import write_volume
    from isanet_jax.volume import Volume

    affine = np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM, 1.0])
    rows = []
    for case, shape in shapes.items():
        arrays = make_arrays(shape)
        (folder / case).mkdir(parents=True)
        for name, data in arrays.items():
            write_volume(folder / case / f"{name}.nii.gz", Volume(data.transpose(2, 1, 0), affine))
        rows.append(",".join([case, *(f"{case}/{name}.nii.gz" for name in arrays)]))
    (folder / "cases.csv").write_text("\n".join([",".join(["case", *arrays]), *rows]) + "\n")


def make_cohort(folder, shape):
    """A prepared body of about that many voxels, and the same arrays as nnU-Net unpacks them."""
    import isanet_jax as isa
    from isanet_jax.cases.cohort import read_cohort

    write_scans(folder, {"body": shape, "small": (64, 64, 64)})  # two, as folds need
    isa.prepare(folder / "cases.csv", folder / "cases", fit="whole", spacing_mm=SPACING_MM, folds=2)
    save_arrays(read_cohort(folder / "cases").stored("body").read(), folder)


def save_arrays(case, folder):
    """A prepared case as nnU-Net has one: data.npy (2, D, H, W) and seg.npy (1, D, H, W)."""
    images = [case.images["ct"] / 1024, case.images["pet"]]
    np.save(folder / "data.npy", np.stack(images).astype(np.float32))
    np.save(folder / "seg.npy", case.label[None].astype(np.int16))


def ours(folder, patch, cases):
    """Endless patches of so many cases, rotated and normalised on the device."""
    from isanet_jax import machine

    machine.keep_memory()  # as its programs do, before JAX is imported
    import jax

    from isanet_jax.cases.cohort import read_cohort
    from isanet_jax.pipeline.augment import augment
    from isanet_jax.pipeline.dataset import training_data
    from isanet_jax.pipeline.draw import read_shape
    from isanet_jax.pipeline.inputs import Inputs
    from isanet_jax.pipeline.normalise import normalise
    from isanet_jax.settings.table import Augment

    cohort = read_cohort(Path(folder) / "cases")
    shape = (patch,) * 3
    largest = cohort.stored("body").shape
    settings = Augment(mixup_probability=0.0, rotation_probability=SHARE, rotation_degrees=DEGREES)
    read = read_shape(np.array(shape), settings, [[SPACING_MM] * 3], largest)
    inputs = Inputs(KINDS, CLASSES, shape, read, is_patch=True)

    @jax.jit
    def prepare(batch):
        images, labels, _ = augment(batch, shape)
        return normalise(images, KINDS, of_volume=False), labels

    # The same case by as many numbers: each is opened and read on its own.
    names = ["body"] * cases
    data = training_data(cohort, names, inputs, batch=1, seed=0, augment=settings)
    with contextlib.closing(iter(data)) as batches:
        for batch in batches:
            yield jax.block_until_ready(prepare(batch))


def nnunet(folder, patch, cases):
    """Endless patches of nnU-Net's own dataset, loader and processes."""
    import torch
    from batchgenerators.dataloading.nondet_multi_threaded_augmenter import (
        NonDetMultiThreadedAugmenter,
    )
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import (
        comp_blosc2_params,
        nnUNetDatasetBlosc2,
    )

    target = Path(folder) / "nnunet"
    if not target.exists():
        target.mkdir()
        data, seg = (np.load(Path(folder) / f"{name}.npy") for name in ("data", "seg"))
        blocks, chunks = comp_blosc2_params(data.shape, (patch,) * 3)
        known = {"class_locations": {1: np.argwhere(seg)}}
        nnUNetDatasetBlosc2.save_case(
            data, seg, known, str(target / "body"), chunks=chunks, blocks=blocks
        )
    angle = np.deg2rad(DEGREES)
    shape, turned = (patch,) * 3, (-angle, angle)
    transform = SpatialTransform(
        shape, 0, False, p_elastic_deform=0, p_rotation=SHARE, rotation=turned, p_scaling=0
    )
    names = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)
    dataset = nnUNetDatasetBlosc2(str(target), ["body"] * cases)
    initial = get_patch_size(shape, turned, turned, turned, (1.0, 1.0))
    loader = nnUNetDataLoader(dataset, 1, initial, shape, names, transforms=transform)
    torch.set_num_threads(1)
    batches = NonDetMultiThreadedAugmenter(loader, None, 2, num_cached=6, wait_time=0.002)
    try:
        while True:
            yield next(batches)
    finally:
        batches._finish()


PIPELINES = {"isanet_jax": ours, "nnU-Net": nnunet}


def items_per_second(items, count):
    """Of an endless pipeline, which is closed, once its functions are compiled and queues full."""
    for _ in range(6):
        next(items)
    started = time.perf_counter()
    for _ in range(count):
        next(items)
    took = time.perf_counter() - started
    items.close()
    return count / took


def worker(name, folder, patch, count, cases):
    """Prints patches per second, and the process's peak memory in GiB."""
    rate = items_per_second(PIPELINES[name](folder, patch, cases), count)
    print(rate, peak_gib())


def peak_gib():
    """The most memory that this process has held; getrusage would count its parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20


def run(name, folder, patch, count, cases):
    """`worker` in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.patches", "worker", "--of", name, str(folder)]
    words += ["--patch", str(patch), "--count", str(count)]
    words += ["--cases", str(cases)]
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return [float(value) for value in out.split()[-2:]]


def main():
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("rate", "memory", "worker"))
    parser.add_argument("--body", type=int, nargs=3, default=[450, 180, 250])
    parser.add_argument("--large", type=int, nargs=3, default=[600, 400, 400])
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--count", type=int, default=40, help="patches in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=4, help=argparse.SUPPRESS)
    parser.add_argument("--of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "worker":
        worker(*args.of, args.patch, args.count, args.cases)
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        if args.what == "rate":
            make_cohort(root / "body", args.body)
            rates = {name: [] for name in PIPELINES}
            for _ in range(args.rounds):  # alternating
                for name, found in rates.items():
                    found.append(run(name, root / "body", args.patch, args.count, 4)[0])
            medians = {name: statistics.median(found) for name, found in rates.items()}
            print("| pipeline | patches/s | times nnU-Net's |\n|---|---|---|")
            for name, rate in medians.items():
                print(f"| {name} | {rate:.2f} | {rate / medians['nnU-Net']:.2f} |")
            return
        print("| 20 cases of | patches/s | peak GiB |\n|---|---|---|")
        for shape in ([100, 100, 100], args.large):
            folder = root / "x".join(map(str, shape))
            make_cohort(folder, shape)
            rate, peak = run("isanet_jax", folder, args.patch, args.count, 20)
            print(f"| {' x '.join(map(str, shape))} | {rate:.2f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
