"""How a case is stored: a zip archive in Zarr's format (version 3), in compressed chunks.

The format was chosen by measurement (docs/case-format.md). A part of the arrays is read without the
rest; each chunk has a checksum, and nothing is unpickled. zarr-python opens it, too.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from isanet_jax.arguments import command
from isanet_jax.classes import class_masks, ignored_mask
from isanet_jax.errors import DataError
from isanet_jax.files import replace_when_done
from isanet_jax.volume import MOST_VOXELS, Volume

FORMAT = 3
SUFFIX = ".zarr.zip"
_CHUNK = 48  # voxels along each axis
_LARGEST_META = 2**24  # bytes
_LARGEST_ARRAY_META = 2**16
_MOST_SAMPLES = 10_000  # of a class; see isanet_jax.cases.prepare
_LABEL, _LABEL_REFERENCE, _SAMPLES = "label", "label_reference", "samples"
_DAMAGE = (
    *(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error),
    *(NotImplementedError, RuntimeError, TypeError, AttributeError),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One prepared study, or a part of it.

    Attributes:
        images: name -> (D, H, W), int16 HU of a CT, float32 of others (SUV of a PET).
        label: (D, H, W) bits of the classes, see `isanet_jax.classes`.
        meta: `case`, `patient`, `centre`, `fold`, `spacing_mm` (D, H, W), `affine` of the grid,
            `reference_shape`, `reference_affine` and `reference_header` of the first image as it
            was, `images` (name -> what is known of it), `volume_ml`, `warnings`, `settings`,
            `sources` (SHA-256 of the files), `content` and `digest` (see
            `isanet_jax.cases.identity`: of the first image as it was read, and of all arrays).
    """

    images: Mapping[str, np.ndarray]
    label: np.ndarray
    meta: dict

    @property
    def statistics(self) -> dict[str, tuple[float, float]]:
        """Image -> mean and standard deviation, see `isanet_jax.cases.prepare`."""
        return {name: (of["mean"], of["sd"]) for name, of in self.meta["images"].items()}

    def masks(self, classes) -> dict[str, np.ndarray]:
        """Class -> (D, H, W) bool, for names of the cohort's classes."""
        return class_masks(self.label, self.meta["settings"], classes)

    @property
    def ignored(self) -> np.ndarray | None:
        """(D, H, W) bool: of which voxels nothing is known; None where no value says so."""
        return ignored_mask(self.label, self.meta["settings"])


def write_case(
    path, case: Case, label_reference: np.ndarray, samples: Mapping[str, np.ndarray]
) -> None:
    """Writes a case, whole or not at all.

    Args:
        path: `ID.zarr.zip`.
        case: the case.
        label_reference: (I, J, K) bits, the label on the first image's own grid; kept so that
            predictions can be scored there without the raw scans.
        samples: class -> (n, 3) int32, voxels of it (D, H, W).

    Raises:
        DataError: the file cannot be written.
    """
    import tensorstore

    arrays = {**case.images, _LABEL: case.label, _LABEL_REFERENCE: label_reference}
    arrays |= {f"{_SAMPLES}/{name}": voxels for name, voxels in samples.items()}
    memory = tensorstore.Context()
    for name, data in arrays.items():
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "memory", "path": f"{name}/"},
            "metadata": {
                "shape": list(data.shape),
                "data_type": data.dtype.name,
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": _chunks(data.shape)},
                },
                "codecs": _codecs(data.dtype),
            },
            "store_data_equal_to_fill_value": True,  # a chunk that is missing is damage
        }
        array = tensorstore.open(spec, create=True, context=memory).result()
        array.write(np.ascontiguousarray(data)).result()
    groups = {"zarr.json": case.meta, f"{_SAMPLES}/zarr.json": {}}
    store = tensorstore.KvStore.open({"driver": "memory"}, context=memory).result()
    with (
        replace_when_done(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
    ):
        # Without the time: the same case is the same file, byte for byte.
        for name, attributes in groups.items():
            group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
            archive.writestr(zipfile.ZipInfo(name), json.dumps(group))
        for key in store.list().result():
            archive.writestr(zipfile.ZipInfo(key.decode()), store.read(key).result().value)


def _chunks(shape):
    return [min(_CHUNK, n) for n in shape] if len(shape) == 3 else [max(n, 1) for n in shape]


def _codecs(dtype):
    blosc = {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": dtype.itemsize}
    return [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "blosc", "configuration": blosc},
        {"name": "crc32c"},
    ]


@functools.cache
def _context():
    """Chunks are not kept in memory; the archives' lists of members are."""
    import tensorstore

    return tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": 0},
            "cache_pool#lists": {"total_bytes_limit": 2**26},
        }
    )


