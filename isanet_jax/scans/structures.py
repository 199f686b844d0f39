"""Regions of interest: DICOM RTSTRUCT and SEG read as masks."""

import numpy as np
import pydicom
from skimage.draw import polygon

from isanet_jax.errors import DataError
from isanet_jax.scans.dicom import LPS_TO_RAS, Series, read_grid, refuse_damage
from isanet_jax.scans.volume import Volume

_OFF_PLANE = 0.25  # of the slice distance
_OFF_VOXEL = 0.02  # of a voxel


def region_names(structures: pydicom.Dataset) -> list[str]:
    """Names of an RTSTRUCT's regions, or labels of a SEG's segments, in its order."""
    if structures.get("SegmentSequence"):
        return [str(s.get("SegmentLabel") or "") for s in structures.SegmentSequence]
    return [str(r.get("ROIName") or "") for r in structures.get("StructureSetROISequence") or ()]


def referenced_series(structures: pydicom.Dataset) -> set[str]:
    """UIDs of the image series that an RTSTRUCT or SEG says it was drawn on."""
    found = {str(s.SeriesInstanceUID) for s in structures.get("ReferencedSeriesSequence") or ()}
    for frame in structures.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                found.add(str(series.get("SeriesInstanceUID")))
    return found


def read_region(
    structures: Series, name: str, images: list[Series], *, case=None
) -> tuple[Volume, Series | None]:
    """One region as a mask, on the grid that it was drawn on.

    Args:
        structures: an RTSTRUCT or SEG series.
        name: of the region, exactly: a name within another one is another region.
        images: the series that it may have been drawn on, best first.

    Returns:
        bool mask, and the series whose grid it has; None for a SEG, which brings its own, where
        the image that it references is not among `images` or has other voxels.

    Raises:
        DataError: no such region, no series to draw it on, contours that do not fit.
    """
    where = {"case": case, "file": structures.files[0]}
    with refuse_damage(**where):
        dataset = structures.files[0].read(pixels=structures.kind == "SEG")
        names = region_names(dataset)
        if names.count(name) != 1:
            raise DataError(
                f"{names.count(name)} regions are called {name!r} (found {', '.join(names)})",
                wanted="one, by its exact name",
                **where,
            )
        if structures.kind == "SEG":
            mask = _segment(dataset, names.index(name) + 1)
            for series in images:
                if series.uid in referenced_series(dataset):
                    return _on_grid(mask, series, case)
            return mask, None
        contours = _contours(dataset, name)
        if not contours:
            raise DataError(f"the region {name!r} has no closed planar contours", **where)
        series = _drawn_on(dataset, structures, images, where)
        shape, affine = read_grid(series, case=case)
        return Volume(rasterise(contours, shape, affine, **where), affine), series


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


def _contours(dataset, name):
    """[(n, 3) points, LPS mm] of a region's closed contours."""
    number = next(r.ROINumber for r in dataset.StructureSetROISequence if r.get("ROIName") == name)
    contours = []
    for region in dataset.get("ROIContourSequence") or ():
        if region.ReferencedROINumber != number:
            continue
        for contour in region.get("ContourSequence") or ():
            if contour.get("ContourGeometricType") in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                contours.append(np.array(contour.ContourData, float).reshape(-1, 3))
    return contours


def rasterise(contours, shape, affine, *, case=None, file=None) -> np.ndarray:
    """Contours as a mask: voxels whose centre lies inside; contours of a slice are combined by XOR.

    Args:
        contours: (n, 3) points each, LPS mm, in planes of the image's slices.
        shape, affine: the image's grid, (column, row, slice), to RAS+ mm.

    Returns:
        bool, `shape`.

    Raises:
        DataError: contours between slices, outside the image, or not in one plane.
    """
    to_voxel = np.linalg.inv(LPS_TO_RAS @ affine)
    mask = np.zeros(shape, bool)
    outside = 0
    for points in contours:
        voxels = points @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        plane = round(float(voxels[:, 2].mean())) if np.isfinite(voxels).all() else -1
        off = np.abs(voxels[:, 2] - plane).max()
        if not off <= _OFF_PLANE:
            raise DataError(
                f"a contour lies {off:.2f} slice distances from the nearest slice",
                wanted="contours in the planes of the image that they were drawn on",
                case=case,
                file=file,
            )
        if not 0 <= plane < mask.shape[2]:
            outside += 1
            continue
        inside = polygon(voxels[:, 0], voxels[:, 1], mask.shape[:2])
        mask[(*inside, plane)] ^= True
    if outside:
        raise DataError(
            f"{outside} of {len(contours)} contours lie outside the image's slices",
            wanted="the whole image that they were drawn on",
            case=case,
            file=file,
        )
    return mask


def _on_grid(mask, series, case):
    """A mask on the grid of the image that it was made on, if its voxels are the image's."""
    shape, affine = read_grid(series, case=case)
    to_image = np.linalg.inv(affine) @ mask.affine
    places = np.argwhere(mask.data) @ to_image[:3, :3].T + to_image[:3, 3]
    nearest = np.rint(places).astype(int)
    inside = ((nearest >= 0) & (nearest < shape)).all()
    if not inside or np.abs(places - nearest).max(initial=0) > _OFF_VOXEL:
        return mask, None
    out = np.zeros(shape, bool)
    out[tuple(nearest.T)] = True
    return Volume(out, affine), series


def _segment(dataset, number):
    """A segment of a SEG on the grid that its frames span."""
    import highdicom

    segmentation = highdicom.seg.Segmentation.from_dataset(dataset)
    volume = segmentation.get_volume(segment_numbers=[number], combine_segments=True)
    affine = LPS_TO_RAS @ np.asarray(volume.affine)
    return Volume(np.asarray(volume.array) > 0, affine)
