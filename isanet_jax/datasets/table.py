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


def read_table(source, *, images=PET_CT, with_label=True) -> list[Scan]:
    """The user's own files: a CSV with `case, ct, pet, label[, patient, centre, fold]`, or others.

    Paths are relative to the table. A box (`x1, x2, y1, y2, z1, z2`, LPS mm as in HECKTOR) may be
    given in further columns.

    Args:
        source: the CSV file.
        images: names of the images; each is a column.
        with_label: False for prediction: the label column may be missing and is ignored.

    Raises:
        DataError: no such file, a missing column or value, two cases with one ID, missing files.
    """
    source = Path(source)
    wanted = ("case", *images, *(["label"] if with_label else []))
    if not source.is_file():
        raise DataError(
            "no such table", file=source, wanted=f"a CSV with the columns {', '.join(wanted)}"
        )
    scans = []
    for number, row in enumerate(read_csv(source, wanted), start=2):
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
        has_box = all(value.get(name) for name in BOX_COLUMNS)
        scans.append(
            Scan(
                case,
                {name: source.parent / value[name] for name in images},
                source.parent / value["label"] if with_label else None,
                value.get("patient") or case,
                value.get("centre", ""),
                box_mm_of_row(value, case, source, number) if has_box else None,
                None if fold is None else int(fold),
            )
        )
    if not scans:
        raise DataError("no cases", file=source, wanted="one line per case below the header")
    return with_own_ids(scans)


DATASET = Dataset(
    "table",
    "your own files: CSV with case, ct, pet, label[, patient, ...]",
    lambda source: source.suffix.lower() == ".csv",
    lambda source, options: Found(read_table(source, images=options.images)),
)
