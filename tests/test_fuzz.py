"""Damaged headers: every file is read, or refused by an error that names it; quickly, in memory.

2,000 mutated files, NIfTI and DICOM. Python's own limits stand guard: the address space is bounded,
and a file that takes long fails.
"""

import gzip
import resource
import time
import warnings

import numpy as np
import pytest

from isanet_jax.dicom.image import read_image
from isanet_jax.dicom.series import find_series
from isanet_jax.dicom.structures import read_region, region_names
from isanet_jax.errors import DataError
from isanet_jax.nifti import read_volume, write_volume
from isanet_jax.volume import Volume
from tests.dicom.make_dicom import square, study, write_series, write_structures

NIFTI_FILES, DICOM_FILES = 1000, 1000
SECONDS = 5
MORE_MEMORY = 2 * 2**30


@pytest.fixture(autouse=True)
def bounded_memory():
    """No more than 2 GiB on top of what the process has."""
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MORE_MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def mutate(generator, content, header):
    """Content with some bytes of its header changed, or cut short."""
    out = bytearray(content)
    kind = generator.integers(4)
    if kind == 0:
        return bytes(out[: generator.integers(len(out))])
    for _ in range(generator.integers(1, 9)):
        place = generator.integers(min(header, len(out)))
        if kind == 1:
            out[place] ^= 1 << generator.integers(8)
        elif kind == 2:
            out[place] = generator.integers(256)
        else:
            out[place : place + 4] = generator.choice([b"\xff" * 4, b"\0" * 4, b"\x7f" * 4])
    return bytes(out)


def attempt(read, path, refused):
    """Reads; counts a refusal, whose text must name the file."""
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy on overflowing values
            read()
    except DataError as error:
        refused.append(str(error))
    unnamed = [text for text in refused if path.name not in text and path.parent.name not in text]
    assert not unnamed
    assert time.perf_counter() - started < SECONDS


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti(tmp_path, suffix):
    generator = np.random.default_rng(len(suffix))
    data = generator.normal(size=(6, 5, 4)).astype(np.float32)
    write_volume(tmp_path / "a.nii", Volume(data, np.diag([2.0, 2, 3, 1])))
    content = (tmp_path / "a.nii").read_bytes()
    path, refused = tmp_path / f"fuzz{suffix}", []
    for number in range(NIFTI_FILES // 2):
        spoilt = mutate(generator, content, 352)
        if suffix == ".nii.gz":
            spoilt = gzip.compress(spoilt, 1)
            if number % 4 == 0:  # the stream itself
                spoilt = mutate(generator, spoilt, len(spoilt))
        path.write_bytes(spoilt)

        def read():
            volume = read_volume(path)
            assert volume.data.ndim == 3
            assert np.isfinite(volume.data).all()
            assert abs(np.linalg.det(volume.affine[:3, :3])) > 0

        attempt(read, path, refused)
    assert NIFTI_FILES // 10 < len(refused) < NIFTI_FILES // 2  # both ends happen


def test_dicom(tmp_path):
    generator = np.random.default_rng(0)
    shared, folder = study(), tmp_path / "series"
    values = generator.integers(0, 9000, (3, 6, 5))
    slices = write_series(folder, "PT", shared, values)
    write_structures(folder / "rs", shared, slices, {"GTV": [square(1, 7, 3)]})
    paths = sorted(folder.iterdir())
    contents = {path: path.read_bytes() for path in paths}
    refused, left_out = [], 0
    for number in range(DICOM_FILES):
        path = paths[number % len(paths)]
        pixels = 2 * values[0].size if path.name != "rs" else 0
        path.write_bytes(mutate(generator, contents[path], len(contents[path]) - pixels))

        def read():
            nonlocal left_out
            series, left = find_series(folder)
            left_out += sum(left.values())
            for one in series:
                if one.kind in ("CT", "PET"):
                    assert np.isfinite(read_image(one)[0].data).all()
            for one in series:
                if one.kind == "RTSTRUCT":
                    for name in region_names(one.first)[:1]:
                        read_region(one, name, [s for s in series if s.kind == "PET"])

        attempt(read, path, refused)
        path.write_bytes(contents[path])
    assert left_out > 50
    assert len(refused) > 50
