"""From scans to cases: check, resample, store; in parallel, restartable."""

import dataclasses
import hashlib
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
from scipy import ndimage

import isanet_jax
from isanet_jax.cases.case import FORMAT, Case, read_meta, write_case
from isanet_jax.cases.folds import make_folds
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
from isanet_jax.datasets.phantom import FIELD_MM, write_phantoms
from isanet_jax.datasets.sources import Scan, read_table
from isanet_jax.errors import DataError, failure_of
from isanet_jax.files import write_json
from isanet_jax.parallel import in_processes
from isanet_jax.volume import Volume, bounds_mm, read_volume

# SUV of the hottest organ (bladder) stays in the hundreds; activity in Bq/ml is in the thousands.
MAX_SUV = 1000.0
_LEAST_SUV = -50.0  # noise goes below 0; a CT goes to -1024
_LEAST_RANGE_HU = 50.0  # the noise of one tissue alone spans more
_LABEL_ROUNDING = 1e-3
_MANIFEST_KEYS = (
    *("case", "patient", "centre", "fold", "spacing_mm", "volume_ml", "volume_case_ml"),
    *("ct_shape", "ct_affine", "ct_hu", "pet_suv", "sources", "warnings"),
)


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


def image_channels(scan: Scan, ct: Volume, pet: Volume, settings: Settings):
    """Checks and resamples one scan's images: the part that training and prediction share.

    Returns:
        ct: (D, H, W) int16, HU; pet: (D, H, W) float32, SUV; affine: (4, 4) of their grid;
        warnings: list of str.

    Raises:
        DataError: no overlap, or units that are not HU and SUV.
    """
    warnings = [*scan.warnings, *check_images(scan, ct, pet)]
    box_mm = scan.box_mm
    if box_mm is None and settings.region == "head":
        box_mm, found = find_head(pet)
        if not found:
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
    found = np.unique(label.data)
    unexpected = [v for v in found if v != 0 and v not in (*values, *others)]
    if unexpected:
        listed = ", ".join(f"{v:.9g}" for v in found[:10])
        raise DataError(
            f"label values {listed}{', ...' if len(found) > 10 else ''}",
            case=case,
            file=path,
            wanted=f"0 and {', '.join(map(str, (*values, *others)))}",
            action="Name the values that are tumour with --label-values",
        )
    return Volume(np.isin(label.data, values), label.affine, label.header)


