"""What is wrong with a cohort, before hours are spent on it: `prepare check`."""

import sys
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from isanet_jax.cases.doubts import doubts_of_scan
from isanet_jax.cases.grid import overlap_fraction, same_grid
from isanet_jax.cases.identity import content_digest
from isanet_jax.cases.images import check_images
from isanet_jax.cases.label import bits_of_masks, check_place, read_label
from isanet_jax.cases.preparation import Settings
from isanet_jax.classes import class_mask
from isanet_jax.datasets.layout import Scan
from isanet_jax.dicom.convert import read_study
from isanet_jax.errors import DataError, failure_of
from isanet_jax.files import write_csv
from isanet_jax.kinds import KINDS, shown
from isanet_jax.nifti import read_volume
from isanet_jax.parallel import in_processes
from isanet_jax.volume import CONNECTED_26, Volume, bounds_mm

# Fields cropped around their labels: so many cases at least, of whose sides half or more lie as far
# from the label as the median side, to within so many mm.
_CROPPED_CASES, _CROPPED_SHARE, _CROPPED_MM = 5, 0.5, 3.0


def _columns(images):
    """Returns the table's columns for images (name -> kind)."""
    columns = ["case", "patient", "errors", "warnings"]
    for index, (name, kind) in enumerate(images.items()):
        columns += [f"{name}_{what}" for what in ("shape", "spacing_mm", "axes", _values(kind))]
        columns += [f"{name}_covers"] * (index > 0)
    return (*columns, "label_on", "label_ml", "classes_ml", "components")


def _values(kind):
    """Returns the name of the column of an image's values: `hu`, `suv`, `values`."""
    return KINDS[kind].unit.lower() or "values"


def check(
    scans: list[Scan], settings: Settings, *, workers=1, failures=None, log="errors.log"
) -> list[dict]:
    """Checks every scan, and the cohort as a whole.

    Args:
        scans: of a reader of `isanet_jax.datasets`.
        settings: gives the label's values.
        workers: processes.
        failures: case -> reason, of what could not even become a scan.
        log: file for the tracebacks of unforeseen errors.

    Returns:
        a row per case: columns as text, `errors` and `warnings` as lists; `margins_mm` besides
        where the label is on an image's grid (`margins_mm`).
    """
    from tqdm import tqdm

    rows_by_case = {}
    examined = in_processes(partial(_check_scan, settings=settings), scans, workers)
    bar = {"total": len(scans), "unit": "case", "disable": None, "file": sys.stderr}
    for scan, outcome in tqdm(examined, **bar):
        try:
            rows_by_case[scan.case] = outcome()
        except Exception as error:
            failure = failure_of(error, scan.case, log)
            row = {"case": scan.case, "patient": scan.patient, "warnings": []}
            rows_by_case[scan.case] = row | {"errors": [str(failure)]}
    rows = [rows_by_case[scan.case] for scan in scans]
    for case, reason in (failures or {}).items():
        rows.append({"case": case, "errors": [reason], "warnings": []})
    _check_cohort(scans, rows, settings.images)
    return rows


def _check_scan(scan, settings):
    """One scan's row; `hashes` of its voxels besides."""
    row = {"case": scan.case, "patient": scan.patient, "errors": [], "hashes": {}}
    row["warnings"] = list(scan.warnings)
    volumes, label = read_for_check(scan, settings, row)
    kinds = settings.images
    for name, volume in volumes.items():
        low, high = volume.data.min(), volume.data.max()
        row |= {
            f"{name}_shape": " x ".join(map(str, volume.data.shape)),
            f"{name}_spacing_mm": " x ".join(f"{s:.2f}" for s in volume.spacing_mm),
            f"{name}_axes": "".join(nibabel.aff2axcodes(volume.affine)),
            f"{name}_{_values(kinds[name])}": f"{low:.4g} to {high:.4g}",
        }
        row["hashes"][name] = content_digest(volume)
    if len(volumes) == len(kinds):
        try:
            row["warnings"] += check_images(scan, volumes, kinds)
            if label is not None:
                check_place(scan, label, volumes, settings)
        except DataError as error:
            row["errors"].append(str(error))
        boxes = {k: bounds_mm(v.data.shape, v.affine) for k, v in volumes.items()}
        first, *others = boxes
        for name in others:
            row[f"{name}_covers"] = f"{overlap_fraction(boxes[first], boxes[name]):.0%}"
    row["warnings"] += doubts_of_scan(volumes, label, kinds)
    if label is not None:
        _check_label(label, volumes, kinds, row)
    return row


def read_for_check(scan, settings, row):
    """What of a scan can be read: (name -> volume, the label's mask or None).

    Args:
        scan: what is read.
        settings: name its images and its label's values.
        row: whose `errors` and `warnings` get what is wrong.
    """
    if scan.study is not None:
        try:
            images = read_study(scan.study)
        except DataError as error:
            row["errors"].append(str(error))
            return {}, None
        row["warnings"] += images.warnings
        bits = bits_of_masks(images.masks, settings.classes)
        row["classes_ml"] = _classes_ml(bits, settings.classes)
        return images.volumes, Volume(settings.classes.any_of(bits.data), bits.affine, bits.header)
    volumes, label = {}, None
    for name in (*settings.images, *(["label"] if scan.label is not None else [])):
        try:
            if name == "label":
                label = read_label(scan.label, settings.classes, case=scan.case)
            else:
                volumes[name] = read_volume(scan.image(name), case=scan.case)
        except DataError as error:
            row["errors"].append(str(error))
    if label is not None:  # what is unknown is no tumour
        row["classes_ml"] = _classes_ml(label, settings.classes)
        label = Volume(settings.classes.any_of(label.data), label.affine, label.header)
    return volumes, label


