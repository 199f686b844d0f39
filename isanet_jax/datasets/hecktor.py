"""HECKTOR, head and neck tumours, of any year."""

import re
from pathlib import Path

import numpy as np

from isanet_jax.classes import TUMOUR, Classes, Code
from isanet_jax.datasets.layout import (
    BOX_COLUMNS,
    Dataset,
    Found,
    Scan,
    box_mm_of_row,
    cases_of,
    existing_folder,
    read_csv,
    with_own_ids,
)
from isanet_jax.errors import DataError
from isanet_jax.files import files_below

_LABELS = ("_ct_gtvt.nii.gz", "_gtvt.nii.gz")  # 2020, 2021
HECKTOR_HOW = (
    "HECKTOR is gated: sign the end-user agreement at https://hecktor.grand-challenge.org, "
    "download the training data and unpack it there. To see the program at work without data, "
    "run: make demo"
)


def read_hecktor(source, notes=None) -> list[Scan]:
    """HECKTOR of any year: 2020 (a folder per case), 2021 (flat), 2022 (imagesTr), 2025 and 2026.

    2020 and 2021 come with boxes in the organisers' CSV; later years have none, and the head is to
    be found on the PET (`isanet_jax.cases.head`).

    Args:
        source: the folder.
        notes: list that gets a line where the CSV has boxes of patients that are not here; None:
            not asked for.

    Raises:
        DataError: no such folder, no layout of these, a case that lacks a file or a box.
    """
    source = existing_folder(source, "the HECKTOR training data", HECKTOR_HOW)
    later = cases_of(files_below(source), ("__CT.nii.gz", "__PT.nii.gz"))
    later = {place for place in later if place[0].name != "imagesTs"}  # those have no labels
    if later:
        for images in {folder for folder, _ in later if folder.name == "imagesTr"}:
            labels = cases_of(images.parent.glob("labelsTr/*"), (".nii.gz",))
            later |= {(images, case) for _, case in labels}
        return with_own_ids([_without_box(*place) for place in sorted(later)])
    nifti = next((p for p in sorted(source.rglob("hecktor_nii")) if p.is_dir()), source)
    suffixes = ("_ct.nii.gz", "_pt.nii.gz", *_LABELS)
    found = cases_of([*nifti.glob("*.nii.gz"), *nifti.glob("*/*.nii.gz")], suffixes)
    if not found:
        raise DataError(
            "no CT files named ID_ct.nii.gz or ID__CT.nii.gz",
            file=nifti,
            wanted="hecktor_nii/ID/ID_ct.nii.gz (2020), hecktor_nii/ID_ct.nii.gz (2021), "
            "imagesTr/ID__CT.nii.gz (2022) or ID/ID__CT.nii.gz (2025, 2026)",
            action=HECKTOR_HOW,
        )
    boxes = _read_boxes(source)
    scans = []
    for folder, case in sorted(found):
        candidates = [folder / f"{case}{name}" for name in _LABELS]
        label = next((path for path in candidates if path.is_file()), candidates[-1])
        if case not in boxes:
            raise DataError(
                f"no box for it in {boxes.path}" if boxes else "no bounding-box CSV",
                case=case,
                file=source,
                wanted="bbox.csv (2020) or hecktor2021_bbox_training.csv (2021) with its PatientID",
                action="Put the organisers' CSV into the folder",
            )
        images = {"ct": folder / f"{case}_ct.nii.gz", "pet": folder / f"{case}_pt.nii.gz"}
        scans.append(Scan(case, images, label, case, _centre(case), boxes[case]))
    absent = sorted(boxes.keys() - {scan.case for scan in scans})
    if absent and notes is not None:
        notes.append(
            f"{boxes.path} has boxes of {len(absent)} patients without files here: "
            f"{', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''}"
        )
    return with_own_ids(scans)


def _without_box(folder, case):
    """A case of 2022 (labels in labelsTr) or later (label beside the images)."""
    labels = folder.parent / "labelsTr" if folder.name == "imagesTr" else folder
    images = {"ct": folder / f"{case}__CT.nii.gz", "pet": folder / f"{case}__PT.nii.gz"}
    return Scan(case, images, labels / f"{case}.nii.gz", case, _centre(case))


def _centre(case):
    """HECKTOR's IDs begin with the hospital: CHUM-001."""
    return re.match(r"[A-Za-z]*", case).group()


class _Boxes(dict):
    """Boxes by case, with the file they came from."""

    path: Path | None = None


def _read_boxes(source):
    boxes = _Boxes()
    files = sorted(p for p in source.rglob("*bbox*.csv") if "testing" not in p.name)
    for path in files:
        boxes.path = path
        for number, row in read_csv(path, ("PatientID", *BOX_COLUMNS)):
            case = row["PatientID"].strip()
            box = box_mm_of_row(row, case, path, number)
            if case in boxes and not np.array_equal(boxes[case], box):
                raise DataError("two different boxes for it", case=case, file=path)
            boxes[case] = box
    return boxes


# Of 2022 and later, as one class; as two: --classes gtvp=1 gtvn=2.
TARGETS = {
    "gtvp": Classes({TUMOUR: (1,)}, others=(2,)),
    "gtvn": Classes({TUMOUR: (2,)}, others=(1,)),
    "both": Classes({TUMOUR: (1, 2)}),
}


# DICOM PS3.16, context group 7159.
_CODES = {
    "gtvp": Code("SCT", "86049000", "Neoplasm, Primary"),
    "gtvn": Code("SCT", "14799000", "Neoplasm, Secondary"),
}


def _is_later(scans):
    """Whether it is HECKTOR 2022 or later: without boxes, and with nodes in the label."""
    return all(scan.box_mm is None for scan in scans)


def _recognises(source):
    suffixes = ("_ct.nii.gz", "__CT.nii.gz")
    return source.is_dir() and any(path.name.endswith(suffixes) for path in files_below(source))


def _read(source, options):
    notes = []
    scans = read_hecktor(source, notes)
    return Found(scans, notes=tuple(notes))


DATASET = Dataset(
    "hecktor",
    "HECKTOR 2020, 2021 (with the boxes' CSV), 2022, 2025, 2026",
    _recognises,
    _read,
    fit="crop",  # the paper's 1 mm boxes
    classes=lambda source, scans: TARGETS["gtvp"] if _is_later(scans) else Classes(),
    codes=_CODES,
    region=lambda scans: "head" if _is_later(scans) else "given",
    rank=2,
)
