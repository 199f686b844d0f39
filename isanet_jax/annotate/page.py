"""What the reader's page asks of a desk: cases, clicks, measures, masks, in the page's own axes."""

import zlib
from collections.abc import Mapping

import nibabel
import numpy as np
from nibabel.affines import apply_affine

from isanet_jax.annotate.desk import Desk
from isanet_jax.annotate.tools import threshold_in_sphere
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.evaluation.page import (
    key_of,
    measures_of,
    pack_scan,
    packed,
    page_text,
    to_page,
)
from isanet_jax.evaluation.predicted import summary_of
from isanet_jax.kinds import pet_name
from isanet_jax.nifti import read_volume
from isanet_jax.prediction.formats import of_dicom
from isanet_jax.prediction.result import Prediction
from isanet_jax.prediction.rules import default_rules
from isanet_jax.quantify.lesions import lesions
from isanet_jax.volume import Volume

MOST_VOXELS = 64_000_000  # of a scan that a browser edits


def text(desk: Desk) -> str:
    """The page."""
    done = set(desk.labels.cases("final"))
    cases = [{"name": case, "score": float(case in done)} for case in desk.scans]
    return page_text(title="Annotation", cases=cases, edits=True)


def data(desk: Desk, case: str) -> dict:
    """A case as the page shows it: the draft, else the last mask, else the network's, else none.

    Raises:
        DataError: no such case, or one that is too large for a browser.
    """
    images, grid = desk.images(case), desk.grid(case)
    if grid.data.size > MOST_VOXELS:
        raise DataError(
            f"{grid.data.size / 1e6:.0f} million voxels", case=case,
            wanted=f"at most {MOST_VOXELS / 1e6:.0f} million in the page",
            action="Use 3D Slicer with this server",
        )  # fmt: skip
    versions, draft = desk.labels.versions(case), desk.labels.draft(case)
    warnings, values = [], None
    if draft is not None:
        values = read_volume(draft, case=case).data
    elif versions:
        values = read_volume(versions[-1].path, case=case).data
    elif desk.predictor is not None:
        found = desk.prediction(case)
        values, warnings = found.labels, list(found.warnings)
    else:
        values = np.zeros(grid.data.shape, np.uint8)
    masks = masks_of(desk, values)
    told = _measured(desk, case, masks) | {
        "warnings": warnings,
        "version": versions[-1].number if versions else 0,
        "versions": [{n: v for n, v in one._asdict().items() if n != "path"} for one in versions],
        "classes": dict(desk.classes.written),
        "values": {name: _values(desk, name) for name in desk.classes.names},
        "draft": draft is not None,
        "has_network": desk.predictor is not None,
        "formats": of_dicom() if images.slices is not None else [],
    }
    content = pack_scan(images.volumes, images.kinds, masks, told=told, most=MOST_VOXELS)
    return content | {"lesions": told["lesions"]}


def _values(desk, name):
    """The values of a mask that are a class's: of nested ones, its parts', too."""
    if len(desk.classes.names) == 1:
        return [1]
    return list(desk.classes.values[name])


def masks_of(desk: Desk, values: np.ndarray) -> dict[str, np.ndarray]:
    """Class -> bool, of a mask of values."""
    return {name: np.isin(values, _values(desk, name)) for name in desk.classes.names}


def turned(desk: Desk, case: str, array: np.ndarray) -> np.ndarray:
    """An array of the case's grid in the page's axes."""
    return nibabel.apply_orientation(array, to_page(desk.grid(case).affine))


def back(desk: Desk, case: str, content: bytes) -> np.ndarray:
    """A mask of values from the page, gzipped bytes in its axes, on the case's grid.

    Raises:
        DataError: bytes that are none of this case, or values that are no class.
    """
    grid = desk.grid(case)
    shape = turned(desk, case, np.empty(grid.data.shape, bool)).shape
    unpacker = zlib.decompressobj(wbits=31)  # no more than the mask is unpacked
    try:
        array = np.frombuffer(unpacker.decompress(content, grid.data.size + 1), np.uint8)
    except zlib.error as error:
        raise DataError(f"is no mask ({error})", case=case) from error
    if array.size != grid.data.size:
        raise DataError(f"a mask of {array.size} voxels", case=case, wanted=f"{grid.data.size}")
    known = {0, *desk.classes.written.values()}
    if unknown := set(np.unique(array).tolist()) - known:
        raise DataError(f"the values {sorted(unknown)}", case=case, wanted=f"of {sorted(known)}")
    own, on_page = nibabel.io_orientation(grid.affine), nibabel.orientations.axcodes2ornt("SPL")
    inverse = nibabel.orientations.ornt_transform(on_page, own)
    return np.ascontiguousarray(nibabel.apply_orientation(array.reshape(shape), inverse))


