"""From scans to cases: check, resample, store; in parallel, restartable."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from scipy import ndimage

from isanet_jax.cases.case import FORMAT, Case, read_meta, write_case
from isanet_jax.cases.grid import (
    AIR_HU,
    case_grid,
    outside_fraction,
    overlap_fraction,
    resample,
    resample_label,
    same_grid,
)
from isanet_jax.cases.head import find_head
from isanet_jax.datasets.layout import Scan
from isanet_jax.errors import DataError
from isanet_jax.volume import Volume, bounds_mm, read_volume

# SUV of the hottest organ (bladder) stays in the hundreds; activity in Bq/ml is in the thousands.
MAX_SUV = 1000.0
_LEAST_SUV = -50.0  # noise goes below 0; a CT goes to -1024
_LEAST_RANGE_HU = 50.0  # the noise of one tissue alone spans more
_LABEL_ROUNDING = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How cases are made.

    Attributes:
        size: voxels per axis.
        fit: `crop` or `resize`, see `isanet_jax.cases.grid.case_grid`.
        spacing_mm: voxel size of `crop`.
        label_values: values of the label that are tumour.
        other_values: values that are known and not tumour (HECKTOR: nodes beside the primary).
        region: `given`, the scan's box or else the CT's field; `head`, found on the PET where the
            scan has no box.
    """

    size: int = 144
    fit: str = "crop"
    spacing_mm: float = 1.0
    label_values: tuple[int, ...] = (1,)
    other_values: tuple[int, ...] = ()
    region: str = "given"


def read_images(scan: Scan) -> tuple[Volume, Volume]:
    """A scan's CT (HU) and PET (SUV) from NIfTI. Raises DataError, see `read_volume`."""
    return read_volume(scan.ct, case=scan.case), read_volume(scan.pet, case=scan.case)


def _read_scan(scan, settings, copies):
    """(CT, PET, label, warnings); of a DICOM study, written to the folder `copies`, too."""
    if scan.study is None:
        values, others = settings.label_values, settings.other_values
        label = read_label(scan.label, values, others, case=scan.case)
        return *read_images(scan), label, list(scan.warnings)
    from isanet_jax.dicom.convert import read_study, write_copies  # pydicom, where it is needed

    images = read_study(scan.study)
    if copies is not None:
        write_copies(copies / scan.case, images)
    return images.ct, images.pet, images.label, [*scan.warnings, *images.warnings]


def image_channels(scan: Scan, ct: Volume, pet: Volume, settings: Settings):
    """Checks and resamples one scan's images: the part that training and prediction share.

    Returns:
        ct: (D, H, W) int16, HU; pet: (D, H, W) float32, SUV; affine: (4, 4) of their grid;
        warnings: list of str.

    Raises:
        DataError: no overlap, or units that are not HU and SUV.
    """
    warnings = check_images(scan, ct, pet)
    box_mm = scan.box_mm
    if box_mm is None and settings.region == "head":
        box_mm, has_brain = find_head(pet)
        if not has_brain:
            warnings.append("no brain found on the PET: the box may miss the head")
    affine = case_grid(
        ct, size=settings.size, fit=settings.fit, spacing_mm=settings.spacing_mm, box_mm=box_mm
    )
    shape = (settings.size,) * 3
    field = bounds_mm(shape, affine)
    if overlap_fraction(field, bounds_mm(ct.data.shape, ct.affine)) == 0:
        raise DataError("the box lies outside the CT", case=scan.case, file=scan.ct)
    covered = overlap_fraction(field, bounds_mm(pet.data.shape, pet.affine))
    if covered < 0.5:
        warnings.append(f"PET covers only {covered:.0%} of the case's field")
    return *resample_images(ct, pet, shape, affine), affine, warnings


def resample_images(ct: Volume, pet: Volume, shape, affine) -> tuple[np.ndarray, np.ndarray]:
    """CT (int16, HU) and PET (float32, SUV) on a grid: air and no uptake outside their fields."""
    ct_case = resample(ct, shape, affine, order=1, fill=AIR_HU)
    # CT is whole HU; storing it so costs at most 0.5 HU of the interpolated value.
    ct_case = np.clip(np.rint(ct_case), -32768, 32767).astype(np.int16)
    return ct_case, resample(pet, shape, affine, order=1, fill=0.0)


