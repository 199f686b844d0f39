"""How cases are stored: one uncompressed .npz per case, a manifest, and the folds.

The format was chosen by measurement (docs/case-format.md). Everything in it is plain arrays and
JSON: nothing is unpickled.
"""

import csv
import dataclasses
import json
import math
import os
import re
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np

from isanet_jax.errors import DataError
from isanet_jax.scans.sources import CASE_ID, CASE_ID_WORDS, HECKTOR_HOW
from isanet_jax.scans.volume import Volume, replace_when_done

FORMAT = 1
_PARSING = threading.Lock()
_DAMAGE = (
    *(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error),
    *(NotImplementedError, RuntimeError),  # compressed or protected in ways that zipfile lacks
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBERS = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?( to [-+]?[\d.]+(e[-+]?\d+)?)?")


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
                action="Run prepare.py again, which makes it anew, and then this command",
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
            "no such file", file=path, wanted="a prepared case", action="Run prepare.py again"
        ) from error
    except _DAMAGE as error:
        raise DataError(
            f"the prepared case is damaged ({error})",
            case=path.stem,
            file=path,
            action="Delete the file and run the same prepare.py command again: it makes this case "
            "anew and keeps the others",
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


@dataclasses.dataclass(frozen=True)
class Cohort:
    """A folder of prepared cases.

    Attributes:
        folder: where `manifest.json`, `folds.json` and the cases are.
        settings: how they were prepared, see `isanet_jax.cases.prepare.Settings`.
        cases: case ID -> its manifest entry.
        fold_of: case ID -> fold.
    """

    folder: Path
    settings: dict
    cases: dict[str, dict]
    fold_of: dict[str, int]

    def path(self, case: str) -> Path:
        """The file of a case."""
        return self.folder / f"{case}.npz"


def write_json(path, content) -> None:
    """Writes JSON (indented, keys as given), whole or not at all."""
    with replace_when_done(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_csv(path, rows: list[dict], columns=None) -> None:
    """Writes rows as CSV, whole or not at all.

    Text that a spreadsheet would take for a formula gets an apostrophe before it.

    Args:
        path: of the file.
        rows: keys are columns.
        columns: their order; None: the first row's.
    """
    with (
        replace_when_done(path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows({k: _no_formula(v) for k, v in row.items()} for row in rows)


def _no_formula(value):
    is_one = isinstance(value, str) and value.startswith(_FORMULA)
    return f"'{value}" if is_one and not _NUMBERS.fullmatch(value) else value


def read_cohort(folder) -> Cohort:
    """Reads a folder's manifest and folds.

    Raises:
        DataError: no such folder, no manifest, or one that is damaged or of another format.
    """
    folder = Path(folder)
    how = (
        f"Prepare your scans first, for example: python prepare.py hecktor --source DIR --output "
        f"{folder} (also sts, table; see README.md). {HECKTOR_HOW}"
    )
    if not folder.is_dir():
        raise DataError("no such folder", file=folder, wanted="prepared cases", action=how)
    contents = []
    for name in ("manifest.json", "folds.json"):
        try:
            contents.append(json.loads((folder / name).read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(
                f"no readable {name} ({error})", file=folder, wanted="prepared cases", action=how
            ) from error
    manifest, folds = contents
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"format {manifest.get('format')}",
            file=folder / "manifest.json",
            wanted=f"format {FORMAT}",
            action="Prepare the cases again with this version",
        )
    cases = {entry["case"]: entry for entry in manifest["cases"]}
    bad = [case for case in {**cases, **folds["fold_of"]} if not CASE_ID.fullmatch(str(case))]
    if bad:
        raise DataError(
            f"the ID {bad[0]!r} cannot name a file",
            file=folder / "manifest.json",
            wanted=CASE_ID_WORDS,
        )
    missing = sorted(cases.keys() ^ folds["fold_of"].keys())
    missing += [c for c in cases if not (folder / f"{c}.npz").is_file() and c not in missing]
    if missing:
        raise DataError(
            f"manifest, folds and files disagree on {', '.join(missing[:5])}",
            file=folder,
            action="Run the same prepare.py command again: it makes what is missing",
        )
    return Cohort(folder, manifest["settings"], cases, folds["fold_of"])
