"""Regions of interest: DICOM RTSTRUCT and SEG read as masks."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pydicom
from nibabel.affines import apply_affine
from skimage.measure import grid_points_in_poly

from isanet_jax.dicom.image import LPS_TO_RAS, read_grid
from isanet_jax.dicom.series import Series, lenient, refuse_damage
from isanet_jax.errors import DataError
from isanet_jax.volume import Volume

_EXCLUSIVE = "CLOSEDPLANAR_XOR"
_CLOSED = ("CLOSED_PLANAR", _EXCLUSIVE)  # of contours, those that enclose something
_OFF_PLANE = 0.25  # of the slice distance
_OFF_VOXEL = 0.02  # of a voxel
_ON_EDGE, _ROUNDING = 0.02, 1e-7  # of a voxel, that an edge may be off a centre: at most, always
_THICKER = 1.5  # slices between contours from which they were drawn on other slices


def region_names(structures: pydicom.Dataset) -> list[str]:
    """Names of an RTSTRUCT's regions, or labels of a SEG's segments, in its order."""
    return [name for name, _ in _regions(structures)]


def _regions(structures):
    """(name, number) of the regions or segments; a label map's 0 is the background, and none."""
    if structures.get("SegmentSequence"):
        segments = [(_name(s, "SegmentLabel"), s) for s in structures.SegmentSequence]
        numbered = [(name, int(s.get("SegmentNumber") or 0)) for name, s in segments]
        return [(name, number) for name, number in numbered if number]
    return [
        (_name(r, "ROIName"), int(r.get("ROINumber") or 0))
        for r in structures.get("StructureSetROISequence") or ()
    ]


def _name(item, keyword):
    """A LO: spaces before and after it mean nothing (PS3.5 section 6.2)."""
    return str(item.get(keyword) or "").strip()


def find_regions(structures: pydicom.Dataset, name: str) -> list[int]:
    """The numbers of all regions of exactly this name or, where none has it, of this number.

    Args:
        structures: an RTSTRUCT or SEG.
        name: of the regions; names need not be unique, numbers are.
    """
    regions, name = _regions(structures), name.strip()
    named = [number for one, number in regions if one == name]
    if not named and name.isdigit():
        named = [number for _, number in regions if number == int(name)]
    return named


def find_region(structures: pydicom.Dataset, name: str) -> int | None:
    """The number of the region of exactly this name or, where none has it, of this number.

    Args:
        structures: an RTSTRUCT or SEG.
        name: of the region; names need not be unique, numbers are.

    Returns:
        None where there is none, or where several have the name.
    """
    named = find_regions(structures, name)
    return named[0] if len(named) == 1 else None


def is_drawn(structures: pydicom.Dataset, number: int) -> bool:
    """Whether a region of an RTSTRUCT has a closed contour: those of a template may have none.

    Of a SEG, whose voxels are not looked at, True.
    """
    if structures.get("SegmentSequence"):
        return True
    for contour in _contours_of(structures, number):
        points = contour.get_item("ContourData")  # as bytes: what they say is read later
        if contour.get("ContourGeometricType") in _CLOSED and points is not None and points.value:
            return True
    return False


def _contours_of(structures, number):
    """The contours of a region, of any kind, as datasets."""
    for region in structures.get("ROIContourSequence") or ():
        if int(region.get("ReferencedROINumber") or 0) == number:
            yield from region.get("ContourSequence") or ()


def referenced_series(structures: pydicom.Dataset) -> set[str]:
    """UIDs of the image series that an RTSTRUCT or SEG says it was drawn on."""
    referenced = {
        str(s.SeriesInstanceUID) for s in structures.get("ReferencedSeriesSequence") or ()
    }
    for frame in structures.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                referenced.add(str(series.get("SeriesInstanceUID")))
    return referenced


