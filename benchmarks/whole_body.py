"""Memory and time of predicting a whole body: python -m benchmarks.whole_body.

A scan of that many voxels (feet-head, front-back, right-left) goes through predict.py, file to
file, with a network whose windows are 128^3; its weights are of one step, which costs the same.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.bodies import make_arrays
from benchmarks.patches import peak_gib

SPACING_MM = 2.0


def make(root, shape, window, width):
    """A scan of the shape, two small ones, and a run on these."""
    import isanet_jax as isa
    from isanet_jax.nifti import write_volume
    from isanet_jax.volume import Volume

    affine = np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM, 1.0])
    rows = ["case,ct,pet,label"]
    for name, size in (("scan", shape), ("a", (160, 140, 140)), ("b", (160, 140, 140))):
        arrays = make_arrays(size)
        for image in ("ct", "pet", "label"):
            data = arrays[image].transpose(2, 1, 0)
            (root / name).mkdir(exist_ok=True)
            write_volume(root / name / f"{image}.nii.gz", Volume(data, affine))
        if name != "scan":
            rows.append(",".join([name, *(f"{name}/{i}.nii.gz" for i in ("ct", "pet", "label"))]))
    (root / "cases.csv").write_text("\n".join(rows) + "\n")
    grid = {"fit": "whole", "spacing_mm": SPACING_MM, "folds": 2}
    isa.prepare(root / "cases.csv", root / "cases", **grid)
    config = isa.get_config("hecktor")
    config.data.cases = str(root / "cases")
    config.data.fit, config.data.spacing_mm, config.data.patch = "whole", SPACING_MM, window
    config.model.name, config.model.width = "unet", width
    config.train.epochs = config.train.steps_per_epoch = 1
    isa.train(config, root / "run")


def predict(root):
    """Runs predict.py in this process; prints its seconds and its peak memory in GiB."""
    from isanet_jax.cli import predict as command

    words = ["--workdir", root / "run", "--ct", root / "scan/ct.nii.gz"]
    words += ["--pet", root / "scan/pet.nii.gz", "--output", root / "mask.nii.gz"]
    started = time.perf_counter()
    command.main([str(word) for word in words])
    print(time.perf_counter() - started, peak_gib())


def main():
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=[600, 400, 400])
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--of", choices=("make", "predict"), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.of == "make":
        make(args.root, tuple(args.shape), args.window, args.width)
        return
    if args.of == "predict":
        predict(args.root)
        return
    with tempfile.TemporaryDirectory() as root:
        words = [sys.executable, "-m", "benchmarks.whole_body", "--root", root]
        words += ["--shape", *map(str, args.shape), "--window", str(args.window)]
        words += ["--width", str(args.width)]
        subprocess.run([*words, "--of", "make"], check=True, stdout=sys.stderr)
        out = subprocess.run([*words, "--of", "predict"], check=True, stdout=subprocess.PIPE)
        seconds, peak = map(float, out.stdout.split()[-2:])
    print("| scan | windows | width | seconds | peak GiB |\n|---|---|---|---|---|")
    shape = " x ".join(map(str, args.shape))
    print(f"| {shape} | {args.window}^3 | {args.width} | {seconds:.0f} | {peak:.2f} |")


if __name__ == "__main__":
    main()
