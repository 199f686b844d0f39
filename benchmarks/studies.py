"""Twenty DICOM studies predicted: as `--table` does them, one stage after the other, and as `-i`.

    python -m benchmarks.studies --source DIR --model sarcoma [--before CHECKOUT]

DIR has DICOM studies, which are copied under other UIDs. All write NIfTI, SEG, RTSTRUCT, lesions
and the page; `all` also SR. The masks are compared. `--before` runs `--table` by an earlier
checkout (its model is then a file).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.uid import generate_uid

from isanet_jax.files import write_csv
from isanet_jax.prediction.sources import find_scans

FORMATS = "nifti,dicom-seg,rtstruct"
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")


def copies(source, folder, count):
    """`count` studies, by turns those of the source; returns rows of a table."""
    found = find_scans([source], {"ct": "ct", "pet": "pet"}).scans
    rows = []
    for number in range(count):
        scan, uids = found[number % len(found)], {}
        for name, series in scan.study.images.items():
            place = folder / f"{number:02}" / name
            place.mkdir(parents=True)
            for index, file in enumerate(series.files):
                dataset = pydicom.dcmread(file.path)
                for key in _UIDS:
                    own = uids.setdefault(str(dataset.get(key)), generate_uid(None))
                    setattr(dataset, key, own)
                dataset.PatientID = f"P{number:02}"
                dataset.SOPInstanceUID = generate_uid(None)
                dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
                dataset.save_as(place / f"{index}.dcm")
        place = folder / f"{number:02}"
        rows.append({"case": f"P{number:02}", "ct": place / "ct", "pet": place / "pet"})
    return rows


def timed(*arguments, checkout="."):
    """Seconds of a program of a checkout."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "isanet_jax", "predict", *map(str, arguments)]
    where = os.environ | {"PYTHONPATH": str(Path(checkout).resolve())}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=where)
    return time.perf_counter() - started


def main():
    """Prints both times, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True)
    parser.add_argument("--model", default="sarcoma")
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--before", default=".", help="a checkout whose --table is timed")
    args = parser.parse_args()
    folder, found = Path(tempfile.mkdtemp()), {"table": [], "input": [], "all": []}
    rows = copies(args.source, folder / "dicom", args.studies)
    write_csv(folder / "cases.csv", rows)
    model = ["--model", args.model]
    for _ in range(args.runs):
        for name in found:
            shutil.rmtree(folder / name, ignore_errors=True)
        out = folder / "table"
        found["table"].append(timed(
            *model, "--table", folder / "cases.csv", "-o", out, "--format",
            FORMATS, "--lesions", out / "l.csv", "--report", out / "r.html", checkout=args.before,
        ))  # fmt: skip
        many = [*model, "-i", folder / "dicom", "-o"]
        found["input"].append(timed(*many, folder / "input", "--format", FORMATS))
        found["all"].append(timed(*many, folder / "all"))
    masks = [
        [np.asarray(nibabel.load(folder / name / f"{row['case']}.nii.gz").dataobj) for row in rows]
        for name in found
    ]
    same = all(
        np.array_equal(a, b) for other in masks[1:] for a, b in zip(masks[0], other, strict=True)
    )
    best = {name: min(times) for name, times in found.items()}
    print(f"{args.studies} studies, seconds: {found}; masks the same: {same}")
    for name in ("input", "all"):
        print(f"{name}: {best[name]:.1f} s, {best['table'] / best[name]:.2f} times as fast")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