def _reading(array, into):
    """What is waited for: the data, or that they are in the array that they go into."""
    if into is None:
        return array.read()
    import tensorstore

    of_type = tensorstore.cast(array, into.dtype.name)
    return tensorstore.array(into).write(of_type[tensorstore.d[:].translate_to[0]])


class StoredCase:
    """A case whose arrays stay in its file until they are asked for.

    Attributes:
        meta: see `Case`.
        shape: (D, H, W).

    Args:
        path: `ID.zarr.zip`.
        images: names of the images that are to be read; None: all.
        entry: what the manifest says of it; None: the file is taken at its word.

    Raises:
        DataError: missing, damaged, of another format, another file than the manifest's, or without
            one of the images.
    """

    def __init__(self, path, images=None, entry=None):
        self.path = Path(path)
        with _named(self.path), zipfile.ZipFile(self.path) as archive:
            self._state = _state_of(self.path)
            self.meta = _meta_of(archive, self.path)
            if entry is not None:
                _check_entry(self.path, archive, self.meta, entry)
            # Before anything is read by them: what says how large arrays and their chunks are.
            self.shape = _shape_of(self.meta, "shape")
            _check_arrays(archive, self.meta)
        names = tuple(self.meta["images"]) if images is None else tuple(images)
        if lacking := [name for name in names if name not in self.meta["images"]]:
            raise DataError(
                f"has no image {', '.join(lacking)}",
                case=case_of(self.path),
                file=path,
                wanted=f"the images {', '.join(names)}",
                action=f"Prepare the cases again with --images {','.join(names)}",
            )
        with _named(self.path):
            self._images = {name: self._open(name) for name in names}
            self._label = self._open(_LABEL)

    def _open(self, name):
        import tensorstore

        spec = {
            "driver": "zarr3",
            "kvstore": {
                "driver": "zip",
                "base": {"driver": "file", "path": str(self.path.absolute())},
                "path": f"{name}/",
                "cache_pool": "cache_pool#lists",
            },
            "fill_missing_data_reads": False,
        }
        return tensorstore.open(spec, open=True, read=True, context=_context()).result()

    def read(self, start=(0, 0, 0), stop=None, into=None) -> Case:
        """The case, or its voxels from `start` to before `stop`, both within it.

        Args:
            start, stop: (3,) each.
            into: image -> array of that part's shape, which it is read into without another copy.

        Raises:
            DataError: the file is gone or damaged.
        """
        stop = self.shape if stop is None else stop
        box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        with _named(self.path):
            # All are asked for before the first is waited for.
            given = {} if into is None else into
            reads = {n: _reading(array[box], given.get(n)) for n, array in self._images.items()}
            label = self._label[box].read()
            found = {name: read.result() for name, read in reads.items()}
            images = {name: given.get(name, data) for name, data in found.items()}
            case = Case(images, label.result(), self.meta)
            self._check_state()
            return case

    def _check_state(self):
        """Raises ValueError where the file is another one than was opened."""
        if _state_of(self.path) != self._state:
            raise ValueError("it was replaced")

    def samples(self, name: str) -> np.ndarray:
        """(n, 3) voxels of a class, drawn when the case was made. Raises DataError."""
        with _named(self.path):
            found = self._open(f"{_SAMPLES}/{name}").read().result()
            self._check_state()
            return found

    def label_on_reference(self) -> Volume:
        """The label on the first image's own grid: bits (I, J, K) with its geometry."""
        meta = self.meta
        with _named(self.path):
            label = self._open(_LABEL_REFERENCE).read().result()
            self._check_state()
        header = bytes.fromhex(meta["reference_header"]) if meta["reference_header"] else None
        return Volume(label, np.array(meta["reference_affine"]), header)


def _check_entry(path, archive, meta, entry):
    """Raises DataError where a file is not the one that the manifest was written of."""
    case = entry["case"]
    # A case of before there were digests has none in its file, and the manifest may.
    differing = [n for n in _COMPARED if n in entry and n in meta and entry[n] != meta[n]]
    is_other = "directory" in entry and entry["directory"] != _directory_of(archive)
    if differing or is_other:
        what = f" ({', '.join(differing)})" if differing else ""
        raise DataError(
            f"is not the file that manifest.json describes{what}: it was swapped or changed since",
            case=case,
            file=path,
            action=f"Run the same {command('prepare')} again: it makes this case anew and keeps "
            "the others",
        )


_COMPARED = ("case", "patient", "shape", "reference_shape", "sources", "content", "digest")


