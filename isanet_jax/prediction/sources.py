"""What there is to predict in a source: DICOM studies, NIfTI files, a table, nnU-Net's images."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from isanet_jax.datasets.layout import CASE_ID, Found, Scan, with_own_ids
from isanet_jax.datasets.nnunet import channel_numbers
from isanet_jax.datasets.table import read_table
from isanet_jax.dicom import is_dicom
from isanet_jax.errors import DataError, some
from isanet_jax.files import files_below
from isanet_jax.kinds import shown
from isanet_jax.nifti import NIFTI_SUFFIXES

# Words of a file's name by which it is an image of a kind, the better first.
_WORDS = {"ct": ("ct", "ctres"), "pet": ("suv", "pet", "pt", "suvbw")}
_VAIN = ("image", "img", "volume", "nii", "hu", "suv", "resampled")  # that name no case
_MASKS = ("mask", "seg", "label", "labels", "gtv", "roi", "prediction")  # that are no images
_NUMBER = re.compile(r"(.+)_(\d{4})")  # nnU-Net: CASE_0000


def find_scans(
    sources: Sequence, kinds: Mapping[str, str], *, series=(), keep_identity=False, progress=None
) -> Found:
    """The scans of a source, named by study or file.

    Args:
        sources: a DICOM folder or archive of one or many studies; a folder of NIfTI files, of
            which `X_CT` and `X_PET`, `X_0000` and `X_0001` (nnU-Net) or `ct` and `pet` in a folder
            X are those of a scan; a table; or the NIfTI files of one scan, in the images' order.
        kinds: of the images that are needed, by name, in their order.
        series: Series Instance UIDs to take where several of a study would do.
        keep_identity: name DICOM scans by their Patient IDs, also where these are not marked as
            de-identified.
        progress: called with an iterable of files, returns it with a progress bar; or None.

    Returns:
        the scans, and case -> reason of what lacks an image.

    Raises:
        DataError: nothing that is there can be read.
    """
    paths = [Path(source) for source in sources]
    for path in paths:
        if not path.exists():
            raise DataError("does not exist", file=path, wanted="scans to predict")
    first = paths[0]
    if len(paths) > 1:
        return _one_by_files(paths, kinds)
    if first.suffix.lower() == ".csv":
        return Found(with_own_ids(read_table(first, images=kinds, with_label=False)))
    if _is_nifti(first):
        raise DataError(
            "is one image",
            file=first,
            wanted=" and ".join(shown(*item) for item in kinds.items()),
            action=f"Give them one after another: -i {' '.join(name.upper() for name in kinds)}",
        )
    if first.is_dir():
        files = [path for path in files_below(first) if _is_nifti(path)]
        if files:
            return _of_nifti(first, files, kinds)
    return _of_dicom(first, kinds, series, keep_identity, progress)


def _is_nifti(path):
    return path.is_file() and path.name.lower().endswith(NIFTI_SUFFIXES)


def _one_by_files(paths, kinds):
    if len(paths) != len(kinds):
        raise DataError(
            f"{len(paths)} images", file=paths[0], wanted=f"{len(kinds)}: {', '.join(kinds)}"
        )
    path = paths[0]
    name = _case_of(path)[0] if _is_nifti(path) else path.name.removesuffix(".zip")
    case = _as_id(name or path.resolve().parent.name)
    return Found([Scan(case, dict(zip(kinds, paths, strict=True)), None, case)])


def _of_dicom(source, kinds, series, keep_identity, progress):
    if source.is_file() and not is_dicom(source):
        raise DataError("is neither DICOM, an archive of it, NIfTI nor a table", file=source)
    from isanet_jax.dicom.series import find_series
    from isanet_jax.dicom.studies import Asked, find_studies

    asked = Asked(images=kinds, chosen=frozenset(series), labelled=False)
    asked.check()
    found, _ = find_series(source, progress=progress)
    studies, failures, left = find_studies(found, asked, keep_identity=keep_identity)
    if not studies and not failures:
        raise DataError(
            "; ".join(["no study with an image of these", *left]),
            file=source,
            wanted=" and ".join(shown(*item) for item in kinds.items()),
        )
    scans = [
        Scan(
            study.case,
            {name: one.files[0].path.parent for name, one in study.images.items()},
            None,
            study.patient,
            study=study,
        )
        for study in studies
    ]
    return Found(scans, failures, tuple(f"left {text}" for text in left))


def _of_nifti(source, files, kinds):
    """Scans of a folder's NIfTI files, put together by their names."""
    groups = {}
    for path in files:
        name, image = _case_of(path)
        if image is not None:
            groups.setdefault((path.parent, name), {}).setdefault(image, path)
    count = Counter(name for _, name in groups)
    by_number = any(isinstance(image, int) for images in groups.values() for image in images)
    numbers = _numbers_of(source, kinds) if by_number else dict.fromkeys(kinds, -1)
    scans, failures = [], {}
    for (folder, name), images in sorted(groups.items(), key=lambda item: str(item[0])):
        own = str(folder.relative_to(source)) if folder != source else source.resolve().name
        several = count[name] > 1 and folder != source
        case = _as_id(f"{own}_{name}" if name and several else name or own)
        chosen = _choose(images, kinds, numbers)
        lacking = [shown(name, kinds[name]) for name in kinds if name not in chosen]
        if len(lacking) == len(kinds):
            continue  # a mask, or an image that is not asked for
        if lacking:
            failures[case] = f"no {' and no '.join(lacking)} in {folder}"
        else:
            scans.append(Scan(case, chosen, None, case))
    if not scans and not failures:
        raise DataError(
            f"NIfTI files whose names do not say what they are, such as "
            f"{some(path.name for path in files)}",
            file=source,
            wanted=f"CASE_{' and CASE_'.join(name.upper() for name in kinds)}, nnU-Net's "
            "CASE_0000, or a folder for each case",
            action="Or list them in a table: case," + ",".join(kinds),
        )
    return Found(with_own_ids(scans), failures)


