"""The layouts in which raw scans are found: each reader turns a folder or file into `Scan`s."""

import contextlib
import csv
import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np

from isanet_jax.errors import DataError

_BOX_COLUMNS = ("x1", "x2", "y1", "y2", "z1", "z2")
_HECKTOR_LABELS = ("_ct_gtvt.nii.gz", "_gtvt.nii.gz")  # 2020, 2021
_NNUNET_CHANNELS = {"CT": "CT", "PET": "PET", "PT": "PET", "SUV": "PET"}
_TABLE_COLUMNS = ("case", "ct", "pet", "label")
# A case's ID names files, with endings and prefixes added to it.
CASE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
CASE_ID_WORDS = "at most 100 letters, digits, '_', '-' and '.', of which the first is no '-' or '.'"
HECKTOR_HOW = (
    "HECKTOR is gated: sign the end-user agreement at https://hecktor.grand-challenge.org, "
    "download the training data and unpack it there. To see the program at work without data, "
    "run: make demo"
)


@dataclasses.dataclass(frozen=True)
class Scan:
    """One PET/CT study on disk.

    Attributes:
        case: unique ID, letters, digits, `_`, `-` and `.` only: it names files.
        ct, pet: NIfTI files, HU and SUV; to predict on, also DICOM folders or archives.
        label: NIfTI mask on any grid, or None for prediction.
        patient: ID that folds are grouped by.
        centre: hospital, or "" where unknown.
        box_mm: (2, 3) lower and upper corner of the region of interest, RAS+ mm, or None.
        fold: fold prescribed by the source, or None.
        warnings: of the source, as text.
    """

    case: str
    ct: Path
    pet: Path
    label: Path | None
    patient: str
    centre: str = ""
    box_mm: np.ndarray | None = None
    fold: int | None = None
    warnings: tuple[str, ...] = ()


def visible(paths) -> list[Path]:
    """The paths, sorted, without the `._NAME` files that macOS puts beside every file it copies."""
    return sorted(p for p in paths if not p.name.startswith("._") and "__MACOSX" not in p.parts)


def read_sts(source) -> list[Scan]:
    """Soft-tissue sarcoma, NIfTI copy of the IBSI: `STS_001/{CT_image,PET_image,CT_mask}.nii.gz`.

    The mask on the CT's grid is the label.

    Raises:
        DataError: no such folder, none of its layout, or a case that lacks a file.
    """
    source = _existing_folder(
        source,
        "the IBSI copy of the STS cohort (doi 10.7937/K9/TCIA.2015."
        "7GO2GSKS; github.com/theibsi/data_sets, ibsi_validation/nifti)",
    )
    folders = sorted(p for p in source.iterdir() if p.is_dir() and p.name.startswith("STS_"))
    if not folders:
        raise DataError(
            "no folders named STS_*", file=source, wanted="STS_001/CT_image.nii.gz and so on"
        )
    scans = [
        Scan(f.name, f / "CT_image.nii.gz", f / "PET_image.nii.gz", f / "CT_mask.nii.gz", f.name)
        for f in folders
    ]
    return _complete(scans)