def check_images(scan: Scan, ct: Volume, pet: Volume) -> list[str]:
    """Raises DataError on images that cannot be HU and SUV of one patient; returns warnings."""
    ct_box = bounds_mm(ct.data.shape, ct.affine)
    pet_box = bounds_mm(pet.data.shape, pet.affine)
    if overlap_fraction(ct_box, pet_box) == 0:
        raise DataError(
            f"CT ({_span(ct_box)}) and PET {scan.pet} ({_span(pet_box)}) do not overlap",
            case=scan.case,
            file=scan.ct,
            wanted="CT and PET of one patient in one frame of reference",
        )
    low, high = float(ct.data.min()), float(ct.data.max())
    if high - low < _LEAST_RANGE_HU or low >= 0 or high <= AIR_HU:
        raise DataError(
            f"CT values from {low:g} to {high:g}",
            case=scan.case,
            file=scan.ct,
            wanted="HU, where air is near -1000 and water 0",
            action="Export the CT with its rescale slope and intercept applied, not as a picture "
            "of grey values, and not scaled for another network",
        )
    low, high = float(pet.data.min()), float(pet.data.max())
    if low < _LEAST_SUV:
        raise DataError(
            f"PET values from {low:g} to {high:g}",
            case=scan.case,
            file=scan.pet,
            wanted="body-weight SUV, which is hardly below 0",
            action="This looks like HU: is it a CT?",
        )
    if high > MAX_SUV or high <= 0:
        raise DataError(
            f"PET values from {low:g} to {high:g}",
            case=scan.case,
            file=scan.pet,
            wanted=f"body-weight SUV, above 0 and below {MAX_SUV:g}",
            action="This looks like Bq/ml: multiply by weight in g over decay-corrected dose in Bq"
            if high > 0
            else "The image is empty",
        )
    return [f"PET has negative SUV (down to {low:.3g})"] if low < -0.1 else []


def _span(box):
    return ", ".join(
        f"{name} {a:.0f} to {b:.0f} mm" for name, a, b in zip("xyz", *box, strict=True)
    )


def read_label(path, values, others=(), *, case, placed=True) -> Volume:
    """Reads a mask file as bool, on its own grid.

    Args:
        path: NIfTI.
        values: that are tumour.
        others: that are known and not tumour.
        case: ID to name in errors.
        placed: see `isanet_jax.volume.read_volume`.

    Raises:
        DataError: unreadable, or with a value that is neither 0 nor in `values` or `others`, but
            for the rounding errors of a resampler.
    """
    label = read_volume(path, case=case, placed=placed)
    whole = np.rint(label.data)
    if np.abs(label.data - whole).max(initial=0) < _LABEL_ROUNDING:
        label = Volume(whole, label.affine, label.header)
    present = np.unique(label.data)
    unexpected = [v for v in present if v != 0 and v not in (*values, *others)]
    if unexpected:
        listed = ", ".join(f"{v:.9g}" for v in present[:10])
        raise DataError(
            f"label values {listed}{', ...' if len(present) > 10 else ''}",
            case=case,
            file=path,
            wanted=f"0 and {', '.join(map(str, (*values, *others)))}",
            action="Name the values that are tumour with --label-values",
        )
    return Volume(np.isin(label.data, values), label.affine, label.header)


