"""The command line of predict.py."""

import argparse
import resource
import sys
import time
from collections import Counter
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
    root.add_argument(
        "--workdir",
        required=True,
        nargs="+",
        help="folder of a trained run; of several, the mean of their probabilities counts",
    )
    root.add_argument("--ct", help="CT in HU, NIfTI")
    root.add_argument("--pet", help="PET in SUV, NIfTI")
    root.add_argument("--table", help="CSV with case, ct, pet: many cases in one go")
    root.add_argument("--output", required=True, help="mask.nii.gz; a folder with --table")
    root.add_argument(
        "--probability", help="also write the probability here; a folder with --table"
    )
    root.add_argument(
        "--uncertainty",
        help="also write the entropy of the probability (bits, 0 to 1); a folder with --table",
    )
    root.add_argument(
        "--box",
        type=float,
        nargs=6,
        metavar=("X1", "X2", "Y1", "Y2", "Z1", "Z2"),
        help="region of interest, LPS mm as in HECKTOR's CSV (a table has columns)",
    )
    root.add_argument(
        "--half",
        action="store_true",
        help="compute in bfloat16: half the memory; probabilities differ by about a hundredth",
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
    written = Counter(path for _, paths in jobs for path in paths.values())
    for path, count in written.items():
        if count > 1:
            raise ConfigError(f"two outputs would be written to {path}; give each its own place")
        check_output(path, overwrite=args.overwrite)

    from isanet_jax.prediction.predictor import Predictor  # imports JAX: after the checks

    predictor = Predictor(args.workdir, half=args.half)
    failures, started = [], time.perf_counter()
    for number, (scan, paths) in enumerate(jobs, start=1):
        try:
            line = _predict_one(predictor, scan, paths)
            print(f"[{number}/{len(jobs)}] {line}", flush=True)
        except DataError as error:
            failures.append(str(error))
            print(f"error: {error}", file=sys.stderr, flush=True)
    if len(jobs) > 1:
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{len(jobs)} cases in {seconds:.1f} s, compilation included "
            f"({len(jobs) / seconds:.2f} cases/s); peak memory of the host {peak:.2f} GiB"
        )
    if failures:
        raise DataError(
            f"{len(failures)} of {len(jobs)} cases failed (see above)",
            action="The others are written; go on with --skip-existing" if len(jobs) > 1 else None,
        )


def _jobs(args):
    """(scan, {"mask": its path, and "probability" and "uncertainty" where asked for}) per case."""
    places = {"mask": args.output}
    places |= {k: v for k in ("probability", "uncertainty") if (v := getattr(args, k))}
    if args.table:
        if args.ct or args.pet or args.box:
            raise ConfigError("give either --table, or --ct and --pet")
        jobs = [
            (scan, {kind: Path(place) / f"{scan.case}.nii.gz" for kind, place in places.items()})
            for scan in read_table(args.table, with_label=False)
        ]
        return [job for job in jobs if not (args.skip_existing and job[1]["mask"].exists())]
    if not (args.ct and args.pet):
        raise ConfigError("give --ct and --pet, or --table")
    box_mm = box_from_lps(args.box) if args.box else None
    scan = Scan("scan", Path(args.ct), Path(args.pet), None, "scan", box_mm=box_mm)
    return [(scan, {kind: Path(place) for kind, place in places.items()})]


def _predict_one(predictor, scan, paths):
    """Predicts and writes one case; returns the line to show."""
    from isanet_jax.prediction.predictor import THRESHOLD, entropy

    probability, warnings = predictor.probability_of_scan(scan)
    data = {
        "probability": probability.data,
        "uncertainty": entropy(probability.data) if "uncertainty" in paths else None,
        "mask": (probability.data >= THRESHOLD).astype(np.uint8),
    }
    # The mask last: --skip-existing takes it as the sign that a case is finished.
    for kind in ("probability", "uncertainty", "mask"):
        if kind in paths:
            volume = Volume(data[kind], probability.affine, probability.header)
            write_volume(paths[kind], volume, overwrite=True)
    mask = data["mask"]
    volume_ml = mask.sum() * abs(np.linalg.det(probability.affine[:3, :3])) / 1000
    notes = [*warnings, *([] if mask.any() else ["EMPTY: no tumour found"])]
    return f"{paths['mask']}: {volume_ml:.2f} ml" + "".join(f"; {note}" for note in notes)