def read_hecktor(source) -> list[Scan]:
    """HECKTOR of any year: 2020 (a folder per case), 2021 (flat), 2022 (imagesTr), 2025 and 2026.

    2020 and 2021 come with boxes in the organisers' CSV; later years have none, and the head is to
    be found on the PET (`isanet_jax.cases.head`).

    Raises:
        DataError: no such folder, no layout of these, a case that lacks a file or a box.
    """
    source = _existing_folder(source, "the HECKTOR training data", HECKTOR_HOW)
    later = visible({*source.rglob("imagesTr/*__CT.nii.gz"), *source.rglob("*/*__CT.nii.gz")})
    later = [ct for ct in later if ct.parent.name != "imagesTs"]  # test images have no labels
    if later:
        return _complete([_hecktor_without_box(ct) for ct in later])
    nifti = next((p for p in sorted(source.rglob("hecktor_nii")) if p.is_dir()), source)
    cts = visible({*nifti.glob("*_ct.nii.gz"), *nifti.glob("*/*_ct.nii.gz")})
    if not cts:
        raise DataError(
            "no CT files named ID_ct.nii.gz or ID__CT.nii.gz",
            file=nifti,
            wanted="hecktor_nii/ID/ID_ct.nii.gz (2020), hecktor_nii/ID_ct.nii.gz (2021), "
            "imagesTr/ID__CT.nii.gz (2022) or ID/ID__CT.nii.gz (2025, 2026)",
            action=HECKTOR_HOW,
        )
    boxes = _read_boxes(source)
    scans = []
    for ct in cts:
        case = ct.name.removesuffix("_ct.nii.gz")
        candidates = [ct.with_name(case + name) for name in _HECKTOR_LABELS]
        label = next((path for path in candidates if path.is_file()), candidates[-1])
        if case not in boxes:
            raise DataError(
                f"no box for it in {boxes.path}" if boxes else "no bounding-box CSV",
                case=case,
                file=source,
                wanted="bbox.csv (2020) or hecktor2021_bbox_training.csv (2021) with its PatientID",
                action="Put the organisers' CSV into the folder",
            )
        pet = ct.with_name(f"{case}_pt.nii.gz")
        scans.append(Scan(case, ct, pet, label, case, _centre(case), boxes[case]))
    return _complete(scans)


def _hecktor_without_box(ct):
    """A case of 2022 (labels in labelsTr) or later (label beside the images)."""
    case = ct.name.removesuffix("__CT.nii.gz")
    folder = ct.parent.parent / "labelsTr" if ct.parent.name == "imagesTr" else ct.parent
    pet, label = ct.with_name(f"{case}__PT.nii.gz"), folder / f"{case}.nii.gz"
    return Scan(case, ct, pet, label, case, _centre(case))


def _centre(case):
    """HECKTOR's IDs begin with the hospital: CHUM-001."""
    return re.match(r"[A-Za-z]*", case).group()


def read_nnunet(source) -> list[Scan]:
    """nnU-Net's raw format, as autoPET is published: imagesTr, labelsTr, dataset.json.

    Raises:
        DataError: no such folder or files, or a dataset.json that does not say which channels are
            CT and PET.
    """
    source = _existing_folder(source, "an nnU-Net raw dataset")
    description = _nnunet_description(source)
    names = _numbered(description.get("channel_names") or description.get("modality"))
    channels = {}
    for index, name in names.items():
        kind = _NNUNET_CHANNELS.get(str(name).strip().upper())
        if kind and str(index).isdigit():
            channels.setdefault(kind, []).append(int(index))
    if sorted(channels) != ["CT", "PET"] or any(len(v) > 1 for v in channels.values()):
        raise DataError(
            f"channels {json.dumps(names)}",
            file=source / "dataset.json",
            wanted="one channel called CT and one called PET, PT or SUV in channel_names",
            action="Name the channels in dataset.json",
        )
    ending = str(description.get("file_ending") or ".nii.gz")
    first = f"_{channels['CT'][0]:04d}{ending}"
    second = f"_{channels['PET'][0]:04d}{ending}"
    scans = []
    for ct in visible((source / "imagesTr").glob(f"*{first}")):
        case = ct.name.removesuffix(first)
        label = source / "labelsTr" / f"{case}{ending}"
        autopet = re.fullmatch(r"(?:fdg|psma)_([0-9a-f]{8,})_.+", case)  # a patient's scans differ
        patient = autopet[1] if autopet else case
        scans.append(Scan(case, ct, ct.with_name(f"{case}{second}"), label, patient))
    if not scans:
        raise DataError(f"no imagesTr/CASE{first}", file=source, wanted="an nnU-Net raw dataset")
    return _complete(scans)


def nnunet_tumour_values(source) -> tuple[int, ...]:
    """The label values that an nnU-Net dataset.json calls neither background nor ignore."""
    labels = _numbered(_nnunet_description(Path(source)).get("labels"))
    values = set()
    for key, value in labels.items():
        # nnU-Net 1 has value -> name, nnU-Net 2 name -> value, or values where regions overlap.
        name, numbers = (value, [key]) if str(key).isdigit() else (key, value)
        numbers = numbers if isinstance(numbers, list) else [numbers]
        if str(name).lower() not in ("background", "ignore"):
            values |= {int(n) for n in numbers if str(n).isdigit()}
    return tuple(sorted(values - {0})) or (1,)