def read_region(
    structures: Series,
    name: str,
    images: list[Series],
    *,
    case=None,
    notes: list | None = None,
    grids: Mapping = MappingProxyType({}),
    decoded: dict | None = None,
) -> tuple[Volume, Series | None]:
    """One region as a mask, on the grid that it was drawn on.

    Args:
        structures: an RTSTRUCT or SEG series.
        name: of the region, exactly: a name within another one is another region.
        images: the series that it may have been drawn on, best first.
        case: to name in errors.
        notes: gets what to be warned of.
        grids: UID -> (shape, affine) of images that were read already; others are read.
        decoded: keeps what was read of the file, for the next region; None: not kept.

    Returns:
        bool mask, and the series whose grid it has; None for a SEG, which brings its own, where
        the image that it references is not among `images` or has other voxels.

    Raises:
        DataError: no such region, no series to draw it on, contours that do not fit.
    """
    where = {"case": case, "file": structures.files[0]}
    decoded = {} if decoded is None else decoded

    def grid_of(series):
        return grids.get(series.uid) or read_grid(series, case=case)

    with lenient(), refuse_damage(**where):
        file = structures.files[0]
        if file not in decoded:
            decoded[file] = file.read(pixels=structures.kind == "SEG")
        dataset = decoded[file]
        number = find_region(dataset, name)
        if number is None:
            regions = _regions(dataset)
            listed = ", ".join(f"{one} ({n})" for one, n in regions)
            count = sum(one == name for one, _ in regions)
            raise DataError(
                f"{count} regions are called {name!r} (found {listed})",
                wanted="one, by its exact name, or by its number",
                **where,
            )
        if structures.kind == "SEG":
            if dataset.get("SegmentationType") == "FRACTIONAL" and notes is not None:
                notes.append("the segmentation is fractional: voxels of one half and above count")
            for series in images:
                if series.uid in referenced_series(dataset):
                    on_slices = _segment_on(grid_of(series), dataset, number)
                    if on_slices is not None:
                        return on_slices, series
                    return _on_grid(_segment(dataset, number), series, grid_of(series))
            return _segment(dataset, number), None
        contours = _contours(dataset, number, notes, where)
        if not contours:
            raise DataError(f"the region {name!r} has no closed planar contours", **where)
        series = _drawn_on(dataset, structures, images, where)
        shape, affine = grid_of(series)
        is_referenced = series.uid in referenced_series(dataset)
        _check_planes(contours, affine, is_referenced, notes, where)
        return Volume(rasterise(contours, shape, affine, **where), affine), series


def read_regions(
    structures: Series,
    names,
    images: list[Series],
    *,
    case=None,
    notes: list | None = None,
    grids: Mapping = MappingProxyType({}),
    decoded: dict | None = None,
) -> tuple[Volume, Series | None]:
    """Several regions of one structure set, or one, united; see `read_region`.

    Raises:
        DataError: see `read_region`; segments that lie on different grids.
    """
    options = {"case": case, "notes": notes, "grids": grids}
    options["decoded"] = {} if decoded is None else decoded
    masks = [read_region(structures, name, images, **options) for name in names]
    (first, series), *others = masks
    for other, on in others:
        if on is not series or other.data.shape != first.data.shape:
            raise DataError(
                f"the regions {', '.join(names)} lie on different grids",
                case=case,
                file=structures.files[0],
                wanted="one image that all were drawn on",
            )
        first.data[other.data] = True
    return first, series


def _drawn_on(dataset, structures, images, where):
    """The image series that the contours were drawn on: referenced, else of the same frame."""
    referenced = referenced_series(dataset)
    frames = {
        str(f.get("FrameOfReferenceUID"))
        for f in dataset.get("ReferencedFrameOfReferenceSequence") or ()
    } | {structures.frame}
    for fits in (lambda s: s.uid in referenced, lambda s: s.frame and s.frame in frames):
        for series in images:
            if fits(series):
                return series
    raise DataError(
        "none of the image series is the one that it was drawn on, or shares its frame",
        wanted="the CT or PET series that it references",
        **where,
    )


class Contour(NamedTuple):
    """A closed contour of an RTSTRUCT.

    Attributes:
        points: (n, 3), LPS mm.
        is_exclusive: of type CLOSEDPLANAR_XOR, else CLOSED_PLANAR.
        precision_mm: of its coordinates, by the decimals that they are written with: a unit of the
            last one.
    """

    points: np.ndarray
    is_exclusive: bool = False
    precision_mm: float = 0.0


def _contours(dataset, number, notes, where):
    """The closed contours of a region. Raises DataError where one is no list of points."""
    contours, others = [], Counter()
    for contour in _contours_of(dataset, number):
        kind = contour.get("ContourGeometricType")
        if kind not in _CLOSED:
            others[kind or "of no type"] += 1
            continue
        values = np.atleast_1d(np.array(contour.get("ContourData") or (), float))
        if len(values) % 3 or not np.isfinite(values).all():
            raise DataError(
                f"a contour has {len(values)} numbers",
                wanted="three finite ones for each of its points",
                action="Export the structure set again",
                **where,
            )
        if len(values):
            precision_mm = _precision_mm(contour.ContourData)
            contours.append(Contour(values.reshape(-1, 3), kind == _EXCLUSIVE, precision_mm))
    if others and notes is not None:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        notes.append(f"contours that are not closed are left out: {listed}")
    return contours