def prepare_case(scan: Scan, settings: Settings, output: Path) -> tuple[dict, bool]:
    """Makes one case file, or keeps it where it was made from the same files and settings.

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
        "sources": {k: _sha256(getattr(scan, k), scan.case) for k in ("ct", "pet", "label")},
    }
    if path.exists():
        try:
            meta = read_meta(path)
        except DataError:
            meta = {}  # damaged or of another version: made anew
        if identity.items() <= meta.items():
            return meta, False
    original, uptake = read_images(scan)
    ct, pet, affine, warnings = image_channels(scan, original, uptake, settings)
    label = read_label(scan.label, settings.label_values, settings.other_values, case=scan.case)
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
    found = np.zeros(len(voxels), bool)
    found[inside] = near[tuple(places[inside].T)]
    numbers = parts[tuple(voxels.T)]
    kept = np.unique(numbers[found])
    sizes = np.bincount(numbers)
    ml = abs(np.linalg.det(label.affine[:3, :3])) / 1000
    return [size * ml for n, size in enumerate(sizes) if size and n not in kept]


def _label_warnings(label, label_case, volume_ml, affine, pet):
    if not label.data.any():
        return ["the label is empty"]
    found = []
    if (outside := outside_fraction(label, pet.data.shape, pet.affine)) > 0.01:
        found.append(f"{outside:.0%} of the tumour lies outside the PET")
    if not label_case.any():
        return [*found, f"the tumour ({volume_ml:.2f} ml) has no voxel on the case's grid"]
    if lost := _lost_lesions(label, label_case, affine):
        listed = ", ".join(f"{ml:.3f} ml" for ml in lost[:10])
        more = f" and {len(lost) - 10} more" if len(lost) > 10 else ""
        found.append(
            f"{len(lost)} lesion(s) of the label are lost on the case's grid ({listed}{more})"
        )
    if (outside := outside_fraction(label, label_case.shape, affine)) > 0.01:
        found.append(f"{outside:.0%} of the tumour lies outside the case's grid")
    return found


def _sha256(path, case):
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", case=case, file=path) from error


def prepare(
    scans: list[Scan],
    settings: Settings,
    output,
    *,
    kind,
    folds,
    seed,
    workers,
    skip_bad=False,
    failures=None,
) -> list[dict]:
    """Makes every case, then the manifest and the folds.

    All cases are tried before an error ends the run, and finished cases are kept for the next.

    Args:
        scans: what to prepare.
        settings: how.
        output: folder of the cases.
        kind: name of the source's layout, for the manifest.
        folds, seed: see `isanet_jax.cases.folds.make_folds`.
        workers: processes; 1 runs in this one.
        skip_bad: write the manifest without the cases that failed, which are listed in it.
        failures: case -> reason, of what failed before it was a scan.

    Returns:
        The manifest's entries.

    Raises:
        DataError: cases that failed, with every reason, or an output folder of other cases.
    """
    output = Path(output)
    _check_folder(output, scans)
    before = failures or {}
    metas, failures = _make_all(scans, settings, output, workers) if scans else ([], {})
    failures = before | failures
    if failures and not (skip_bad and metas):
        total = len(scans) + len(before)
        raise DataError(
            "\n  ".join([f"{len(failures)} of {total} cases failed:", *failures.values()]),
            action="\nFinished cases are kept: mend these and run the same command again, or leave "
            "them out with --skip-bad",
        )
    metas.sort(key=lambda meta: meta["case"])
    fold_of = make_folds(metas, folds=folds, seed=seed)
    entries = [{key: meta[key] for key in _MANIFEST_KEYS} for meta in metas]
    packages = ("numpy", "scipy", "nibabel")
    manifest = {
        "format": FORMAT,
        "layout": kind,
        "versions": {
            "isanet_jax": isanet_jax.__version__,
            **{name: metadata.version(name) for name in packages},
        },
        "settings": metas[0]["settings"],
        "failed": failures,
        "cases": entries,
    }
    write_json(output / "folds.json", {"folds": folds, "seed": seed, "fold_of": fold_of})
    write_json(output / "manifest.json", manifest)
    return entries


def prepare_phantoms(output, *, cases, size, seed, folds=5, workers=1) -> list[dict]:
    """Makes phantoms in `output`/scans and prepares them into `output`; see `prepare`."""
    table = write_phantoms(Path(output) / "scans", cases=cases, seed=seed)
    settings = Settings(size=size, fit="crop", spacing_mm=FIELD_MM / size)
    scans = read_table(table)
    return prepare(scans, settings, output, kind="phantom", folds=folds, seed=seed, workers=workers)


def _check_folder(output, scans):
    """Refuses a folder with cases of another source; removes what a killed run left half done."""
    for unfinished in output.glob(".*.part*"):
        unfinished.unlink(missing_ok=True)
    others = sorted({p.stem for p in output.glob("*.npz")} - {scan.case for scan in scans})
    if others:
        raise DataError(
            f"holds cases that are not in the source: {', '.join(others[:5])}",
            file=output,
            action="Choose another --output, or delete these files",
        )


def _make_all(scans, settings, output, workers):
    """(metas, failures by case); prints a progress bar and each warning."""
    from tqdm import tqdm  # here: workers need not import it

    metas, failures = [], {}
    with tqdm(total=len(scans), unit="case", disable=None, file=sys.stderr) as bar:

        def collect(scan, outcome):
            try:
                meta, _ = outcome()
                metas.append(meta)
                for warning in meta["warnings"]:
                    bar.write(f"warning: case {scan.case}: {warning}", file=sys.stderr)
            except Exception as error:
                error = failure_of(error, scan.case, output / "errors.log")
                failures[scan.case] = str(error)
                bar.write(f"error: {error}", file=sys.stderr)
            bar.update()

        make = partial(prepare_case, settings=settings, output=output)
        for scan, outcome in in_processes(make, scans, workers):
            collect(scan, outcome)
    return metas, failures