def directory_digest(path) -> str:
    """SHA-256 of names, sizes and checksums of a case's parts, as the file lists them at its end.

    So another file is noticed without reading it.
    """
    with zipfile.ZipFile(path) as archive:
        return _directory_of(archive)


def _directory_of(archive):
    parts = [(i.filename, i.file_size, i.CRC, i.compress_type) for i in archive.infolist()]
    return hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()


def _shape_of(meta, name):
    """A shape that a case may have. Raises ValueError."""
    shape = meta[name]
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"its {name} is {str(shape)[:60]}")
    if math.prod(shape) > MOST_VOXELS:
        raise ValueError(f"its {name} is {shape}, of more than {MOST_VOXELS} voxels")
    return tuple(shape)


def _check_arrays(archive, meta):
    """Raises ValueError where an array is not stored as `write_case` stores it."""
    members = {info.filename: info for info in archive.infolist()}
    shape = _shape_of(meta, "shape")
    shapes = dict.fromkeys((*meta["images"], _LABEL), shape)
    shapes[_LABEL_REFERENCE] = _shape_of(meta, "reference_shape")
    samples = [n for n in members if n.startswith(f"{_SAMPLES}/") and n.endswith("/zarr.json")]
    samples.remove(f"{_SAMPLES}/zarr.json")  # the group's own
    shapes |= {name.removesuffix("/zarr.json"): None for name in samples}
    for name, expected in shapes.items():
        info = members[f"{name}/zarr.json"]
        if info.file_size > _LARGEST_ARRAY_META or info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{info.filename} is compressed or large, as in no case")
        stored = json.loads(archive.read(info))
        dtype, found = np.dtype(str(stored["data_type"])), stored["shape"]
        if expected is None:  # voxels to centre patches on
            is_right = len(found) == 2 and found[1] == 3 and 0 <= found[0] <= _MOST_SAMPLES
        else:
            is_right = tuple(found) == expected
        if not is_right or dtype.kind not in "iuf" or dtype.hasobject:
            raise ValueError(f"{name} has the shape {str(found)[:60]} and type {dtype}")
        grid = {"name": "regular", "configuration": {"chunk_shape": _chunks(found)}}
        codecs = [codec["name"] for codec in stored["codecs"]]
        if stored["chunk_grid"] != grid or codecs != [codec["name"] for codec in _codecs(dtype)]:
            raise ValueError(f"{name} has other chunks or codecs than cases have")
        counts = [-(-n // c) for n, c in zip(found, _chunks(found), strict=True)]
        for place in itertools.product(*map(range, counts)):
            if (chunk := "/".join([name, "c", *map(str, place)])) not in members:
                raise ValueError(f"{chunk} is missing")


def _state_of(path):
    """By what a file is known to be the one that was opened: a new one has another."""
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_case(path, images=None, entry=None) -> Case:
    """Reads a case whole. Raises like `StoredCase`."""
    return StoredCase(path, images, entry).read()


def read_label_on_reference(path, entry=None) -> Volume:
    """See `StoredCase.label_on_reference`. Raises like `StoredCase`."""
    return StoredCase(path, (), entry).label_on_reference()


def read_meta(path) -> dict:
    """Reads a case's `meta` alone. Raises like `StoredCase`."""
    with _named(Path(path)), zipfile.ZipFile(path) as archive:
        return _meta_of(archive, path)


def _meta_of(archive, path):
    info = archive.getinfo("zarr.json")
    if info.file_size > _LARGEST_META or info.compress_type != zipfile.ZIP_STORED:
        raise ValueError("zarr.json is compressed or large, as in no case")
    meta = json.loads(archive.read(info))["attributes"]
    version = meta.get("format")
    if version != FORMAT:
        raise DataError(
            f"format {version}",
            file=path,
            wanted=f"format {FORMAT}",
            action=PREPARE_AGAIN,
        )
    return meta


PREPARE_AGAIN = (
    "Cases of another version are not read: run the prepare command that made them again, into "
    "another --output"
)


def case_of(path) -> str:
    """The ID of a case's file."""
    return Path(path).name.removesuffix(SUFFIX)


@contextlib.contextmanager
def _named(path):
    """Raises DataError for whatever a damaged file makes the libraries raise."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(
            "no such file",
            file=path,
            wanted="a prepared case",
            action=f"Run {command('prepare')} again",
        ) from error
    except DataError:
        raise
    except _DAMAGE as error:
        text = " ".join(str(error).split())[:200]
        raise DataError(
            f"the prepared case is damaged, or has changed since the program began ({text})",
            case=case_of(path),
            file=path,
            action=f"Delete the file and run the same {command('prepare')} again: it makes this "
            "case anew and keeps the others",
        ) from error