def _precision_mm(values):
    """A unit of the last decimal of numbers as they are written; 0 where that is not known."""
    texts = [str(getattr(value, "original_string", "")) for value in values]
    plain = [text for text in texts if text and "e" not in text.lower()]
    decimals = max((len(text.strip().partition(".")[2]) for text in plain), default=None)
    return 0.0 if decimals is None else 10.0**-decimals


def _check_planes(contours, affine, is_referenced, notes, where):
    """Refuses contours that were drawn on slices further apart than the image's.

    Where the contours' own series is not there, one of the same frame of reference takes its
    place; with thinner slices every second one would stay empty.
    """
    to_voxel = np.linalg.inv(LPS_TO_RAS @ affine)
    planes = [float((apply_affine(to_voxel, c.points.mean(0)))[2]) for c in contours]
    gaps = np.diff(np.unique(np.round(planes, 1)))
    if not len(gaps) or not np.isfinite(gaps).all() or np.median(gaps) < _THICKER:
        return
    slice_mm = np.linalg.norm(affine[:3, 2])
    text = (
        f"its contours are {np.median(gaps) * slice_mm:.2f} mm apart and the image's slices "
        f"{slice_mm:.2f} mm"
    )
    if not is_referenced:
        raise DataError(
            f"{text}: they were drawn on another series, which is not here",
            wanted="the image that it references",
            action="Add that series to the folder",
            **where,
        )
    if notes is not None:
        notes.append(f"{text}: the slices between its contours have none")


def rasterise(contours, shape, affine, *, case=None, file=None) -> np.ndarray:
    """Contours as a mask: voxels whose centre lies inside, or on the edge within the precision in
    which the contour is written.

    How the contours of a slice are combined:
    - CLOSEDPLANAR_XOR: each changes what the others say, as DICOM PS3.3 C.8.8.6.3 has it.
    - CLOSED_PLANAR: one within another is a hole, and one within that an island, as programs write
      them that know no other way; apart or partly over each other, they are united; one that is
      listed twice counts once.

    Args:
        contours: `Contour`s in planes of the image's slices.
        shape, affine: the image's grid, (column, row, slice), to RAS+ mm.

    Returns:
        bool, `shape`.

    Raises:
        DataError: contours between slices, outside the image, or not in one plane.
    """
    to_voxel = np.linalg.inv(LPS_TO_RAS @ affine)
    least_mm = np.linalg.norm(affine[:3, :2], axis=0).min()
    of_plane = defaultdict(list)
    outside = 0
    for contour in contours:
        voxels = apply_affine(to_voxel, contour.points)
        plane = round(float(voxels[:, 2].mean())) if np.isfinite(voxels).all() else -1
        off = np.abs(voxels[:, 2] - plane).max()
        if not off <= _OFF_PLANE:
            raise DataError(
                f"a contour lies {off:.2f} slice distances from the nearest slice",
                wanted="contours in the planes of the image that they were drawn on",
                case=case,
                file=file,
            )
        low, high = voxels[:, :2].min(0), voxels[:, :2].max(0)
        is_beside = (high < -0.5).any() or (low > np.array(shape[:2]) - 0.5).any()
        if is_beside or not 0 <= plane < shape[2]:
            outside += 1
            continue
        tolerance = min(contour.precision_mm / least_mm, _ON_EDGE)
        filled = _filled(voxels[:, :2], shape[:2], tolerance)
        of_plane[plane].append((filled, contour.is_exclusive))
    if outside:
        raise DataError(
            f"{outside} of {len(contours)} contours lie outside the image",
            wanted="the whole image that they were drawn on",
            case=case,
            file=file,
        )
    mask = np.zeros(shape, bool)
    for plane, drawn in of_plane.items():
        mask[:, :, plane] = _united([part for part, is_exclusive in drawn if not is_exclusive])
        for part, is_exclusive in drawn:
            if is_exclusive:
                mask[:, :, plane] ^= part
    return mask


def _filled(points, shape, tolerance):
    """Voxels of a slice whose centre lies in a polygon (n, 2), voxels, or so near to its edge."""
    low = np.clip(np.floor(points.min(0)).astype(int), 0, shape)
    high = np.clip(np.ceil(points.max(0)).astype(int) + 1, low, shape)
    filled = np.zeros(shape, bool)
    if (high > low).all():
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        filled[box] = grid_points_in_poly(high - low, points - low, binarize=False) > 0
    for voxel in _on_edge(points, max(tolerance, _ROUNDING)):
        if (voxel >= 0).all() and (voxel < shape).all():
            filled[tuple(voxel)] = True
    return filled


