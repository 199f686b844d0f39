"""DICOM in any folders or zip archives: CT, PET, MR and a structure set or segmentation."""

import itertools
from pathlib import Path

from isanet_jax.datasets.layout import Dataset, Found, Options, Scan
from isanet_jax.dicom import is_dicom
from isanet_jax.errors import DataError
from isanet_jax.files import files_below

_FILES_LOOKED_AT = 2000


def read_studies(source, options: Options) -> Found:
    """Every study below a folder that has the images and the regions.

    Their images are read by who prepares them: see `isanet_jax.dicom.convert.read_study`.

    Raises:
        ConfigError: images that DICOM cannot be asked for.
        DataError: no DICOM, or no study with the images.
    """
    from isanet_jax.dicom.series import find_series
    from isanet_jax.dicom.studies import Asked, find_studies

    asked = Asked(
        options.images, options.regions, options.unite, options.classes, frozenset(options.series)
    )
    asked.check()
    series, left = find_series(source, progress=options.progress)
    studies, failures, incomplete = find_studies(series, asked, keep_identity=options.keep_identity)
    notes = [f"left {count} files: {reason}" for reason, count in left.items()]
    notes += [f"left {text}" for text in incomplete]
    if not studies and not failures:
        wanted = " and ".join(f"a {kind}" for kind in sorted(asked.kinds))
        raise DataError(
            "; ".join([f"no study with {wanted} series", *notes]),
            file=source,
            wanted="them in one study or one frame of reference",
        )
    notes += [f"{study.case}: {study.describe()}" for study in studies]
    return Found([_scan(study) for study in studies], failures, tuple(notes))


def _scan(study):
    images = {name: series.files[0].path.parent for name, series in study.images.items()}
    label = study.structures.files[0].path
    return Scan(study.case, images, label, study.patient, study=study)


def _recognises(source):
    paths = files_below(source) if source.is_dir() else [source]
    some = itertools.islice(paths, _FILES_LOOKED_AT)
    return any(path.is_file() and is_dicom(path) for path in some)


DATASET = Dataset(
    "dicom",
    "DICOM in any folders or zip archives: CT, PET, MR, and RTSTRUCT or SEG",
    _recognises,
    lambda source, options: read_studies(Path(source), options),
    rank=3,
)
