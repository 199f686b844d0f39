"""From scans to cases: check, resample, store; in parallel, restartable."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from isanet_jax.cases.case import (
    FORMAT,
    SUFFIX,
    Case,
    StoredCase,
    directory_digest,
    read_meta,
    write_case,
)
from isanet_jax.cases.doubts import doubts_of_scan
from isanet_jax.cases.grid import (
    resample,
    resample_label,
    same_grid,
)
from isanet_jax.cases.identity import arrays_digest, content_digest
from isanet_jax.cases.images import image_channels, image_statistics, read_images
from isanet_jax.cases.label import bits_of_masks, check_place, label_warnings, read_label
from isanet_jax.cases.preparation import Settings
from isanet_jax.classes import class_mask
from isanet_jax.datasets.layout import Scan
from isanet_jax.errors import DataError
from isanet_jax.volume import Volume

_SAMPLES = 10_000  # voxels of a class that a patch may be centred on


def _read_scan(scan, settings, copies):
    """(images, label of bits, warnings); of a DICOM study, written to the folder `copies`, too."""
    if scan.study is None:
        label = read_label(scan.label, settings.classes, case=scan.case)
        return read_images(scan, settings.images), label, list(scan.warnings)
    from isanet_jax.dicom.convert import read_study, write_copies  # pydicom, where it is needed

    images = read_study(scan.study)
    if copies is not None:
        write_copies(copies / scan.case, images)
    label = bits_of_masks(images.masks, settings.classes)
    return images.volumes, label, [*scan.warnings, *images.warnings]


def prepare_case(
    scan: Scan,
    settings: Settings,
    output: Path,
    *,
    copies: Path | None = None,
    entries: Mapping[str, dict] = MappingProxyType({}),
) -> tuple[dict, bool]:
    """Makes one case file, or keeps it where it was made from the same files and settings.

    Args:
        scan: what it is made of.
        settings: how.
        output: folder of the case.
        copies: folder that gets a DICOM study as NIfTI, too; None: no copies.
        entries: case -> what the manifest that is there says of it. A file that was changed since
            is made anew.

    Returns:
        The case's meta with its file's `directory`, and whether it was made now.

    Raises:
        DataError: on bad input (see `image_channels`, `read_label`) or a failed write.
    """
    path = output / f"{scan.case}{SUFFIX}"
    identity = {
        "format": FORMAT,
        "case": scan.case,
        "patient": scan.patient,
        "centre": scan.centre,
        "fold": scan.fold,
        "box_mm": None if scan.box_mm is None else scan.box_mm.tolist(),
        "settings": settings.to_json(),
        "sources": _sources(scan, settings),
    }
    if path.exists():
        try:
            meta = read_meta(path)
        except DataError:
            meta = {}  # damaged or of another version: recreated
        has_copies = copies is None or scan.study is None or (copies / scan.case).is_dir()
        is_same = identity.items() <= meta.items() and has_copies
        if is_same and (kept := _kept(path, meta, entries.get(scan.case), scan, settings)):
            return kept, False
    volumes, label, told = _read_scan(scan, settings, copies)
    check_place(scan, label, volumes, settings)
    images, affine, warnings = image_channels(scan, volumes, settings)
    reference = next(iter(volumes.values()))
    shape = next(iter(images.values())).shape
    label_case = resample_label(label, shape, affine)
    label_reference = (
        label.data
        if same_grid(label, reference)
        else resample(label, reference.data.shape, reference.affine, order=0, fill=0)
    )
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    classes = settings.classes
    tumour = Volume(classes.any_of(label.data), label.affine)
    warnings += doubts_of_scan(volumes, tumour, settings.images)
    warnings += label_warnings(label, label_case, affine, volumes, settings)
    ml = reference.voxel_ml
    case_ml = float(np.prod(spacing_mm) / 1000)
    volumes_ml = {name: n * ml for name, n in _voxels(label_reference, classes).items()}
    volumes_case_ml = {name: n * case_ml for name, n in _voxels(label_case, classes).items()}
    meta = {
        **identity,
        "spacing_mm": spacing_mm.tolist(),
        "affine": affine.tolist(),
        "shape": list(shape),
        "reference_shape": list(reference.data.shape),
        "reference_affine": reference.affine.tolist(),
        "reference_header": reference.header.hex() if reference.header else "",
        "images": _describe(volumes, images, classes.any_of(label_case), settings),
        "volume_ml": int(np.count_nonzero(classes.any_of(label_reference))) * ml,
        "volume_case_ml": int(np.count_nonzero(classes.any_of(label_case))) * case_ml,
        "volumes_ml": volumes_ml,
        "volumes_case_ml": volumes_case_ml,
        "warnings": told + warnings,
        "content": content_digest(reference),
        "digest": _digest(images, label_case, label_reference),
    }
    samples = {
        name: _draw(class_mask(label_case, index)) for index, name in enumerate(classes.names)
    }
    write_case(path, Case(images, label_case, meta), label_reference, samples)
    return meta | {"directory": directory_digest(path)}, True


def _digest(images, label, label_reference):
    return arrays_digest({**images, "label": label, "label_reference": label_reference})


def _kept(path, meta, entry, scan, settings):
    """The meta of a file that is kept; None where it is not what it was when it was made."""
    try:
        directory = directory_digest(path)
        is_of_entry = entry is not None and entry.get("sources") == meta["sources"]
        if is_of_entry and entry.get("directory", directory) != directory:
            return None
        stored = StoredCase(path)
        if "digest" not in meta:  # of before there was one
            case, label = stored.read(), stored.label_on_reference().data
            meta |= {"digest": _digest(case.images, case.label, label)}
    except DataError:
        return None
    if "content" not in meta:
        first = next(iter(settings.images))
        if scan.study is None:
            images = read_images(scan, {first: settings.images[first]})
        else:
            images = _read_scan(scan, settings, None)[0]
        meta |= {"content": content_digest(images[first])}
    return meta | {"directory": directory}


def _voxels(bits, classes):
    """Class -> its voxels in a label of bits."""
    return {
        name: int(np.count_nonzero(class_mask(bits, index)))
        for index, name in enumerate(classes.names)
    }


def _describe(volumes, images, tumour, settings):
    """Returns the kind, range of values and statistics of each image.

    `of_tumour` are the percentiles 0, 1, ..., 100 of the voxels of any class; none without.
    """
    statistics = image_statistics(images, settings)
    return {
        name: {
            "kind": settings.images[name],
            "range": [float(volume.data.min()), float(volume.data.max())],
            "mean": statistics[name][0],
            "sd": statistics[name][1],
            "of_tumour": _percentiles(images[name][tumour]),
        }
        for name, volume in volumes.items()
    }


def _percentiles(values):
    if not values.size:
        return []
    return np.round(np.percentile(values.astype(np.float32), range(101)), 3).tolist()


def _draw(mask):
    """(n, 3) int32: voxels of a mask, at most as many as patches need; always the same ones."""
    voxels = np.argwhere(mask).astype(np.int32)
    if len(voxels) > _SAMPLES:
        chosen = np.random.default_rng(0).choice(len(voxels), _SAMPLES, replace=False)
        voxels = voxels[np.sort(chosen)]
    return voxels


def _sources(scan, settings):
    """What a case is made of: SHA-256 of the files; of a DICOM study, see `fingerprints`."""
    if scan.study is None:
        paths = {name: scan.image(name) for name in settings.images} | {"label": scan.label}
        return {name: _sha256(path, scan.case) for name, path in paths.items()}
    from isanet_jax.dicom.convert import fingerprints

    return fingerprints(scan.study)


def _sha256(path, case):
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", case=case, file=path) from error