def _on_edge(points, tolerance):
    """The voxels whose centre is no further than a tolerance from a polygon's edge: (2,) each."""
    starts, ends = points, np.roll(points, -1, axis=0)
    low = np.ceil(np.minimum(starts, ends) - tolerance).astype(int)
    high = np.floor(np.maximum(starts, ends) + tolerance).astype(int)
    for index in np.flatnonzero((low <= high).all(1)):  # of most edges, no centre is near
        sides = (np.arange(a, b + 1) for a, b in zip(low[index], high[index], strict=True))
        centres = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)
        start, edge = starts[index], ends[index] - starts[index]
        length = max(edge @ edge, 1e-30)
        along = np.clip((centres - start) @ edge / length, 0, 1)
        apart = np.linalg.norm(centres - start - along[:, None] * edge, axis=1)
        yield from centres[apart <= tolerance]


def _united(parts):
    """Closed planar contours of one slice as a mask, see `rasterise`; False where there is none."""
    distinct = []
    for part in sorted(parts, key=np.count_nonzero, reverse=True):
        if not any(np.array_equal(part, other) for other in distinct):
            distinct.append(part)
    mask = np.zeros(distinct[0].shape, bool) if distinct else False
    for index, part in enumerate(distinct):
        depth = sum(not (part & ~other).any() for other in distinct[:index])
        mask = mask & ~part if depth % 2 else mask | part
    return mask


def _on_grid(mask, series, grid):
    """A mask on the grid of the image that it was made on, if its voxels are the image's."""
    shape, affine = grid
    to_image = np.linalg.inv(affine) @ mask.affine
    places = apply_affine(to_image, np.argwhere(mask.data))
    nearest = np.rint(places).astype(int)
    inside = ((nearest >= 0) & (nearest < shape)).all()
    if not inside or np.abs(places - nearest).max(initial=0) > _OFF_VOXEL:
        return mask, None
    out = np.zeros(shape, bool)
    out[tuple(nearest.T)] = True
    return Volume(out, affine), series


def _segment_on(grid, dataset, number):
    """A segment on the slices of the image that its frames lie on; None where one lies on none.

    Frame by frame, so that slices at uneven distances, and sheared stacks, are as good as any.
    """
    shape, affine = grid
    if (int(dataset.Columns), int(dataset.Rows)) != shape[:2]:
        return None
    to_voxel = np.linalg.inv(LPS_TO_RAS @ affine)
    pixels = dataset.pixel_array.reshape(-1, shape[1], shape[0])
    kind = str(dataset.get("SegmentationType") or "BINARY")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    mask = np.zeros(shape, bool)
    for frame, groups in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        if kind == "LABELMAP":
            inside = frame == number
        elif int(_group(groups, shared, "SegmentIdentification").ReferencedSegmentNumber) != number:
            continue
        else:
            half = float(dataset.MaximumFractionalValue) / 2 if kind == "FRACTIONAL" else 0.5
            inside = frame >= half
        if not inside.any():
            continue
        position = _group(groups, shared, "PlanePosition").ImagePositionPatient
        directions = _group(groups, shared, "PlaneOrientation").ImageOrientationPatient
        spacing = _group(groups, shared, "PixelMeasures").PixelSpacing
        across, down = np.array(directions, float).reshape(2, 3)
        corners = [np.array(position, float)]
        corners.append(corners[0] + across * float(spacing[1]) * (shape[0] - 1))
        corners.append(corners[0] + down * float(spacing[0]) * (shape[1] - 1))
        voxels = apply_affine(to_voxel, np.array(corners))
        index = round(float(voxels[:, 2].mean()))
        wanted = [[0, 0, index], [shape[0] - 1, 0, index], [0, shape[1] - 1, index]]
        # In the plane as well as the image's own slices lie: their distances may be uneven.
        off = np.abs(voxels - wanted).max(0)
        if not 0 <= index < shape[2] or off[2] > _OFF_PLANE or off[:2].max() > _OFF_PLANE:
            return None
        mask[:, :, index] |= inside.T
    return Volume(mask, affine)


def _group(groups, shared, name):
    """A functional group's item, of the frame or else shared by all."""
    sequence = groups.get(f"{name}Sequence") or shared.get(f"{name}Sequence")
    return sequence[0]


def _segment(dataset, number):
    """A segment of a SEG (binary, fractional or label map) on the grid that its frames span."""
    import highdicom

    segmentation = highdicom.seg.Segmentation.from_dataset(dataset)
    volume = segmentation.get_volume(
        segment_numbers=[number], combine_segments=False, rescale_fractional=True
    )
    affine = LPS_TO_RAS @ np.asarray(volume.affine)
    return Volume(np.asarray(volume.array)[..., 0] >= 0.5, affine)