def _case_of(path):
    """(what a file's name says of its case, of which image: a word or a number; None: of none)."""
    stem = path.name
    for suffix in NIFTI_SUFFIXES:
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) else stem
    if match := _NUMBER.fullmatch(stem):
        return match[1], int(match[2])
    parts = re.split(r"([^A-Za-z0-9]+)", stem)
    known = {word for words in _WORDS.values() for word in words} | {"t1", "t2", "flair"}
    here = [i for i in range(0, len(parts), 2) if parts[i].lower() in known]
    if not here or any(part.lower() in _MASKS for part in parts):
        return stem, None
    best = max(here)  # PET-CT_7_SUV is a PET of PET-CT_7
    said = {best}  # with what stands beside it: ct_hu, pet_suv, CT_image
    for step in (-2, 2):
        at = best + step
        while 0 <= at < len(parts) and parts[at].lower() in (known | set(_VAIN)):
            said.add(at)
            at += step
    kept = "".join(part for i, part in enumerate(parts) if i not in said)
    return kept.strip("_.- "), parts[best].lower()


def _numbers_of(source, kinds):
    """Image -> its channel in nnU-Net's names: as dataset.json says, else in the model's order."""
    for folder in (source, source.parent):
        if (folder / "dataset.json").is_file():
            return channel_numbers(folder, kinds)
    return {name: number for number, name in enumerate(kinds)}


def _choose(images, kinds, numbers):
    """Name -> the file of each image that is there."""
    chosen = {}
    for name, kind in kinds.items():
        words = (*_WORDS.get(kind, ()), name, name.removeprefix("mr_"), numbers[name])
        fitting = [images[word] for word in words if word in images]
        if fitting:
            chosen[name] = fitting[0]
    return chosen


def _as_id(text):
    """A case's ID of a name."""
    if CASE_ID.fullmatch(text):
        return text
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).lstrip(".-")[:100] or "scan"
