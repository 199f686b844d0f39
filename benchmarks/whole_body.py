"""Time and memory of predicting a whole body: python -m benchmarks.whole_body.

nnU-Net's plain network on windows of 128^3 with half overlap, mirror images off: this package's
windows, with and without those in the air, beside nnU-Net's own predictor (pip install nnunetv2)
on the same prepared arrays, and the same scan file to file. The weights are of one step.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.patches import SPACING_MM, peak_gib, save_arrays, write_scans

LEVELS = 6
NAMES = {
    "files": "isanet_jax, file to file",
    "windows": "isanet_jax",
    "all": "isanet_jax, windows in the air, too",
    "nnunet": "nnU-Net's predictor",
}


def make(root, shape, window, width):
    """A scan of the shape, two small ones, and a run on these."""
    import isanet_jax as isa

    write_scans(root, {"scan": shape, "a": (160, 140, 140), "b": (160, 140, 140)})
    grid = {"fit": "whole", "spacing_mm": SPACING_MM, "folds": 2}
    isa.prepare(root / "cases.csv", root / "cases", **grid)
    config = isa.get_config("hecktor")
    config.data.cases = str(root / "cases")
    config.data.fit, config.data.spacing_mm, config.data.patch = "whole", SPACING_MM, window
    config.model.name, config.model.width, config.model.levels = "nnunet", width, LEVELS
    config.model.deep_supervision = config.predict.mirror = False
    config.train.epochs = config.train.steps_per_epoch = 1
    isa.train(config, root / "run")
    save_arrays(read_scan(root), root)


def read_scan(root):
    """The prepared case."""
    from isanet_jax.cases.cohort import read_cohort

    return read_cohort(root / "cases").stored("scan").read()


def files(root, window, width):
    """Seconds of predict.py in this process."""
    from isanet_jax.cli import predict as command

    words = ["--workdir", root / "run", "--ct", root / "scan/ct.nii.gz"]
    words += ["--pet", root / "scan/pet.nii.gz", "--output", root / "mask.nii.gz"]
    started = time.perf_counter()
    command.main([str(word) for word in words])
    return time.perf_counter() - started


def windows(root, window, width, *, of_body=True):
    """Seconds of the windows alone."""
    from isanet_jax.runtime import setup

    setup()
    from isanet_jax.prediction.predictor import Predictor

    predictor, case = Predictor([root / "run"]), read_scan(root)
    predictor.compile()
    if not of_body:
        predictor._body = lambda case: None
    started = time.perf_counter()
    predictor.quick.probabilities([case])
    return time.perf_counter() - started


def nnunet(root, window, width):
    """Seconds of nnU-Net's windows."""
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    normed = {"norm_op": torch.nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
    network = PlainConvUNet(
        2, LEVELS, [width * min(2**level, 10) for level in range(LEVELS)], torch.nn.Conv3d,
        (3,) * LEVELS, (1, *[2] * (LEVELS - 1)), 2, 1, 2, conv_bias=True, **normed,
        nonlin=torch.nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    plans = SimpleNamespace(get_label_manager=lambda _: SimpleNamespace(num_segmentation_heads=1))
    patch = SimpleNamespace(patch_size=[window] * 3)
    predictor.manual_initialization(network, plans, patch, None, {}, "", None)
    image = torch.from_numpy(np.load(root / "data.npy"))
    started = time.perf_counter()
    predictor.predict_sliding_window_return_logits(image)
    return time.perf_counter() - started


WAYS = {
    "files": files,
    "windows": windows,
    "all": lambda *given: windows(*given, of_body=False),
    "nnunet": nnunet,
}


def main():
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=[600, 400, 400])
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--width", type=int, default=8, help="channels of the first level")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument(
        "--python", default=sys.executable, help="for isanet_jax, with another JAX than nnU-Net's"
    )
    parser.add_argument("--of", choices=("make", *WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    given = args.root, args.window, args.width
    if args.of == "make":
        make(args.root, tuple(args.shape), *given[1:])
        return
    if args.of:
        print(WAYS[args.of](*given), peak_gib())
        return
    if "nnunet" in args.ways and importlib.util.find_spec("nnunetv2") is None:
        raise SystemExit("nnunetv2 is not installed: pip install nnunetv2, or give --ways")
    with tempfile.TemporaryDirectory() as root:
        words = ["-m", "benchmarks.whole_body", "--root", root]
        words += ["--shape", *map(str, args.shape), "--window", str(args.window)]
        words += ["--width", str(args.width)]
        subprocess.run([args.python, *words, "--of", "make"], check=True, stdout=sys.stderr)
        found = {}
        for way in args.ways:
            python = sys.executable if way == "nnunet" else args.python
            out = subprocess.run([python, *words, "--of", way], check=True, stdout=subprocess.PIPE)
            found[way] = tuple(map(float, out.stdout.split()[-2:]))
    shape = " x ".join(map(str, args.shape))
    print(f"| {shape}, {args.window}^3, width {args.width} | s | times nnU-Net's | peak GiB |")
    print("|---|---|---|---|")
    for way, (seconds, peak) in found.items():
        ratio = f"{seconds / found['nnunet'][0]:.2f}" if "nnunet" in found else "–"
        print(f"| {NAMES[way]} | {seconds:.1f} | {ratio} | {peak:.2f} |")


if __name__ == "__main__":
    main()
