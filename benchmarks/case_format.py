"""How fast prepared cases load in several formats: python -m benchmarks.case_format [--size 144].

Every format holds the same int16 CT, float32 PET and uint8 label of a phantom; the files are in
the page cache, as they are from the second epoch on. nii.gz is what a user would keep instead.
"""

import argparse
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np

from isanet_jax.cases.grid import resample
from isanet_jax.cases.prepare import Settings, image_channels, read_images, read_label
from isanet_jax.datasets.phantom import FIELD_MM, write_phantoms
from isanet_jax.datasets.table import read_table


def _arrays(size, folder):
    """CT, PET and label of one phantom at size^3."""
    (scan,) = read_table(write_phantoms(folder, cases=1, seed=0))
    settings = Settings(size=size, spacing_mm=FIELD_MM / size)
    ct, pet, affine, _ = image_channels(scan, *read_images(scan), settings)
    label = resample(
        read_label(scan.label, (1,), case=scan.case), ct.shape, affine, order=0, fill=0
    )
    return {"ct": ct, "pet": pet, "label": label.astype(np.uint8)}


def _write_nifti(folder, arrays, suffix):
    for name, data in arrays.items():
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), folder / f"{name}{suffix}")


def _read_nifti(folder, suffix):
    for name in ("ct", "pet", "label"):
        np.asarray(nibabel.load(folder / f"{name}{suffix}").dataobj).copy()  # no memory map


def _read_npz(path):
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            archive[name]


FORMATS = {
    "nii.gz x 3": (
        lambda f, a: _write_nifti(f, a, ".nii.gz"),
        lambda f: _read_nifti(f, ".nii.gz"),
    ),
    "nii x 3": (lambda f, a: _write_nifti(f, a, ".nii"), lambda f: _read_nifti(f, ".nii")),
    "npz, compressed": (
        lambda f, a: np.savez_compressed(f / "c.npz", **a),
        lambda f: _read_npz(f / "c.npz"),
    ),
    "npz, stored (used)": (
        lambda f, a: np.savez(f / "c.npz", **a),
        lambda f: _read_npz(f / "c.npz"),
    ),
    "npy x 3": (
        lambda f, a: [np.save(f / f"{n}.npy", v) for n, v in a.items()],
        lambda f: [np.load(f / f"{n}.npy") for n in ("ct", "pet", "label")],
    ),
}


def main():
    """Prints a Markdown table; rounds alternate between the formats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=144)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        arrays = _arrays(args.size, root / "scans")
        seconds = {name: [] for name in FORMATS}
        for name, (write, _) in FORMATS.items():
            (root / name).mkdir()
            write(root / name, arrays)
        for _ in range(args.rounds):
            for name, (_, read) in FORMATS.items():
                start = time.perf_counter()
                read(root / name)
                seconds[name].append(time.perf_counter() - start)
        base = np.median(seconds["nii.gz x 3"])
        print(f"| format, {args.size}^3 | ms to load | times faster than nii.gz | MB |")
        print("|---|---|---|---|")
        for name, times in seconds.items():
            megabytes = sum(p.stat().st_size for p in (root / name).iterdir()) / 1e6
            took = np.median(times)
            print(f"| {name} | {took * 1e3:.1f} | {base / took:.1f} | {megabytes:.1f} |")


if __name__ == "__main__":
    main()
