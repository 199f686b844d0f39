"""Twenty DICOM studies predicted: as `--table` does them, one stage after the other, and as `-i`.

    python -m benchmarks.studies --source DIR --model sarcoma

DIR has DICOM studies, which are copied under other UIDs. Both write NIfTI, SEG, RTSTRUCT, lesions
and the page; `-i` also SR and the patients' table. The masks are compared.
"""

import argparse
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


def timed(*arguments):
    """Seconds of a program."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "isanet_jax", "predict", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main():
    """Prints both times, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True)
    parser.add_argument("--model", default="sarcoma")
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    folder, found = Path(tempfile.mkdtemp()), {"table": [], "input": []}
    rows = copies(args.source, folder / "dicom", args.studies)
    write_csv(folder / "cases.csv", rows)
    model = ["--model", args.model]
    for _ in range(args.runs):
        for name in ("table", "input"):
            shutil.rmtree(folder / name, ignore_errors=True)
        out = folder / "table"
        found["table"].append(timed(
            *model, "--table", folder / "cases.csv", "-o", out, "--format",
            "nifti,dicom-seg,rtstruct", "--lesions", out / "l.csv", "--report", out / "r.html",
        ))  # fmt: skip
        found["input"].append(timed(*model, "-i", folder / "dicom", "-o", folder / "input"))
    same = all(
        np.array_equal(*(np.asarray(nibabel.load(folder / n / f"{row['case']}.nii.gz").dataobj)
                         for n in found))
        for row in rows
    )  # fmt: skip
    best = {name: min(times) for name, times in found.items()}
    print(f"{args.studies} studies, seconds: {found}; masks the same: {same}")
    print(f"--table {best['table']:.1f} s, -i {best['input']:.1f} s: "
          f"{best['table'] / best['input']:.2f} times as fast")  # fmt: skip
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