def prepare_case(
    scan: Scan, settings: Settings, output: Path, *, copies: Path | None = None
) -> tuple[dict, bool]:
    """Makes one case file, or keeps it where it was made from the same files and settings.

    Args:
        scan: what it is made of.
        settings: how.
        output: folder of the case.
        copies: folder that gets a DICOM study as NIfTI, too; None: no copies.

    Returns:
        The case's meta, and whether it was made now.

    Raises:
        DataError: on bad input (see `image_channels`, `read_label`) or a failed write.
    """
    path = output / f"{scan.case}.npz"
    identity = {
        "format": FORMAT,
        "case": scan.case,
        "patient": scan.patient,
        "centre": scan.centre,
        "fold": scan.fold,
        "box_mm": None if scan.box_mm is None else scan.box_mm.tolist(),
        "settings": {
            **dataclasses.asdict(settings),
            "label_values": list(settings.label_values),
            "other_values": list(settings.other_values),
        },
        "sources": _sources(scan),
    }
    if path.exists():
        try:
            meta = read_meta(path)
        except DataError:
            meta = {}  # damaged or of another version: made anew
        has_copies = copies is None or scan.study is None or (copies / scan.case).is_dir()
        if identity.items() <= meta.items() and has_copies:
            return meta, False
    original, uptake, label, told = _read_scan(scan, settings, copies)
    ct, pet, affine, warnings = image_channels(scan, original, uptake, settings)
    warnings = [*told, *warnings]
    label_case = resample_label(label, ct.shape, affine)
    label_ct = (
        label.data
        if same_grid(label, original)
        else resample(label, original.data.shape, original.affine, order=0, fill=0)
    )
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    volume_ml = label_ct.sum() * abs(np.linalg.det(original.affine[:3, :3])) / 1000
    volume_case_ml = label_case.sum() * np.prod(spacing_mm) / 1000
    warnings += _label_warnings(label, label_case, volume_ml, affine, uptake)
    meta = {
        **identity,
        "spacing_mm": spacing_mm.tolist(),
        "affine": affine.tolist(),
        "ct_shape": list(original.data.shape),
        "ct_affine": original.affine.tolist(),
        "ct_hu": [float(original.data.min()), float(original.data.max())],
        "pet_suv": [float(uptake.data.min()), float(uptake.data.max())],
        "ct_header": original.header.hex() if original.header else "",
        "volume_ml": float(volume_ml),
        "volume_case_ml": float(volume_case_ml),
        "warnings": warnings,
    }
    write_case(path, Case(ct, pet, label_case.astype(np.uint8), meta), label_ct)
    return meta, True


def _lost_lesions(label, label_case, affine):
    """Volumes, in ml, of the label's 26-connected components that have no voxel on the case grid.

    A component is there if a voxel of the mask lies within a voxel of one of its own.
    """
    parts, _ = ndimage.label(label.data, np.ones((3, 3, 3)))
    near = ndimage.binary_dilation(label_case, np.ones((3, 3, 3)))
    to_case = np.linalg.inv(affine) @ label.affine
    voxels = np.argwhere(label.data)
    places = np.rint(voxels @ to_case[:3, :3].T + to_case[:3, 3]).astype(int)
    inside = ((places >= 0) & (places < label_case.shape)).all(1)
    is_kept = np.zeros(len(voxels), bool)
    is_kept[inside] = near[tuple(places[inside].T)]
    numbers = parts[tuple(voxels.T)]
    kept = np.unique(numbers[is_kept])
    sizes = np.bincount(numbers)
    ml = abs(np.linalg.det(label.affine[:3, :3])) / 1000
    return [size * ml for n, size in enumerate(sizes) if size and n not in kept]


def _label_warnings(label, label_case, volume_ml, affine, pet):
    if not label.data.any():
        return ["the label is empty"]
    warnings = []
    if (outside := outside_fraction(label, pet.data.shape, pet.affine)) > 0.01:
        warnings.append(f"{outside:.0%} of the tumour lies outside the PET")
    if not label_case.any():
        return [*warnings, f"the tumour ({volume_ml:.2f} ml) has no voxel on the case's grid"]
    if lost := _lost_lesions(label, label_case, affine):
        listed = ", ".join(f"{ml:.3f} ml" for ml in lost[:10])
        more = f" and {len(lost) - 10} more" if len(lost) > 10 else ""
        warnings.append(
            f"{len(lost)} lesion(s) of the label are lost on the case's grid ({listed}{more})"
        )
    if (outside := outside_fraction(label, label_case.shape, affine)) > 0.01:
        warnings.append(f"{outside:.0%} of the tumour lies outside the case's grid")
    return warnings


def _sources(scan):
    """What a case is made of: SHA-256 of the files; of a DICOM study, see `fingerprints`."""
    if scan.study is None:
        return {k: _sha256(getattr(scan, k), scan.case) for k in ("ct", "pet", "label")}
    from isanet_jax.dicom.convert import fingerprints

    return fingerprints(scan.study)


def _sha256(path, case):
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", case=case, file=path) from error