def _numbered(names):
    """An object of dataset.json; a list, as some programs write it, is numbered from 0."""
    if isinstance(names, list):
        return {str(index): name for index, name in enumerate(names)}
    return names if isinstance(names, dict) else {}


def _nnunet_description(source):
    path = source / "dataset.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot be read ({error})", file=path, wanted="nnU-Net's dataset.json"
        ) from error
    if not isinstance(description, dict):
        raise DataError("is not a JSON object", file=path, wanted="nnU-Net's dataset.json")
    return description


def recognise(source) -> str:
    """Which layout a source has: hecktor, sts, nnunet, table or dicom.

    Raises:
        DataError: none of them.
    """
    source = Path(source)
    if source.suffix.lower() == ".csv":
        return "table"
    if source.is_dir():
        if (source / "dataset.json").is_file() and (source / "imagesTr").is_dir():
            return "nnunet"
        if any(source.glob("STS_*/CT_image.nii.gz")):
            return "sts"
        for pattern in ("*_ct.nii.gz", "*__CT.nii.gz"):
            if next(source.rglob(pattern), None) is not None:
                return "hecktor"
    paths = (p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
    for path in itertools.islice(paths, 2000):
        if path.is_file() and is_dicom(path):
            return "dicom"
    raise DataError(
        "no layout that is known",
        file=source,
        wanted="HECKTOR 2020 to 2026, STS, an nnU-Net raw dataset, DICOM, or a table (.csv)",
        action="List your files in a CSV with case, ct, pet, label",
    )


def is_dicom(path) -> bool:
    """Whether a path is read as DICOM: a folder, an archive, or a file that begins as DICOM does.

    That is by its preamble or, as some planning systems write it, by a dataset's first groups.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() == ".zip":
        return True
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = file.read(132)
        # Group 0008 or 0002 and a small element number, little-endian.
        is_bare = start[:2] in (b"\x08\x00", b"\x02\x00") and start[3:4] == b"\x00"
        return start[128:] == b"DICM" or (is_bare and len(start) == 132)
    return False


class _Boxes(dict):
    """Boxes by case, with the file they came from."""

    path: Path | None = None


def _read_boxes(source):
    boxes = _Boxes()
    files = sorted(p for p in source.rglob("*bbox*.csv") if "testing" not in p.name)
    for path in files:
        boxes.path = path
        for number, row in enumerate(_read_csv(path, ("PatientID", *_BOX_COLUMNS)), start=2):
            case = row["PatientID"].strip()
            box = _box_mm(row, case, path, number)
            if case in boxes and not np.array_equal(boxes[case], box):
                raise DataError("two different boxes for it", case=case, file=path)
            boxes[case] = box
    return boxes


def _box_mm(row, case, path, number):
    """A row's box, see `box_from_lps`."""
    try:
        values = [float(row[name]) for name in _BOX_COLUMNS]
    except ValueError as error:
        raise DataError(
            f"line {number} has a box that is not numbers ({error})", case=case, file=path
        ) from error
    box = box_from_lps(values)
    if not (np.isfinite(box).all() and (box[1] > box[0]).all()):
        raise DataError(f"line {number} has an empty box {values}", case=case, file=path)
    return box


def box_from_lps(values) -> np.ndarray:
    """(2, 3) lower and upper corner, RAS+ mm, of (x1, x2, y1, y2, z1, z2), LPS mm (ITK's frame)."""
    corners = np.array(values, float).reshape(3, 2).T * [-1.0, -1.0, 1.0]
    return np.stack([corners.min(0), corners.max(0)])


def read_table(source, *, with_label=True) -> list[Scan]:
    """The user's own files: a CSV with `case, ct, pet, label[, patient, centre, fold]`.

    Paths are relative to the table. A box (`x1, x2, y1, y2, z1, z2`, LPS mm as in HECKTOR) may be
    given in further columns.

    Args:
        source: the CSV file.
        with_label: False for prediction: the label column may be missing and is ignored.

    Raises:
        DataError: no such file, a missing column or value, two cases with one ID, missing files.
    """
    source = Path(source)
    wanted = _TABLE_COLUMNS if with_label else _TABLE_COLUMNS[:-1]
    if not source.is_file():
        raise DataError(
            "no such table", file=source, wanted=f"a CSV with the columns {', '.join(wanted)}"
        )
    scans = []
    for number, row in enumerate(_read_csv(source, wanted), start=2):
        empty = [name for name in wanted if not (row[name] or "").strip()]
        if empty:
            raise DataError(
                f"line {number} has no {' and no '.join(empty)}", case=row["case"], file=source
            )
        case = row["case"].strip()
        value = {k: (v or "").strip() for k, v in row.items() if k}
        fold = value.get("fold") or None
        if fold is not None and not fold.isdigit():
            raise DataError(
                f"line {number} has fold {fold!r}",
                case=case,
                file=source,
                wanted="a whole number from 0",
            )
        has_box = all(value.get(name) for name in _BOX_COLUMNS)
        scans.append(
            Scan(
                case,
                source.parent / value["ct"],
                source.parent / value["pet"],
                source.parent / value["label"] if with_label else None,
                value.get("patient") or case,
                value.get("centre", ""),
                _box_mm(value, case, source, number) if has_box else None,
                None if fold is None else int(fold),
            )
        )
    if not scans:
        raise DataError("no cases", file=source, wanted="one line per case below the header")
    return _complete(scans)


def _read_csv(path, columns):
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            # Spreadsheets write semicolons or tabs in some countries.
            delimiter = max(",;\t", key=header.count)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            found = [name.strip() for name in next(reader, [])]
            missing = [name for name in columns if name not in found]
            if missing:
                raise DataError(
                    f"no column {', '.join(missing)} (found {', '.join(found)}, separated by "
                    f"{delimiter!r})",
                    file=path,
                    wanted=f"the columns {', '.join(columns)}, separated by commas, semicolons or "
                    "tabs",
                )
            rows = ([value.strip() for value in row] for row in reader if any(row))
            return [dict(itertools.zip_longest(found, row[: len(found)])) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"cannot be read as CSV ({error})", file=path, action="Save it as CSV in UTF-8"
        ) from error


def _existing_folder(source, what, how=""):
    source = Path(source)
    if not source.is_dir():
        raise DataError("no such folder", file=source, wanted=f"the folder of {what}", action=how)
    if not any(source.iterdir()):
        raise DataError("the folder is empty", file=source, wanted=what, action=how)
    return source


def _complete(scans):
    """The scans, if their IDs can name files and are unique.

    A file that is missing is its case's failure, when it is read: the others may be prepared.
    """
    seen = {}
    for scan in scans:
        if not CASE_ID.fullmatch(scan.case):
            shown = scan.case if len(scan.case) <= 100 else f"{scan.case[:100]}..."
            raise DataError(
                f"the ID {shown!r} cannot name a file", file=scan.ct, wanted=CASE_ID_WORDS
            )
        if scan.case in seen:
            raise DataError(
                f"two cases with this ID (the other one is {seen[scan.case]})",
                case=scan.case,
                file=scan.ct,
                action="Give each case its own ID",
            )
        seen[scan.case] = scan.ct
    return scans


def check_files(scans: list[Scan]) -> list[Scan]:
    """The scans, if every file of every scan is there.

    Raises:
        DataError: names all that are missing.
    """
    missing = [
        f"case {scan.case}: no {what}: {path}"
        for scan in scans
        for what, path in (("CT", scan.ct), ("PET", scan.pet), ("label", scan.label))
        # To predict on, CT and PET may be folders of DICOM.
        if path is not None and not (path.is_file() or (scan.label is None and path.is_dir()))
    ]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise DataError(
            "; ".join(missing[:10]) + more,
            wanted="CT, PET and label of every case",
            action="Leave these cases out with --skip-bad, or see them all with: prepare.py check",
        )
    return scans
