"""What a layout is, and what all have: scans, cases named by IDs, folders that must be there."""

import csv
import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from isanet_jax.arguments import command
from isanet_jax.classes import Classes, Code
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.files import visible
from isanet_jax.kinds import kind_of, shown

BOX_COLUMNS = ("x1", "x2", "y1", "y2", "z1", "z2")
# A case's ID names files, with endings and prefixes added to it.
CASE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
CASE_ID_WORDS = "at most 100 letters, digits, '_', '-' and '.', of which the first is no '-' or '.'"


@dataclasses.dataclass(frozen=True)
class Scan:
    """One study on disk.

    Attributes:
        case: unique ID, letters, digits, `_`, `-` and `.` only: it names files.
        images: name -> NIfTI file (CT in HU, PET in SUV); DICOM folders or archives with `study`,
            or to predict on.
        label: NIfTI mask on any grid, an RTSTRUCT or SEG with `study`, or None for prediction.
        patient: ID that folds are grouped by.
        centre: hospital, or "" where unknown.
        box_mm: (2, 3) lower and upper corner of the region of interest, RAS+ mm, or None.
        fold: fold prescribed by the source, or None.
        warnings: of the source, as text.
        study: what a DICOM scan is made of (`isanet_jax.dicom.studies.Study`); None: of NIfTI.
    """

    case: str
    images: Mapping[str, Path]
    label: Path | None
    patient: str
    centre: str = ""
    box_mm: np.ndarray | None = None
    fold: int | None = None
    warnings: tuple[str, ...] = ()
    study: object = None

    def image(self, name: str) -> Path:
        """The path of an image. Raises DataError: the scan lacks it."""
        path = self.images.get(name)
        if path is None:
            raise DataError(
                f"has no image {name!r}",
                case=self.case,
                wanted=f"one, as its {', '.join(self.images) or 'others'}",
                action="Leave such cases out with --skip-bad, or name other images with --images",
            )
        return path

    @property
    def place(self) -> Path:
        """The place of its first image, for messages."""
        return next(iter(self.images.values()))


# What a case holds where nothing is asked for: name -> kind (`isanet_jax.kinds`).
PET_CT = MappingProxyType({"ct": "ct", "pet": "pet"})


class Options(NamedTuple):
    """What a reader may be asked for besides; DICOM alone has all but the images.

    See `isanet_jax.dicom.studies.Asked`.

    Attributes:
        images: name -> kind of the images that each scan is to have.
        regions: names of the tumour's region, the first that a study has counts.
        unite: take all of them together.
        classes: name -> names of its regions.
        series: Series Instance UIDs to take where several would do.
        keep_identity: name cases by Patient ID, also where it is not marked as de-identified.
        progress: called with an iterable of files, returns it with a progress bar; or None.
    """

    images: Mapping[str, str] = PET_CT
    regions: tuple[str, ...] = ()
    unite: bool = False
    classes: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    series: tuple[str, ...] = ()
    keep_identity: bool = False
    progress: Callable | None = None


class Found(NamedTuple):
    """What a reader has found.

    Attributes:
        scans: to be prepared.
        failures: case -> reason, of what could not become a scan.
        notes: lines to show.
    """

    scans: list[Scan]
    failures: Mapping[str, str] = MappingProxyType({})
    notes: tuple[str, ...] = ()


class Dataset(NamedTuple):
    """A layout that raw scans are found in; a file's `DATASET` is one.

    Attributes:
        name: of its command, as in `isanet prepare NAME`.
        description: one line.
        recognises: source -> whether it has this layout.
        read: (source, Options) -> Found. Raises DataError.
        fit: `resize` keeps the field of view, `crop` the voxel size: where nothing is asked for.
        classes: (source, scans) -> `isanet_jax.classes.Classes` of its labels.
        codes: name of a class -> what its segments say that it is.
        region: scans -> `given` (the scan's box, else the CT's field) or `head` (found on the PET).
        rank: layouts of a lower one are asked first whether they recognise a source.
    """

    name: str
    description: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Options], Found]
    fit: str = "resize"
    classes: Callable = lambda source, scans: Classes()
    codes: Mapping[str, Code] = MappingProxyType({})
    region: Callable = lambda scans: "given"
    rank: int = 1


def box_mm_of_row(row, case, path, number) -> np.ndarray:
    """A row's box, see `box_from_lps`. Raises DataError, which names the line."""
    try:
        return box_from_lps([row[name] for name in BOX_COLUMNS])
    except ConfigError as error:
        raise DataError(f"line {number}: {error}", case=case, file=path) from error