def _measured(desk, case, masks):
    """Lesions with their measures, each at one of its own voxels, and the patient's summary."""
    images, grid = desk.images(case), desk.grid(case)
    pet = images.volumes.get(pet_name(images.kinds))
    change = to_page(grid.affine)
    to_axes = np.linalg.inv(nibabel.orientations.inv_ornt_aff(change, grid.data.shape))
    found = []
    for name, mask in masks.items():
        voxels = np.argwhere(mask)
        for row in lesions(Volume(mask, grid.affine), pet, images.person):
            ras = np.array([-row["x_mm"], -row["y_mm"], row["z_mm"]])
            at = apply_affine(np.linalg.inv(grid.affine), ras)
            nearest = voxels[np.square(voxels - at).sum(1).argmin()]
            key = key_of(name, row, len(masks) > 1)
            centre = np.rint(apply_affine(to_axes, nearest)).astype(int).tolist()
            found.append(
                {"class": name, "what": "found", "key": key, "label": key}
                | {"measures": measures_of(row), "centre": centre}
            )
    everything = np.logical_or.reduce(list(masks.values()))
    rows = lesions(Volume(everything, grid.affine), pet, images.person)
    return {"lesions": found, "summary": summary_of(rows, images.person)}


def measure(desk: Desk, case: str, content: bytes) -> dict:
    """Lesions and summary of a mask that is being edited."""
    return _measured(desk, case, masks_of(desk, back(desk, case, content)))


def click(desk: Desk, case: str, asked: Mapping) -> dict:
    """The lesion at a place of the page: by a share of SUVmax, an SUV, or the network.

    Args:
        desk: of the case.
        case: which.
        asked: `place` (3 voxels of the page), `by` (share, suv, network), `value` (percent, SUV,
            percent of probability), `radius_mm`; of a model that takes clicks, `class` and
            `clicks`, all of them so far: `place` and `here`.

    Returns:
        `mask`; `whole`: it is all of the class, and not what is added; `within`: where it is said,
        of a whole body.

    Raises:
        ConfigError, DataError: what cannot be.
    """
    grid = desk.grid(case)
    try:
        place = [int(n) for n in asked["place"]]
        value, radius_mm = float(asked["value"]), float(asked["radius_mm"])
        by = str(asked["by"])
        if len(place) != 3 or by not in ("share", "suv", "network"):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("is no click", case=case, wanted="place, by, value, radius_mm") from error
    change = to_page(grid.affine)
    inverse = nibabel.orientations.inv_ornt_aff(change, grid.data.shape)
    own = np.rint(apply_affine(inverse, place)).astype(int)
    if (own < 0).any() or (own >= grid.data.shape).any():
        raise DataError(f"a click at {place}", case=case, wanted="a voxel of the scan")
    ras = apply_affine(grid.affine, own)
    pet = desk.images(case).volumes.get(pet_name(desk.kinds))
    if by == "network":
        points = {True: [], False: []}
        for one in asked.get("clicks") or []:
            at = apply_affine(grid.affine, apply_affine(inverse, np.asarray(one["place"], float)))
            points[bool(one["here"])].append(at)
        name = asked.get("class") or desk.classes.names[0]
        if desk.is_of_bodies:
            clicks = {name: (points[True], points[False])}
            both = desk.near(case, ras, clicks, name)
            mask, inside = (packed(np.packbits(turned(desk, case, one))) for one in both)
            return {"mask": mask, "whole": True, "within": inside}
        found = desk.guided(case, points[True], points[False], name=name)
        mask = found.data == desk.classes.written[name]
        return {"mask": packed(np.packbits(turned(desk, case, mask))), "whole": True}
    if pet is None:
        raise ConfigError("there is no PET to threshold")
    how = {"share": value / 100} if by == "share" else {"share": None, "least_suv": value}
    mask = threshold_in_sphere(pet, grid, ras, radius_mm=radius_mm, **how)
    return {"mask": packed(np.packbits(turned(desk, case, mask)))}


def version(desk: Desk, case: str, number: int) -> dict:
    """An earlier mask, in the page's axes."""
    found = next((one for one in desk.labels.versions(case) if one.number == number), None)
    if found is None:
        raise DataError(f"has no version {number}", case=case)
    values = read_volume(found.path, case=case).data.astype(np.uint8)
    return {"label": packed(turned(desk, case, values))}


def as_prediction(desk: Desk, case: str) -> Prediction:
    """The case's draft, or its last mask, as what `save` writes in every format.

    Raises:
        DataError: it has none.
    """
    latest = desk.labels.latest(case)
    path = desk.labels.draft(case) or (latest and latest.path)
    if path is None:
        raise DataError("has no mask", case=case)
    values, images, grid = read_volume(path, case=case).data, desk.images(case), desk.grid(case)
    volumes = {
        name: Volume(mask.astype(np.float32), grid.affine, grid.header)
        for name, mask in masks_of(desk, values).items()
    }
    return Prediction(images, volumes, desk.classes, default_rules(desk.classes.names))
