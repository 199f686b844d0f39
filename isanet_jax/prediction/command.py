"""The command line of predict.py."""

import argparse
import sys
from pathlib import Path

import numpy as np

from isanet_jax.errors import ConfigError, DataError
from isanet_jax.scans.sources import Scan, box_from_lps, read_table
from isanet_jax.scans.volume import Volume, check_output, write_volume


def parser() -> argparse.ArgumentParser:
    """The arguments of predict.py."""
    root = argparse.ArgumentParser(
        description="Predicts tumour masks, as NIfTI on each CT's own grid.",
    )
    root.add_argument("--workdir", required=True, help="folder of a trained run")
    root.add_argument("--ct", help="CT in HU, NIfTI")
    root.add_argument("--pet", help="PET in SUV, NIfTI")
    root.add_argument("--table", help="CSV with case, ct, pet: many cases in one go")
    root.add_argument("--output", required=True, help="mask.nii.gz; a folder with --table")
    root.add_argument(
        "--probability", help="also write the probability here; a folder with --table"
    )
    root.add_argument(
        "--box",
        type=float,
        nargs=6,
        metavar=("X1", "X2", "Y1", "Y2", "Z1", "Z2"),
        help="region of interest, LPS mm as in HECKTOR's CSV (a table has columns)",
    )
    existing = root.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace existing files")
    existing.add_argument(
        "--skip-existing",
        action="store_true",
        help="with --table: leave cases alone whose mask is there already",
    )
    return root


def main(arguments=None) -> None:
    """Runs predict.py."""
    args = parser().parse_args(arguments)
    jobs = _jobs(args)
    if not jobs:
        print("every mask is there already")
        return
    for _, mask, probability in jobs:
        for path in filter(None, (mask, probability)):
            check_output(path, overwrite=args.overwrite)

    from isanet_jax.prediction.predictor import Predictor  # imports JAX: after the checks

    predictor = Predictor(args.workdir)
    failures = []
    for number, (scan, mask, probability) in enumerate(jobs, start=1):
        try:
            line = _predict_one(predictor, scan, mask, probability)
            print(f"[{number}/{len(jobs)}] {line}", flush=True)
        except DataError as error:
            failures.append(str(error))
            print(f"error: {error}", file=sys.stderr, flush=True)
    if failures:
        raise DataError(
            f"{len(failures)} of {len(jobs)} cases failed (see above)",
            action="The others are written; go on with --skip-existing" if len(jobs) > 1 else None,
        )


def _jobs(args):
    """(scan, mask's path, probability's path or None) of every case to predict."""
    if args.table:
        if args.ct or args.pet or args.box:
            raise ConfigError("give either --table, or --ct and --pet")
        scans = read_table(args.table, with_label=False)
        names = [f"{scan.case}.nii.gz" for scan in scans]
        jobs = [
            (scan, Path(args.output) / name, args.probability and Path(args.probability) / name)
            for scan, name in zip(scans, names, strict=True)
        ]
        return [job for job in jobs if not (args.skip_existing and job[1].exists())]
    if not (args.ct and args.pet):
        raise ConfigError("give --ct and --pet, or --table")
    box_mm = box_from_lps(args.box) if args.box else None
    scan = Scan("scan", Path(args.ct), Path(args.pet), None, "scan", box_mm=box_mm)
    return [(scan, Path(args.output), args.probability and Path(args.probability))]


def _predict_one(predictor, scan, mask_path, probability_path):
    """Predicts and writes one case; returns the line to show."""
    from isanet_jax.prediction.predictor import THRESHOLD

    probability, warnings = predictor.probability_of_scan(scan)
    mask = (probability.data >= THRESHOLD).astype(np.uint8)
    write_volume(mask_path, Volume(mask, probability.affine, probability.header), overwrite=True)
    if probability_path:
        write_volume(probability_path, probability, overwrite=True)
    volume_ml = mask.sum() * abs(np.linalg.det(probability.affine[:3, :3])) / 1000
    notes = [*warnings, *([] if mask.any() else ["EMPTY: no tumour found"])]
    return f"{mask_path}: {volume_ml:.2f} ml" + "".join(f"; {note}" for note in notes)
