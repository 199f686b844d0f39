"""Every system as ONNX beside JAX, on a real case: difference, size, and time of a prediction.

    isanet prepare sts --source DIR --output cases/sts48 --size 48
    python -m benchmarks.exported --cases cases/sts48

Weights are drawn, not trained, and moved by noise so that no part of a network is a constant. JAX
is compiled for this machine, as `isanet predict` does it; onnxruntime is what one would run
instead.

    python -m benchmarks.exported --runs runs/*/fold0-seed2 --ct CT.nii.gz --pet PET.nii.gz

compares trained runs, file to file: the mask of `isanet predict`, and that of the exported folder's
isanet_onnx.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_RUNS = 3


def seconds(function) -> float:
    """Median duration of a call, after one that is not counted."""
    function()
    found = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def main():
    """Prints a line for each system."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", help="prepared with --size")
    parser.add_argument("--systems", nargs="+", help="default: all")
    parser.add_argument("--width", type=int, default=0, help="0: each system's own")
    parser.add_argument("--runs", nargs="+", type=Path, help="trained ones, on the scan below")
    parser.add_argument("--ct", help="NIfTI, HU")
    parser.add_argument("--pet", help="NIfTI, SUV")
    args = parser.parse_args()
    if args.runs:
        for line in compare_masks(args.runs, args.ct, args.pet):
            print(line, flush=True)
        return
    if not args.cases:
        parser.error("give --cases, or --runs with --ct and --pet")

    from isanet_jax import runtime

    runtime.setup()
    import jax
    import onnxruntime

    from isanet_jax.cases.case import read_case
    from isanet_jax.cases.cohort import read_cohort
    from isanet_jax.export.model import probability_of
    from isanet_jax.export.onnx_graph import to_onnx
    from isanet_jax.network import systems
    from isanet_jax.pipeline.normalise import normalise
    from isanet_jax.settings import to_dict

    cohort = read_cohort(args.cases)
    name = next(iter(cohort.cases))
    images = read_case(cohort.path(name)).images
    images = {k: x.astype(np.float32)[None] for k, x in images.items()}
    threads = len(os.sched_getaffinity(0))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    print(
        f"{name}, {cohort.settings['size']}, {threads} thread(s), JAX {jax.__version__}, "
        f"onnxruntime {onnxruntime.__version__}\n"
    )
    print(
        "| system | parameters | MiB | operations | largest difference | onnxruntime s | JAX s "
        "| JAX / onnxruntime |\n" + "|---" * 8 + "|"
    )
    for system in args.systems or systems.SYSTEMS:
        config = _config(args, cohort, system)
        model = systems.of_config(config)
        graphdef, params = systems.create(model, jax.random.key(0))
        params = jax.tree.map(_moved, params)
        probability, shapes = probability_of({"config": to_dict(config)}, params)
        exported = to_onnx(probability, shapes, "probability")
        content = exported.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        kinds = config.data.kinds

        @jax.jit
        def predict(params, images, graphdef=graphdef, kinds=kinds):
            image = normalise(images, kinds, of_volume=True)
            return jax.nn.sigmoid(systems.apply(graphdef, params, image).logits)

        found, wanted = session.run(None, images)[0], np.asarray(predict(params, images))
        assert found.shape == (1, *config.data.input_shape, 1)
        times = (
            seconds(lambda s=session: s.run(None, images)),
            seconds(lambda p=params, f=predict: np.asarray(f(p, images))),
        )
        print(
            f"| {system} | {systems.count_parameters(params):,} | {len(content) / 2**20:.1f} | "
            f"{len(exported.graph.node)} | {np.abs(found - wanted).max():.1e} | {times[0]:.2f} | "
            f"{times[1]:.2f} | {times[1] / times[0]:.2f} |",
            flush=True,
        )


def compare_masks(runs, ct, pet):
    """Yields the lines of a table: voxels in the masks, and voxels in which they differ."""
    import nibabel

    program = ("-m", "isanet_jax")
    yield "| run | system | voxels of the mask | of them different |\n" + "|---" * 4 + "|"
    for run in runs:
        system = json.loads((run / "config.json").read_text())["model"]["name"]
        scan = ["--ct", ct, "--pet", pet, "--output"]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            masks = [folder / "jax.nii.gz", folder / "onnx.nii.gz"]
            model = folder / "model"
            for command in (
                [*program, "predict", "--workdir", run, *scan, masks[0]],
                [
                    "-m",
                    "isanet_jax",
                    "export",
                    "--workdir",
                    run,
                    "--output",
                    model,
                    "--format",
                    "onnx",
                ],
                [model / "isanet_onnx.py", *scan, masks[1]],
            ):
                done = subprocess.run(
                    [sys.executable, *map(str, command)],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    sys.exit(f"{command[0]}: {done.stderr[-2000:]}")
            ours, theirs = (np.asarray(nibabel.load(mask).dataobj) for mask in masks)
        yield f"| {run} | {system} | {(ours > 0).sum():,} | {(ours != theirs).sum()} |"


def _moved(x):
    noise = np.random.default_rng(x.size).standard_normal(x.shape)
    return np.asarray(x) + 0.1 * noise.astype(np.float32)


def _config(args, cohort, system):
    """A run's settings."""
    from isanet_jax.api import get_config
    from isanet_jax.training.check import check_config

    config = get_config("sts")
    config.data.cases, config.data.size = str(cohort.folder), cohort.settings["size"]
    config.model.name, config.model.width = system, args.width
    config.model.levels = 0 if system.startswith(("nnunet", "xie")) else 4
    return check_config(config)


if __name__ == "__main__":
    main()
