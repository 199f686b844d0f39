"""The user's own files, listed in a CSV."""

from pathlib import Path

from isanet_jax.datasets.layout import (
    BOX_COLUMNS,
    PET_CT,
    Dataset,
    Found,
    Scan,
    box_mm_of_row,
    read_csv,
    with_own_ids,
)
from isanet_jax.errors import DataError

_OPTIONAL = ("patient", "centre", "fold", *BOX_COLUMNS)


def read_table(source, *, images=PET_CT, with_label=True, notes=None) -> list[Scan]:
    """The user's own files: a CSV with `case, ct, pet, label[, patient, centre, fold]`, or others.

    Paths are relative to the table. A box (`x1, x2, y1, y2, z1, z2`, LPS mm as in HECKTOR) may be
    given in further columns.

    Args:
        source: the CSV file.
        images: names of the images; each is a column.
        with_label: False for prediction: the label column may be missing and is ignored.
        notes: list that gets the columns that are not read; None: not asked for.

    Raises:
        DataError: no such file, a missing column or value, two cases with one ID, a part of a box.
    """
    source = Path(source)
    wanted = ("case", *images, *(["label"] if with_label else []))
    if not source.is_file():
        raise DataError(
            "no such table", file=source, wanted=f"a CSV with the columns {', '.join(wanted)}"
        )
    scans = []
    rows = read_csv(source, wanted)
    known = ("case", *images, "label", *_OPTIONAL)
    unread = [name for name in (rows[0][1] if rows else ()) if name not in known]
    if unread and notes is not None:  # a `center` would be no centre
        notes.append(f"columns that are not read: {', '.join(unread)} (known: {', '.join(known)})")
    for number, row in rows:
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
        has_box = any(value.get(name) for name in BOX_COLUMNS)
        absent = [name for name in BOX_COLUMNS if has_box and not value.get(name)]
        if absent:
            raise DataError(
                f"line {number} has a box without {', '.join(absent)}",
                case=case,
                file=source,
                wanted=f"all of {', '.join(BOX_COLUMNS)}, or none",
            )
        scans.append(
            Scan(
                case,
                {name: _path(source.parent, value[name]) for name in images},
                _path(source.parent, value["label"]) if with_label else None,
                value.get("patient") or case,
                value.get("centre", ""),
                box_mm_of_row(value, case, source, number) if has_box else None,
                None if fold is None else int(fold),
            )
        )
    if not scans:
        raise DataError("no cases", file=source, wanted="one line per case below the header")
    return with_own_ids(scans)


def _path(folder, text):
    """A path of the table; one with backslashes, as Windows writes them, is read everywhere."""
    path = folder / text
    return folder / text.replace("\\", "/") if "\\" in text and not path.exists() else path


def _found(source, options) -> Found:
    notes = []
    scans = read_table(source, images=options.images, notes=notes)
    return Found(scans, notes=tuple(notes))


DATASET = Dataset(
    "table",
    "your own files: CSV with case, ct, pet, label[, patient, ...]",
    lambda source: source.suffix.lower() == ".csv",
    _found,
)
