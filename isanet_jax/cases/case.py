"""How a case is stored: a zip archive in Zarr's format (version 3), in compressed chunks.

The format was chosen by measurement (docs/case-format.md). A part of the arrays is read without the
rest; each chunk has a checksum, and nothing is unpickled. zarr-python opens it, too.
"""

import contextlib
import dataclasses
import functools
import json
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
_LABEL, _LABEL_REFERENCE, _SAMPLES = "label", "label_reference", "samples"
_DAMAGE = (
    *(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error),
    *(NotImplementedError, RuntimeError, TypeError),
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
            `sources` (SHA-256 of the files).
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
        for name, attributes in groups.items():
            group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
            archive.writestr(name, json.dumps(group))
        for key in store.list().result():
            archive.writestr(key.decode(), store.read(key).result().value)


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


class StoredCase:
    """A case whose arrays stay in its file until they are asked for.

    Attributes:
        meta: see `Case`.
        shape: (D, H, W).

    Args:
        path: `ID.zarr.zip`.
        images: names of the images that are to be read; None: all.

    Raises:
        DataError: missing, damaged, of another format, or without one of the images.
    """

    def __init__(self, path, images=None):
        self.path = Path(path)
        self.meta = read_meta(path)
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
            shapes = {array.shape for array in (*self._images.values(), self._label)}
            if len(shapes) != 1 or len(self._label.shape) != 3:
                raise ValueError(f"arrays of the shapes {sorted(shapes)}")
            self.shape = self._label.shape

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
        array = tensorstore.open(spec, open=True, read=True, context=_context()).result()
        if array.size > MOST_VOXELS or array.dtype.numpy_dtype.hasobject:
            raise ValueError(f"{name} of the shape {array.shape} and type {array.dtype.name}")
        return array

    def read(self, start=(0, 0, 0), stop=None) -> Case:
        """The case, or its voxels from `start` to before `stop`, both within it.

        Raises:
            DataError: the file is gone or damaged.
        """
        stop = self.shape if stop is None else stop
        box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        with _named(self.path):
            # All are asked for before the first is waited for.
            reads = {name: array[box].read() for name, array in self._images.items()}
            label = self._label[box].read()
            images = {name: read.result() for name, read in reads.items()}
            return Case(images, label.result(), self.meta)

    def samples(self, name: str) -> np.ndarray:
        """(n, 3) voxels of a class, drawn when the case was made. Raises DataError."""
        with _named(self.path):
            return self._open(f"{_SAMPLES}/{name}").read().result()

    def label_on_reference(self) -> Volume:
        """The label on the first image's own grid: bits (I, J, K) with its geometry."""
        meta = self.meta
        with _named(self.path):
            label = self._open(_LABEL_REFERENCE).read().result()
            if list(label.shape) != meta["reference_shape"]:
                raise ValueError(f"a label of the shape {label.shape}")
        header = bytes.fromhex(meta["reference_header"]) if meta["reference_header"] else None
        return Volume(label, np.array(meta["reference_affine"]), header)


def read_case(path, images=None) -> Case:
    """Reads a case whole. Raises like `StoredCase`."""
    return StoredCase(path, images).read()


def read_label_on_reference(path) -> Volume:
    """See `StoredCase.label_on_reference`. Raises like `StoredCase`."""
    return StoredCase(path, ()).label_on_reference()


def read_meta(path) -> dict:
    """Reads a case's `meta` alone. Raises like `StoredCase`."""
    with _named(Path(path)), zipfile.ZipFile(path) as archive:
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
