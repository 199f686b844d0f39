"""How a case is stored: one uncompressed .npz.

The format was chosen by measurement (docs/case-format.md). Everything in it is plain arrays and
JSON: nothing is unpickled.
"""

import dataclasses
import json
import math
import os
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np

from isanet_jax.errors import DataError
from isanet_jax.files import replace_when_done
from isanet_jax.runtime import command
from isanet_jax.volume import Volume

FORMAT = 1
_PARSING = threading.Lock()
_DAMAGE = (
    *(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error),
    *(NotImplementedError, RuntimeError),  # compressed or protected in ways that zipfile lacks
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One prepared study.

    Attributes:
        ct: (D, H, W) int16, HU.
        pet: (D, H, W) float32, SUV.
        label: (D, H, W) uint8, 1 = tumour.
        meta: `case`, `patient`, `centre`, `fold`, `spacing_mm` (D, H, W), `affine` of the grid,
            `ct_shape`, `ct_affine` and `ct_header` of the original CT, `volume_ml`, `warnings`,
            `settings`, `sources` (SHA-256 of the files).
    """

    ct: np.ndarray
    pet: np.ndarray
    label: np.ndarray
    meta: dict


def write_case(path, case: Case, label_ct: np.ndarray) -> None:
    """Writes a case, whole or not at all.

    Args:
        path: `ID.npz`.
        case: the case.
        label_ct: (I, J, K) bool, the label on the CT's own grid; kept so that predictions can be
            scored there without the raw scans.

    Raises:
        DataError: the file cannot be written.
    """
    meta = np.frombuffer(json.dumps(case.meta).encode(), np.uint8)
    with replace_when_done(path) as partial, open(partial, "wb") as file:
        np.savez(
            file,
            ct=case.ct,
            pet=case.pet,
            label=case.label,
            label_ct=np.packbits(label_ct),
            meta=meta,
        )


def read_case(path) -> Case:
    """Reads a case.

    Raises:
        DataError: missing, damaged (checksums are verified), or of another format.
    """
    arrays = _read(path, ("ct", "pet", "label", "meta"))
    return Case(arrays["ct"], arrays["pet"], arrays["label"], _meta(arrays, path))


class StoredCase:
    """A case whose arrays stay in its file until they are asked for.

    The whole file is verified once, here; each `read` then takes the arrays alone, which the
    system usually still holds in memory, for a tenth of the cost. They are read and not mapped: a
    mapped file that is cut short ends the program without a word.

    Attributes:
        meta: see `Case`.

    Args:
        path: `ID.npz`.

    Raises:
        DataError: see `read_case`.
    """

    def __init__(self, path):
        self._path = Path(path)
        self.meta = read_case(path).meta
        self._arrays = {}
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            for name in ("ct", "pet", "label"):
                file.seek(archive.getinfo(f"{name}.npy").header_offset + 26)
                lengths = np.frombuffer(file.read(4), "<u2")  # of the member's name and extra field
                file.seek(int(lengths.sum()), os.SEEK_CUR)
                shape, dtype = _read_header(file)
                self._arrays[name] = shape, dtype, file.tell()

    def read(self) -> Case:
        """The case.

        Raises:
            DataError: the file is gone, or was cut short since it was verified.
        """
        arrays = {}
        try:
            with open(self._path, "rb") as file:
                for name, (shape, dtype, offset) in self._arrays.items():
                    file.seek(offset)
                    arrays[name] = np.fromfile(file, dtype, math.prod(shape)).reshape(shape)
        except (OSError, ValueError) as error:
            raise DataError(
                f"the prepared case has changed since the program began ({error})",
                case=self._path.stem,
                file=self._path,
                action=f"Run {command('prepare')} again, which makes it anew, then this command",
            ) from error
        return Case(**arrays, meta=self.meta)


def read_meta(path) -> dict:
    """Reads a case's `meta` alone. Raises like `read_case`."""
    return _meta(_read(path, ("meta",)), path)


def read_label_on_ct(path) -> Volume:
    """Reads a case's label on the original CT grid: bool (I, J, K) with the CT's geometry.

    Raises like `read_case`.
    """
    arrays = _read(path, ("label_ct", "meta"))
    meta = _meta(arrays, path)
    shape = tuple(meta["ct_shape"])
    label = np.unpackbits(arrays["label_ct"], count=int(np.prod(shape))).reshape(shape)
    header = bytes.fromhex(meta["ct_header"]) if meta["ct_header"] else None
    return Volume(label.astype(bool), np.array(meta["ct_affine"]), header)


def _read(path, names):
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _read_array(archive, f"{name}.npy") for name in names}
    except FileNotFoundError as error:
        raise DataError(
            "no such file",
            file=path,
            wanted="a prepared case",
            action=f"Run {command('prepare')} again",
        ) from error
    except _DAMAGE as error:
        raise DataError(
            f"the prepared case is damaged ({error})",
            case=path.stem,
            file=path,
            action=f"Delete the file and run the same {command('prepare')} again: it makes this "
            "case anew and keeps the others",
        ) from error


def _read_array(archive, member):
    """An array of a case; its checksum is verified when its last byte is read."""
    info = archive.getinfo(member)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member} is compressed, which no case is")
    with archive.open(info) as file:
        shape, dtype = _read_header(file)
        data = file.read(info.file_size)
    return np.frombuffer(data, dtype, math.prod(shape)).reshape(shape)


def _read_header(file):
    """(shape, dtype) of an .npy file of plain numbers, at whose data `file` then stands."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f".npy of version {version}")
    # NumPy parses the header as Python, which threads of CPython 3.11 cannot do at the same time.
    with _PARSING:
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if is_fortran or dtype.hasobject:
        raise ValueError(f".npy of {dtype} in another order than cases have")
    return shape, dtype


def _meta(arrays, path):
    try:
        meta = json.loads(arrays["meta"].tobytes())
    except ValueError as error:
        raise DataError(f"the prepared case is damaged ({error})", file=path) from error
    if meta.get("format") != FORMAT:
        raise DataError(
            f"format {meta.get('format')}",
            file=path,
            wanted=f"format {FORMAT}",
            action="Prepare the cases again with this version",
        )
    return meta
