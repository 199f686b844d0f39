"""The layouts in which raw scans are found, a file each.

To add one, write a file that says `DATASET = Dataset(...)` (`isanet_jax.datasets.layout.Dataset`),
into this folder or anywhere (see `isanet_jax.registry`).
"""

import dataclasses
import logging
from pathlib import Path

from isanet_jax.classes import TUMOUR, Classes, class_values
from isanet_jax.datasets.hecktor import TARGETS
from isanet_jax.datasets.layout import Dataset, Found, Options, check_files
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.registry import Registry

_log = logging.getLogger(__name__)

__all__ = ["DATASETS", "TARGETS", "Dataset", "Found", "check_files", "classes_of", "read"]


def _named(dataset: Dataset) -> dict[str, Dataset]:
    return {dataset.name: dataset}


# Asked in this order, by rank and name, which of them a source is.
DATASETS: Registry = Registry(
    "DATASET", __name__, entries=_named, order=lambda item: (item[1].rank, item[0])
)


def recognise(source) -> str:
    """Which layout a source has: a key of `DATASETS`.

    Raises:
        DataError: none of them.
    """
    source = Path(source)
    for name, dataset in DATASETS.items():
        if dataset.recognises(source):
            return name
    raise DataError(
        "no layout that is known",
        file=source,
        wanted="HECKTOR 2020 to 2026, STS, an nnU-Net raw dataset, DICOM, or a table (.csv)",
        action="List your files in a CSV with case, ct, pet, label",
    )


def read(source, layout=None, options: Options | None = None) -> tuple[str, Found]:
    """(its layout, what its reader finds); notes are printed, failures to stderr.

    Args:
        source: a folder, or a CSV.
        layout: a key of `DATASETS`; None: recognised, and printed.
        options: of DICOM.

    Raises:
        ConfigError: no such layout.
        DataError: none is recognised, or the source cannot be read.
    """
    if layout is None:
        layout = recognise(source)
        _log.info(f"{source}: {layout}")
    if layout not in DATASETS:
        raise ConfigError(f"there is no layout {layout!r}; choose from {', '.join(DATASETS)}")
    listing = DATASETS[layout].read(Path(source), options or Options())
    for text in listing.notes:
        _log.info(text)
    for reason in listing.failures.values():
        _log.error(f"error: {reason}")
    return layout, listing


def classes_of(
    dataset, source, scans, *, values=None, target=None, classes=None, ignore=(), codes=None
) -> Classes:
    """What the values of the labels stand for.

    Args:
        dataset: of `DATASETS`; answers where nothing is asked for.
        source, scans: what it answers for.
        values: those that are tumour, one class.
        target: of HECKTOR 2022 and later: a key of `TARGETS`, one class.
        classes: name -> values, several classes; of DICOM, name -> names of regions.
        ignore: values of voxels that nothing is known of.
        codes: name -> `isanet_jax.classes.Code` of its segments; others are the dataset's.

    Raises:
        ConfigError: several of them are given, no such target, classes that cannot be, or what
            DICOM, which has regions, does not have.
    """
    if sum(map(bool, (values, target, classes))) > 1:
        raise ConfigError("give label values, a target or classes, and not several of them")
    is_dicom = any(scan.study is not None for scan in scans)
    if is_dicom and (values or ignore or target):
        raise ConfigError(
            "--label-values, --target and --ignore are for masks with values, as NIfTI; regions "
            "of DICOM are named by --roi, or class by class: --classes gtvp=NAME gtvn=NAME,NAME"
        )
    if target and target not in TARGETS:
        raise ConfigError(f"there is no target {target!r}; choose from {', '.join(TARGETS)}")
    own = TARGETS[target] if target else dataset.classes(source, scans)
    ignore = tuple(ignore) or own.ignore
    if is_dicom:
        chosen = {name: (number,) for number, name in enumerate(classes or (TUMOUR,), start=1)}
        found = Classes(chosen)
    elif values or classes:
        chosen = class_values(classes) if classes else {TUMOUR: tuple(values)}
        taken = {*ignore, *(v for of_class in chosen.values() for v in of_class)}
        # What the dataset knows and nothing was asked of stands in the labels all the same.
        known = {*own.others, *(v for of_class in own.values.values() for v in of_class)}
        found = Classes(chosen, ignore, tuple(sorted(known - taken)) if classes else ())
    else:
        found = Classes(own.values, ignore, own.others)
    known = {name: code for name, code in dataset.codes.items() if name in found.values}
    return dataclasses.replace(found, codes=known | dict(codes or {}))
