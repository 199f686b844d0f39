"""DICOM in any folders or zip archives: CT, PET and a structure set or segmentation."""

import itertools
from pathlib import Path

from isanet_jax.datasets.layout import PET_CT, Dataset, Found, Options, Scan
from isanet_jax.dicom import is_dicom
from isanet_jax.errors import ConfigError, DataError

_FILES_LOOKED_AT = 2000


def read_studies(source, options: Options) -> Found:
    """Every study below a folder that has a CT, a PET and the region.

    Their images are read by who prepares them: see `isanet_jax.dicom.convert.read_study`.

    Raises:
        ConfigError: other images than CT and PET.
        DataError: no DICOM, or no study with a CT and a PET.
    """
    if dict(options.images) != dict(PET_CT):
        raise ConfigError(
            f"images {', '.join(options.images)} of DICOM: a study gives its CT and its PET; "
            "convert it, and list the files in a table"
        )
    from isanet_jax.dicom.series import find_series
    from isanet_jax.dicom.studies import find_studies

    series, left = find_series(source, progress=options.progress)
    studies, failures, incomplete = find_studies(
        series,
        options.regions,
        keep_identity=options.keep_identity,
        chosen=options.series,
        unite=options.unite,
    )
    notes = [f"left {count} files: {reason}" for reason, count in left.items()]
    notes += [f"left {text}" for text in incomplete]
    if not studies and not failures:
        raise DataError(
            "; ".join(["no study with a CT and a PET series", *notes]),
            file=source,
            wanted="both, in one study or one frame of reference",
        )
    notes += [f"{study.case}: {study.describe()}" for study in studies]
    return Found([_scan(study) for study in studies], failures, tuple(notes))


def _scan(study):
    ct, pet, label = (s.files[0].path for s in (study.ct, study.pet, study.structures))
    images = {"ct": ct.parent, "pet": pet.parent}
    return Scan(study.case, images, label, study.patient, study=study)


def _recognises(source):
    paths = (p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
    some = itertools.islice(paths, _FILES_LOOKED_AT)
    return any(path.is_file() and is_dicom(path) for path in some)


DATASET = Dataset(
    "dicom",
    "DICOM in any folders or zip archives: CT, PET and RTSTRUCT or SEG",
    _recognises,
    lambda source, options: read_studies(Path(source), options),
    rank=3,
)
