"""Patches of whole bodies per second, and memory: python -m benchmarks.patches rate|memory.

rate: this package's pipeline beside nnU-Net's way, for the same patch and rotation: a region of
memory-mapped arrays, cut large enough for the rotation, padded, and turned by batchgeneratorsv2's
SpatialTransform in two worker processes of one thread (pip install batchgeneratorsv2 torch).
memory: what the host holds while patches of 20 large cases are read, and of 20 small ones.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks.case_format import make_arrays, rounded

KINDS = {"ct": "ct", "pet": "pet"}
DEGREES, SHARE = 45.0, 0.5  # rotation of a patch: the largest angle, and how many are turned
CLASSES = ("tumour",)


def make_cohort(folder, shape, count):
    """`count` cases of one content, and the same arrays as nnU-Net unpacks them."""
    from isanet_jax.cases.case import FORMAT, SUFFIX, Case, write_case
    from isanet_jax.cases.images import image_statistics
    from isanet_jax.cases.preparation import Settings

    folder.mkdir(parents=True)
    settings = Settings(fit="whole")
    arrays = rounded(make_arrays(shape))
    images = {name: arrays[name] for name in KINDS}
    known = {
        name: {"kind": name, "mean": mean, "sd": sd, "range": [0, 1]}
        for name, (mean, sd) in image_statistics(images, settings).items()
    }
    meta = {
        "format": FORMAT,
        "images": known,
        "settings": settings.to_json(),
        "spacing_mm": [2.0] * 3,
    }
    meta |= {"shape": list(shape), "affine": np.eye(4).tolist()}
    samples = {"tumour": np.argwhere(arrays["label"]).astype(np.int32)}
    first = folder / f"c0{SUFFIX}"
    write_case(first, Case(images, arrays["label"], meta), np.zeros((1, 1, 1), np.uint8), samples)
    for number in range(1, count):
        os.link(first, folder / f"c{number}{SUFFIX}")
    cases = {
        f"c{n}": {"case": f"c{n}", "spacing_mm": [2.0] * 3, "shape": list(shape)}
        for n in range(count)
    }
    (folder / "cohort.json").write_text(json.dumps([settings.to_json(), cases]))
    np.save(folder / "data.npy", np.stack([arrays["ct"] / 1024, arrays["pet"]]).astype(np.float32))
    np.save(folder / "seg.npy", arrays["label"][None].astype(np.int16))


def read_made(folder):
    """The cohort of `make_cohort`."""
    from isanet_jax.cases.cohort import Cohort

    settings, cases = json.loads((Path(folder) / "cohort.json").read_text())
    return Cohort(Path(folder), settings, cases, dict.fromkeys(cases, 0))


def ours(folder, patch):
    """Endless patches, rotated and normalised on the device."""
    import jax

    from isanet_jax.pipeline.augment import augment
    from isanet_jax.pipeline.dataset import training_data
    from isanet_jax.pipeline.draw import read_shape
    from isanet_jax.pipeline.inputs import Inputs
    from isanet_jax.pipeline.normalise import normalise
    from isanet_jax.settings.table import Augment

    cohort = read_made(folder)
    shape = (patch,) * 3
    largest = next(iter(cohort.cases.values()))["shape"]
    settings = Augment(mixup_probability=0.0)
    settings |= {"rotation_probability": SHARE, "rotation_degrees": DEGREES}
    read = read_shape(np.array(shape), settings, [[2.0] * 3], largest)
    inputs = Inputs(KINDS, CLASSES, shape, read, is_patch=True)

    @jax.jit
    def prepare(batch):
        images, labels, _ = augment(batch, shape)
        return normalise(images, KINDS, of_volume=False), labels

    data = training_data(cohort, list(cohort.cases), inputs, batch=1, seed=0, augment=settings)
    with contextlib.closing(iter(data)) as batches:
        for batch in batches:
            yield jax.block_until_ready(prepare(batch))


def nnunet(folder, patch):
    """Endless patches, nnU-Net's way."""
    import torch
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    angle = np.deg2rad(DEGREES)
    shape = (patch,) * 3
    # As nnU-Net's get_patch_size: a patch turned by the largest angle about each axis.
    turned = np.array(shape, float)
    for axis in range(3):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        a, b = turned[i], turned[j]
        turned[i] = max(a, a * np.cos(angle) + b * np.sin(angle))
        turned[j] = max(b, b * np.cos(angle) + a * np.sin(angle))
    initial = np.minimum(np.ceil(turned), np.sqrt(3) * patch).astype(int)
    transform = SpatialTransform(
        shape, 0, False, p_elastic_deform=0, p_rotation=SHARE, rotation=(-angle, angle), p_scaling=0
    )

    class Patches(torch.utils.data.Dataset):
        def __len__(self):
            return 10**6

        def __getitem__(self, index):
            torch.set_num_threads(1)
            generator = np.random.default_rng(index)
            data = np.load(Path(folder) / "data.npy", mmap_mode="r")
            seg = np.load(Path(folder) / "seg.npy", mmap_mode="r")
            size = np.array(data.shape[1:])
            low = generator.integers(-((initial - patch) // 2), size - patch + 1) - 0
            start, stop = np.maximum(low, 0), np.minimum(low + initial, size)
            box = (slice(None), *map(slice, start, stop))
            pad = [(0, 0), *zip(start - low, low + initial - stop, strict=True)]
            image = np.pad(data[box], pad)
            label = np.pad(seg[box], pad, constant_values=-1)
            found = transform(image=torch.from_numpy(image), segmentation=torch.from_numpy(label))
            return found["image"], found["segmentation"]

    yield from torch.utils.data.DataLoader(Patches(), batch_size=1, num_workers=2)


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


def worker(name, folder, patch, count):
    """Prints patches per second, and the process's peak memory in GiB."""
    rate = items_per_second(PIPELINES[name](folder, patch), count)
    print(rate, peak_gib())


def peak_gib():
    """The most memory that this process has held; getrusage would count its parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20


def run(name, folder, patch, count):
    """`worker` in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.patches", "worker", "--of", name, str(folder)]
    words += ["--patch", str(patch), "--count", str(count)]
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
    parser.add_argument("--of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "worker":
        worker(*args.of, args.patch, args.count)
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        if args.what == "rate":
            make_cohort(root / "body", args.body, 4)
            rates = {name: [] for name in PIPELINES}
            for _ in range(args.rounds):  # alternating
                for name, found in rates.items():
                    found.append(run(name, root / "body", args.patch, args.count)[0])
            medians = {name: statistics.median(found) for name, found in rates.items()}
            print("| pipeline | patches/s | times nnU-Net's |\n|---|---|---|")
            for name, rate in medians.items():
                print(f"| {name} | {rate:.2f} | {rate / medians['nnU-Net']:.2f} |")
            return
        print("| 20 cases of | patches/s | peak GiB |\n|---|---|---|")
        for shape in ([100, 100, 100], args.large):
            folder = root / "x".join(map(str, shape))
            make_cohort(folder, shape, 20)
            rate, peak = run("isanet_jax", folder, args.patch, args.count)
            print(f"| {' x '.join(map(str, shape))} | {rate:.2f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
