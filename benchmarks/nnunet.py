"""nnU-Net itself beside our recipes: same patients, folds and processor time, one table.

    isanet prepare sts --source DIR --output cases/sts48 --size 48
    python -m benchmarks.nnunet --source DIR --cases cases/sts48 --workdir runs/nnunet --smoke

--smoke is one fold at 20 CPU minutes; without it five folds at 5, 20 and 60. nnU-Net is installed
into WORKDIR/environment (--python: one that has it). Everything that is done stays: the same
command goes on where it was stopped, fold by fold.

Every training has the same processor time (user and system), or with --gpu the same minutes of a
GPU by the clock, without the preparation of the cases and the prediction: of ours, compiling
counts. nnU-Net trains on all cases but those of the test fold; its learning rate falls over the
time that it has (benchmarks/nnunet_worker.py). It gets the scans with the PET on the CT's grid, and
a target spacing (--spacing-mm, 0: its own choice, which asks for a GPU); its masks come back on the
CT's grid, where all are scored.
"""

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np

VERSION = "2.8.1"
DATASET, NUMBER = "Dataset900_Benchmark", 900
THEIRS = "nnU-Net"  # its name among the methods
ROOT = Path(__file__).resolve().parent.parent
_METRICS = ("dsc", "hd95", "lesion_f1")


def install(workdir: Path) -> Path:
    """Makes an environment with nnU-Net, and returns its Python."""
    folder = workdir / "environment"
    python = folder / "bin" / "python"
    done = folder / f"nnunetv2-{VERSION}"
    if not done.exists():
        print(f"installing nnU-Net {VERSION} into {folder} ...", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"nnunetv2=={VERSION}"], check=True)
        done.touch()
    return python


