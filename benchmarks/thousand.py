"""How everything around the computing grows with the cases: tiny ones, 20 to 5,000 of them.

    python -m benchmarks.thousand --cases 20 1000 5000

Scans of 12^3 voxels are checked, prepared at 8^3, trained on for 80 steps, evaluated, tuned and
bundled on a fold of a fifth, and predicted into a page. For each command: seconds, processor
seconds, peak memory.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from isanet_jax.files import write_csv
from isanet_jax.nifti import write_volume
from isanet_jax.volume import Volume


def scans(folder, count):
    """A table of scans, each of a patient of its own, with one lesion."""
    generator, rows = np.random.default_rng(0), []
    affine = np.diag([-4.0, -4.0, 4.0, 1.0])
    for number in range(count):
        case = f"P{number:05}"
        label = np.zeros((12, 12, 12), np.uint8)
        at = generator.integers(2, 7, 3)
        label[tuple(slice(a, a + 3) for a in at)] = 1
        pet = (1 + 6 * label + generator.random(label.shape)).astype(np.float32)
        ct = generator.integers(-80, 80, label.shape).astype(np.int16)
        row = {"case": case}
        for name, data in (("ct", ct), ("pet", pet), ("label", label)):
            row[name] = folder / case / f"{name}.nii.gz"
            row[name].parent.mkdir(parents=True, exist_ok=True)
            write_volume(row[name], Volume(data, affine))
        rows.append(row)
    write_csv(folder / "cases.csv", rows)
    write_csv(folder / "images.csv", [{n: r[n] for n in ("case", "ct", "pet")} for r in rows])


def run(*arguments):
    """(seconds, processor seconds, peak GiB) of a command."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "isanet_jax", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(map(str, arguments))}:\n{output[-3000:]}")
    seconds = time.perf_counter() - started
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def measured(folder, count):
    """Command -> its figures."""
    scans(folder, count)
    cases, workdir = folder / "cases", folder / "run"
    settings = {
        "data.cases": cases, "data.size": 8, "data.fit": "resize", "model.width": 4,
        "model.levels": 2, "train.steps_per_epoch": 40, "train.epochs": 2, "fold": 0,
        "model.name": "nnunet", "train.validate_every": 2,
    }  # fmt: skip
    train = ["train", "--config", "strong:sts", "--workdir", workdir]
    train += [f"--config.{name}={value}" for name, value in settings.items()]
    model = folder / "m.isanet"
    return {
        "prepare check": run("prepare", "check", "--source", folder / "cases.csv"),
        "prepare": run(
            "prepare", "table", "--source", folder / "cases.csv", "--output", cases,
            "--size", 8, "--fit", "resize",
        ),
        "prepare again": run(
            "prepare", "table", "--source", folder / "cases.csv", "--output", cases,
            "--size", 8, "--fit", "resize",
        ),
        "train": run(*train),
        "train again": run(*train),
        "eval": run("eval", "--workdir", workdir),
        "tune": run("tune", "--workdir", workdir),
        "bundle": run("bundle", "--workdir", workdir, "--output", model),
        "predict": run(
            "predict", "--model", model, "-i", folder / "images.csv", "-o", folder / "out"
        ),
        "predict again": run(
            "predict", "--model", model, "-i", folder / "images.csv", "-o", folder / "out"
        ),
    }  # fmt: skip


def main():
    """Prints a table: a row for each command, three columns for each count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, nargs="+", default=[20, 1000, 5000])
    args = parser.parse_args()
    found = {}
    for count in args.cases:
        folder = Path(tempfile.mkdtemp())
        found[count] = measured(folder, count)
        print(count, found[count], flush=True)
        shutil.rmtree(folder)
    heads = " | ".join(f"{count}: s | CPU s | GiB" for count in args.cases)
    print(f"\n| | {heads} |\n|---{'|---' * 3 * len(args.cases)}|")
    for name in found[args.cases[0]]:
        cells = [f"{s:.1f} | {cpu:.1f} | {gib:.2f}" for s, cpu, gib in
                 (found[count][name] for count in args.cases)]  # fmt: skip
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