def _classes_ml(bits, classes):
    """The volume of each class, as text; "" of a single one."""
    if len(classes.names) == 1:
        return ""
    counts = (np.count_nonzero(class_mask(bits.data, i)) for i in range(len(classes.names)))
    both = zip(classes.names, counts, strict=True)
    return ", ".join(f"{name} {count * bits.voxel_ml:.2f} ml" for name, count in both)


def _check_label(label, volumes, kinds, row):
    called = {name: shown(name, kinds[name]) for name in volumes}
    grids = [called[name] for name, volume in volumes.items() if same_grid(label, volume)]
    _, count = ndimage.label(label.data, CONNECTED_26)
    row |= {
        "label_on": grids[0] if grids else "its own grid",
        "label_ml": f"{label.data.sum() * label.voxel_ml:.2f}",
        "components": str(count),
    }
    if count and grids:
        row["margins_mm"] = margins_mm(label)


def _check_cohort(scans, rows, images):
    """Adds what only the whole cohort shows: doubled scans, patients in two folds."""
    first = {}
    for row in rows:
        for name, digest in row.pop("hashes", {}).items():
            other = first.setdefault((name, digest), row["case"])
            if other != row["case"]:
                row["errors"].append(
                    f"{shown(name, images[name])} has the same voxels as case {other}: one scan "
                    "under two IDs"
                )
    folds = {}
    for scan in scans:
        folds.setdefault(scan.patient, set()).add(scan.fold)
    for row in rows:
        mine = folds.get(row.get("patient"), set())
        if len(mine) > 1:
            listed = ", ".join(sorted(str(f) for f in mine))
            row["errors"].append(f"patient {row['patient']} is in folds {listed}")


def margins_mm(label: Volume) -> np.ndarray:
    """How far a label that is not empty lies from the field's two sides along each axis.

    Returns:
        (3, 2), mm, whole voxels; 0 where it touches the side.
    """
    (box,) = ndimage.find_objects((label.data > 0).view(np.uint8))
    voxels = [(side.start, n - side.stop) for side, n in zip(box, label.data.shape, strict=True)]
    return np.array(voxels) * label.spacing_mm[:, None]


def warnings_of_all(rows: list[dict]) -> list[str]:
    """What no case shows alone: fields that were cropped around their labels.

    Such a cohort gives away where the tumour is and how large, which a network learns
    (docs/evidence/nnunet.md measures it).

    Args:
        rows: of `check`.
    """
    margins = [row["margins_mm"] for row in rows if "margins_mm" in row]
    if len(margins) < _CROPPED_CASES:
        return []
    sides = np.ravel(margins)
    median = np.median(sides)
    alike = np.count_nonzero(np.abs(sides - median) <= _CROPPED_MM)
    if alike < _CROPPED_SHARE * sides.size:
        return []
    return [
        f"{alike} of the fields' {sides.size} sides lie {median:.0f} mm from the label (within "
        f"{_CROPPED_MM:.0f}): the scans were cropped around it, so that the field says where the "
        "tumour is and how large. Scores on them do not hold for scans that were not"
    ]


def write_table(rows: list[dict], folder, images) -> tuple[list[str], list[list[str]]]:
    """Writes check.csv; returns its headings and rows, as text.

    Args:
        rows: of `check`.
        folder: of the file.
        images: name -> kind.
    """
    columns = list(_columns(images))
    texts = [{c: _text(row.get(c, "")) for c in columns} for row in rows]
    write_csv(Path(folder) / "check.csv", texts, columns)
    return columns, [[row[c] for c in columns] for row in texts]


def _text(value):
    return "; ".join(value) if isinstance(value, list) else str(value)


def table_of(rows: list[dict], images) -> str:
    """The rows for a screen: a line per case, and below it what is wrong.

    Args:
        rows: of `check`.
        images: name -> kind.
    """
    shapes = "".join(f" {shown(name, kind):18}" for name, kind in images.items())
    suvs = [name for name, kind in images.items() if kind == "pet"]
    lines = [f"{'case':16}{shapes}" + f" {'SUV':>16}" * len(suvs) + f" {'label ml':>9} parts"]
    for row in rows:
        get = row.get
        cells = [f"{row['case'][:16]:16}"]
        cells += [f"{get(f'{name}_shape', '-'):18}" for name in images]
        cells += [f"{get(f'{name}_suv', '-'):>16}" for name in suvs]
        lines.append(" ".join([*cells, f"{get('label_ml', '-'):>9} {get('components', '-'):>5}"]))
        lines += [f"    {get('classes_ml')}"] * bool(get("classes_ml"))
        lines += [f"    error: {text}" for text in row["errors"]]
        lines += [f"    warning: {text}" for text in row["warnings"]]
    return "\n".join(lines)