def export(source: Path, cases: Path, raw: Path, splits: Path) -> None:
    """The prepared cases' scans as nnU-Net's raw dataset, and its nested folds.

    Raises:
        ConfigError: classes that overlap, which a mask of nnU-Net's cannot hold.
    """
    from isanet_jax import datasets
    from isanet_jax.cases.cohort import read_cohort
    from isanet_jax.cases.folds import split
    from isanet_jax.cases.grid import resample, resample_label
    from isanet_jax.cases.images import read_images
    from isanet_jax.cases.label import read_label
    from isanet_jax.cases.preparation import settings_of
    from isanet_jax.classes import class_masks
    from isanet_jax.errors import ConfigError
    from isanet_jax.kinds import KINDS
    from isanet_jax.nifti import write_volume
    from isanet_jax.volume import Volume

    cohort = read_cohort(cases)
    settings = settings_of(cohort.settings)
    _, found = datasets.read(source)
    names = settings.classes.names
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    count = 0
    for scan in found.scans:
        label_path = raw / "labelsTr" / f"{scan.case}.nii.gz"
        if scan.case not in cohort.cases or label_path.exists():
            continue
        images = read_images(scan, settings.images)
        first = next(iter(images.values()))
        for number, (name, image) in enumerate(images.items()):
            placed = image
            if number:
                beyond = KINDS[settings.images[name]].outside
                data = resample(image, first.data.shape, first.affine, order=1, fill=beyond)
                placed = Volume(data, first.affine, first.header)
            path = raw / "imagesTr" / f"{scan.case}_{number:04d}.nii.gz"
            write_volume(path, placed, overwrite=True)
        label = read_label(scan.label, settings.classes, case=scan.case)
        bits = resample_label(label, first.data.shape, first.affine)
        masks = class_masks(bits, cohort.settings, names)
        value = np.zeros(bits.shape, np.uint8)
        for number, mask in enumerate(masks.values(), start=1):
            if (value[mask] > 0).any():
                raise ConfigError(
                    f"{scan.case}: classes overlap; nnU-Net is not given regions here"
                )
            value[mask] = number
        write_volume(label_path, Volume(value, first.affine, first.header), overwrite=True)
        count += 1
        print(f"\rexported {count}", end="", flush=True)
    print()
    kinds = {"ct": "CT"}
    description = {
        "channel_names": {
            str(n): kinds.get(kind, name) for n, (name, kind) in enumerate(settings.images.items())
        },
        "labels": {"background": 0} | {name: n for n, name in enumerate(names, start=1)},
        "numTraining": len(cohort.cases),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    folds = sorted(set(cohort.fold_of.values()))
    parts = [split(cohort.fold_of, fold=fold, selection="nested") for fold in folds]
    # nnU-Net takes its last checkpoint: the cases that ours choose by are its to train on.
    content = [{"train": p.train + p.selection, "val": p.selection, "test": p.test} for p in parts]
    splits.parent.mkdir(parents=True, exist_ok=True)
    splits.write_text(json.dumps(content, indent=1), encoding="utf-8")


def worker(python: Path, workdir: Path, *arguments) -> None:
    """Runs benchmarks/nnunet_worker.py in nnU-Net's environment, its words into a log."""
    kinds = ("raw", "preprocessed", "results")
    folders = {f"nnUNet_{kind}": str(workdir / "nnunet" / kind) for kind in kinds}
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = own | folders | {"nnUNet_compile": "f"}
    log = workdir / "nnunet" / "log.txt"
    command = [str(python), str(ROOT / "benchmarks" / "nnunet_worker.py"), *map(str, arguments)]
    with open(log, "ab") as file:
        ended = subprocess.run(command, env=environment, stdout=file, stderr=file, check=False)
    if ended.returncode:
        sys.exit(f"nnU-Net failed ({' '.join(map(str, arguments))}); see {log}")


def compare(args, minutes: float, masks: Path, workdir: Path) -> None:
    """Trains ours within the same time, and scores all."""
    command = [
        *(sys.executable, "-m", "isanet_jax", "compare"),
        *("--config", args.config.format(minutes=minutes), "--workdir", str(workdir)),
        *("--jobs", str(args.jobs)),
        *_settings_of(args.cases, args.patch),
        f"--config.external=('{THEIRS}={masks}',)",
        f"--config.folds={tuple(args.folds)}",
        f"--config.cpu_minutes={0.0 if args.gpu else minutes}",
        f"--config.gpu_minutes={minutes if args.gpu else 0.0}",
    ]
    if args.order:
        command += [f"--config.order={tuple(args.order)}", f"--config.reference={args.order[-1]}"]
    platform = {} if args.gpu else {"JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(command, check=False, env=os.environ | platform)
    if ended.returncode:
        sys.exit("the comparison failed, see above; run the same command to resume it")


def _settings_of(cases, patch):
    """The flags that make a comparison's runs take the cases as they were prepared."""
    from isanet_jax.cases.cohort import read_cohort

    settings = read_cohort(cases).settings
    data = {"cases": str(cases), "fit": settings["fit"], "patch": patch}
    data |= {"images": tuple(settings["images"]), "classes": tuple(settings["classes"])}
    if settings["fit"] != "whole":
        data["size"] = settings["size"]
    if settings["fit"] != "resize":
        data["spacing_mm"] = settings["spacing_mm"]
    shown = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return [f"--config.base.data.{name}={value}" for name, value in shown.items()]


def summarise(args) -> str:
    """The table of what is done, and the curve: mean over all test cases, at each time."""
    lines = [
        f"| {_clock(args).upper()} minutes | method | cases | DSC, mean | median | HD95 mm "
        "| lesion F1 | infinite | spent |",
        "|---" * 9 + "|",
    ]
    curve = {}
    for minutes in args.minutes:
        folder = args.workdir / _name(args, minutes)
        if not (folder / "cases.csv").exists():
            continue
        with open(folder / "cases.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for method in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if row["method"] == method]
            of = {name: [float(row[name]) for row in own] for name in _METRICS}
            finite = [value for value in of["hd95"] if math.isfinite(value)]
            dsc = statistics.mean(of["dsc"])
            curve.setdefault(method, []).append((minutes, dsc))
            lines.append(
                f"| {minutes:g} | {method} | {len(own)} | {dsc:.4f} | "
                f"{statistics.median(of['dsc']):.4f} | "
                f"{statistics.mean(finite or [math.inf]):.1f} | "
                f"{statistics.mean(of['lesion_f1']):.3f} | {len(own) - len(finite)} | "
                f"{_spent(args, folder, method, minutes)} |"
            )
    _draw(args.workdir / "curve.png", curve, _clock(args).upper())
    text = "\n".join(lines)
    (args.workdir / "table.md").write_text(text + "\n", encoding="utf-8")
    return text


def _spent(args, folder, method, minutes):
    """Minutes of a training, the mean over the folds."""
    where = masks_of(args, minutes) if method == THEIRS else folder / method
    key = f"{_clock(args)}_minutes"
    found = [json.loads(p.read_text())[key] for p in where.glob("*/training.json")]
    return f"{statistics.mean(found):.1f}" if found else "–"


def _draw(path, curve, clock):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    for method, points in curve.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=method)
    times = sorted({minutes for points in curve.values() for minutes, _ in points})
    axes.set(xscale="log", xlabel=f"{clock} minutes of a training")
    axes.set_xticks(times, [f"{minutes:g}" for minutes in times])
    axes.minorticks_off()
    axes.set_ylabel("mean DSC on the CT's grid")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def masks_of(args, minutes: float) -> Path:
    """Where nnU-Net's masks of a time are."""
    return args.workdir / "nnunet" / "masks" / _name(args, minutes)


def _clock(args):
    return "gpu" if args.gpu else "cpu"


def _name(args, minutes):
    """Of a time's folder."""
    return f"{minutes:g}min" + ("-gpu" if args.gpu else "")


def main():
    """Installs, exports, trains and compares what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="the scans, as of prepare.py")
    parser.add_argument("--cases", type=Path, required=True, help="of them, prepared for ours")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--python", type=Path, help="that has nnunetv2 already")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--minutes", type=float, nargs="+", default=[5.0, 20.0, 60.0])
    parser.add_argument(
        "--config",
        default=str(ROOT / "configs" / "compare" / "nnunet.py:sts,{minutes:g}"),
        help="our methods; {minutes} in it is replaced",
    )
    parser.add_argument("--order", nargs="+", help="those of them that are run")
    parser.add_argument("--patch", type=int, default=0, help="of ours, on cases prepared whole")
    parser.add_argument("--jobs", type=int, default=1, help="of ours at a time, sharing the cores")
    parser.add_argument(
        "--spacing-mm", type=float, default=4.0, help="nnU-Net's target; 0: its own"
    )
    parser.add_argument("--planner", default="ExperimentPlanner", help="or nnUNetPlannerResEncM")
    parser.add_argument("--gpu", action="store_true", help="train on it; minutes by the clock")
    parser.add_argument("--smoke", action="store_true", help="fold 0 at 20 minutes")
    args = parser.parse_args()
    if args.smoke:
        args.folds, args.minutes = [0], [20.0]
    args.workdir, args.cases = args.workdir.absolute(), args.cases.absolute()
    nnunet = args.workdir / "nnunet"
    nnunet.mkdir(parents=True, exist_ok=True)
    python = args.python or install(args.workdir)
    prepared = nnunet / f"prepared-{args.planner}-{args.spacing_mm:g}mm"
    if not prepared.exists():
        splits = nnunet / "preprocessed" / DATASET / "splits_final.json"
        export(args.source, args.cases, nnunet / "raw" / DATASET, splits)
        print("nnU-Net plans and prepares ...", flush=True)
        options = ("--spacing-mm", args.spacing_mm, "--planner", args.planner)
        worker(python, args.workdir, "prepare", NUMBER, *options)
        prepared.touch()
    plans = next((nnunet / "preprocessed" / DATASET).glob("nnUNet*Plans.json")).stem
    for minutes in args.minutes:
        for fold in args.folds:
            output = masks_of(args, minutes) / f"fold{fold}"
            if not (output / "training.json").exists():
                print(f"nnU-Net, fold {fold}, {minutes:g} minutes ...", flush=True)
                options = ("--fold", fold, "--minutes", minutes, "--output", output)
                options += ("--device", "cuda" if args.gpu else "cpu")
                worker(python, args.workdir, "train", NUMBER, "--plans", plans, *options)
        compare(args, minutes, masks_of(args, minutes), args.workdir / _name(args, minutes))
    print(f"\n{summarise(args)}\n\nTable and curve: {args.workdir / 'table.md'}, curve.png")


if __name__ == "__main__":
    main()
