"""How fast prepared cases are read in several formats: python -m benchmarks.case_format.

Every format holds the same int16 CT, float32 PET and uint8 label; the files are in the page cache,
as they are from the second epoch on. nii.gz is what a user would keep instead. Two tables: a cube
that is read whole, and a body that patches are read from.
"""

import argparse
import tempfile
import time
from pathlib import Path
from unittest import mock

import nibabel
import numpy as np
from scipy import ndimage

from isanet_jax.cases import case as storing
from isanet_jax.cases.case import Case, StoredCase, write_case


def make_arrays(shape):
    """CT, PET and label of a body in air: noise as of scanners, which decides what compresses."""
    generator = np.random.default_rng(0)
    d, h, w = np.ogrid[tuple(slice(-1, 1, 1j * n) for n in shape)]
    body = (h**2 / 0.5 + w**2 / 0.8 + 0 * d) < 1
    noise = ndimage.gaussian_filter(generator.normal(size=shape).astype(np.float32), 0.7)
    ct = np.where(body, 40 + 60 * noise, -1000 + 20 * noise)
    pet = np.clip(
        np.where(body, 1 + 0.4 * ndimage.gaussian_filter(noise, 1), 0.02 * noise), 0, None
    )
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(n // 2, n // 2 + 12) for n in shape)] = 1
    return {"ct": np.rint(ct).astype(np.int16), "pet": pet.astype(np.float32), "label": label}


def rounded(arrays):
    """With the PET as `--fit whole` keeps it: 11 significant bits."""
    from isanet_jax.cases.prepare import _rounded

    return arrays | {"pet": _rounded(arrays["pet"])}


def write_zarr(path, arrays, chunk, codec):
    """A case in the format that is used, with another edge of chunks and another codec."""
    images = {name: arrays[name] for name in ("ct", "pet")}
    meta = {"format": storing.FORMAT, "images": {name: {} for name in images}}
    made = storing._codecs
    with (
        mock.patch.object(storing, "_CHUNK", chunk),
        mock.patch.object(storing, "_codecs", lambda dtype: codec(made(dtype))),
    ):
        write_case(path, Case(images, arrays["label"], meta), np.zeros((1, 1, 1), np.uint8), {})


def with_codec(name):
    """Codecs of the format used, the compressor another; none for `raw`."""

    def codec(codecs):
        if name == "raw":
            return [c for c in codecs if c["name"] != "blosc"]
        codecs[1]["configuration"] |= {"cname": name, "clevel": 3 if name == "zstd" else 5}
        return codecs

    return codec


def read_nifti(folder, box=None):
    """The three images, or a part of them."""
    for name in ("ct", "pet", "label"):
        data = nibabel.load(folder / f"{name}.nii.gz").dataobj
        np.asarray(data[box] if box else data).copy()


def zarr_formats(chunks):
    """Name -> (chunk, codec)."""
    return {
        f"zarr {codec}, {chunk}^3" + (" (used)" if (codec, chunk) == ("lz4", 48) else ""): (
            chunk,
            with_codec(codec),
        )
        for codec in ("raw", "lz4", "zstd")
        for chunk in chunks
    }


def measure(readers, rounds):
    """Name -> median ms; rounds alternate between the readers."""
    seconds = {name: [] for name in readers}
    for _ in range(rounds):
        for name, read in readers.items():
            started = time.perf_counter()
            read()
            seconds[name].append(time.perf_counter() - started)
    return {name: 1000 * float(np.median(values)) for name, values in seconds.items()}


def table(root, arrays, chunks, rounds, box=None, *, with_npz=False):
    """Prints a table of a volume that is read whole, or of a box of it."""
    readers, sizes = {}, {}
    folder = root / "nifti"
    folder.mkdir(parents=True)
    for name, data in arrays.items():
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), folder / f"{name}.nii.gz")
    readers["nii.gz x 3"] = lambda: read_nifti(folder, box)
    sizes["nii.gz x 3"] = sum(p.stat().st_size for p in folder.iterdir())
    if with_npz:
        path = root / "a.npz"
        np.savez(path, **arrays)
        readers["npz, stored (before)"] = lambda: dict(np.load(path))
        sizes["npz, stored (before)"] = path.stat().st_size
    for name, (chunk, codec) in zarr_formats(chunks).items():
        path = root / f"{len(readers)}{storing.SUFFIX}"
        write_zarr(path, arrays, chunk, codec)
        stored = StoredCase(path)
        start = [s.start for s in box] if box else (0, 0, 0)
        stop = [s.stop for s in box] if box else None
        readers[name] = lambda stored=stored, a=start, b=stop: stored.read(a, b)
        sizes[name] = path.stat().st_size
    took = measure(readers, rounds)
    print("| format | ms | times faster than nii.gz | MB |\n|---|---|---|---|")
    for name, ms in took.items():
        ratio = took["nii.gz x 3"] / ms
        print(f"| {name} | {ms:.1f} | {ratio:.1f} | {sizes[name] / 1e6:.1f} |", flush=True)


def main():
    """Prints two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=144)
    parser.add_argument("--body", type=int, nargs=3, default=[450, 180, 250])
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        print(f"{args.size}^3, whole:\n")
        arrays = make_arrays((args.size,) * 3)
        chunks = sorted({min(n, args.size) for n in (32, 48, 64, 144)})
        table(Path(temporary) / "cube", arrays, chunks, args.rounds, with_npz=True)
        shape, patch = args.body, args.patch
        print(f"\n{' x '.join(map(str, shape))}, {patch}^3 of it:\n")
        start = [(n - patch) // 2 + 5 for n in shape]
        box = tuple(slice(a, a + patch) for a in start)
        chunks = sorted({min(n, patch) for n in (32, 48, 64)})
        table(Path(temporary) / "body", rounded(make_arrays(shape)), chunks, args.rounds, box)


if __name__ == "__main__":
    main()
