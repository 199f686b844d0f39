"""The layouts in which raw scans are found, a file each.

To add one, put a file into this folder that says `DATASET = Dataset(...)`, see
`isanet_jax.datasets.layout.Dataset`.
"""

import importlib
import pkgutil
from pathlib import Path

from isanet_jax.datasets.layout import Dataset
from isanet_jax.errors import DataError


def find_datasets() -> dict[str, Dataset]:
    """Name -> dataset, of all files in this folder, in the order of their rank and name."""
    found = {}
    for file in pkgutil.iter_modules(__path__, f"{__name__}."):
        dataset = getattr(importlib.import_module(file.name), "DATASET", None)
        if dataset is None:
            continue
        if dataset.name in found:
            raise ImportError(f"{file.name}: there is a dataset {dataset.name!r} already")
        found[dataset.name] = dataset
    return dict(sorted(found.items(), key=lambda item: (item[1].rank, item[0])))


DATASETS = find_datasets()


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