def box_from_lps(values) -> np.ndarray:
    """(2, 3) lower and upper corner, RAS+ mm, of (x1, x2, y1, y2, z1, z2), LPS mm (ITK's frame).

    Raises:
        ConfigError: no six finite numbers, or a box without volume.
    """
    try:
        corners = np.array(values, float).reshape(3, 2).T * [-1.0, -1.0, 1.0]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the box {values} is not six numbers ({error})") from error
    box = np.stack([corners.min(0), corners.max(0)])
    if not (np.isfinite(box).all() and (box[1] > box[0]).all()):
        raise ConfigError(f"the box {values} is empty or not finite")
    return box


def read_csv(path, columns) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV that has these columns, whatever separates them: line, and name -> cell.

    Raises:
        DataError: unreadable, a missing column, two of one name, or a line with more cells than
            there are columns.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            # Spreadsheets write semicolons or tabs in some countries.
            delimiter = max(",;\t", key=header.count)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            names_there = [name.strip() for name in next(reader, [])]
            missing = [name for name in columns if name not in names_there]
            if missing:
                raise DataError(
                    f"no column {', '.join(missing)} (found {', '.join(names_there)}, separated by "
                    f"{delimiter!r})",
                    file=path,
                    wanted=f"the columns {', '.join(columns)}, separated by commas, semicolons or "
                    "tabs",
                )
            twice = [n for n, count in Counter(names_there).items() if n and count > 1]
            if twice:
                raise DataError(
                    f"more than one column {', '.join(twice)}",
                    file=path,
                    wanted="each column once",
                    action="Rename the ones that are not meant",
                )
            rows = []
            for row in reader:
                cells, beyond = row[: len(names_there)], row[len(names_there) :]
                if any(beyond):
                    raise DataError(
                        f"line {reader.line_num} has {len(row)} cells, and there are "
                        f"{len(names_there)} columns",
                        file=path,
                        action=f"Put what has a {delimiter!r} in it between quotes",
                    )
                if any(cells):
                    stripped = (value.strip() for value in cells)
                    whole = dict(itertools.zip_longest(names_there, stripped))
                    rows.append((reader.line_num, whole))
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"cannot be read as CSV ({error})", file=path, action="Save it as CSV in UTF-8"
        ) from error


def existing_folder(source, what, how="") -> Path:
    """The folder, if it is there and not empty. Raises DataError: says what it is of, and how."""
    source = Path(source)
    if not source.is_dir():
        raise DataError("no such folder", file=source, wanted=f"the folder of {what}", action=how)
    if not any(source.iterdir()):
        raise DataError("the folder is empty", file=source, wanted=what, action=how)
    return source


def cases_of(paths, suffixes) -> set[tuple[Path, str]]:
    """(folder, ID) of the cases that have a file named ID and one of these suffixes.

    Any one file makes a case, so that one that lacks a file is reported.
    Of several suffixes that fit, the first counts.
    """
    found = set()
    for path in visible(paths):
        suffix = next((s for s in suffixes if path.name.endswith(s)), None)
        if suffix:
            found.add((path.parent, path.name.removesuffix(suffix)))
    return found


def with_own_ids(scans: list[Scan]) -> list[Scan]:
    """The scans, if their IDs can name files and are unique.

    A file that is missing is its case's failure, when it is read: the others may be prepared.
    """
    seen = {}  # as macOS and Windows tell files apart
    for scan in scans:
        if not CASE_ID.fullmatch(scan.case):
            shown = scan.case if len(scan.case) <= 100 else f"{scan.case[:100]}..."
            raise DataError(
                f"the ID {shown!r} cannot name a file", file=scan.place, wanted=CASE_ID_WORDS
            )
        other = seen.get(scan.case.lower())
        if other is not None and other.case == scan.case:
            raise DataError(
                f"two cases with this ID (the other one is {other.place})",
                case=scan.case,
                file=scan.place,
                action="Give each case its own ID",
            )
        if other is not None:
            raise DataError(
                f"its ID differs from that of case {other.case} in capitals alone, which name one "
                "file on macOS and on Windows",
                case=scan.case,
                file=scan.place,
                action="Give one of them another ID",
            )
        seen[scan.case.lower()] = scan
    return scans


def check_files(scans: list[Scan]) -> list[Scan]:
    """The scans, if every file of every scan is there.

    Raises:
        DataError: names all that are missing.
    """
    missing = [
        f"case {scan.case}: no {what}: {path}"
        for scan in scans
        for what, path in (
            *((shown(name, kind_of(name)), path) for name, path in scan.images.items()),
            ("label", scan.label),
        )
        # To predict on, CT and PET may be folders of DICOM.
        if path is not None
        and not (path.is_file() or (scan.label is None and path.is_dir()))
        and scan.study is None
    ]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise DataError(
            "; ".join(missing[:10]) + more,
            wanted="the images and the label of every case",
            action="Leave these cases out with --skip-bad, or see them all with: "
            f"{command('prepare')} check",
        )
    return scans
