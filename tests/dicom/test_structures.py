"""How contours become a mask, and segmentations of every type, against shapes drawn by hand."""

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.sr.coding import CodedConcept
from pydicom.uid import generate_uid
from scipy import ndimage

from isanet_jax.classes import split_classes
from isanet_jax.dicom.image import LPS_TO_RAS
from isanet_jax.dicom.series import find_series
from isanet_jax.dicom.structures import (
    Contour,
    _contours,
    find_region,
    rasterise,
    read_region,
    read_regions,
)
from isanet_jax.dicom.studies import Asked, choose_structures
from isanet_jax.errors import DataError
from tests.dicom.make_dicom import square, study, write_series, write_structures

SHAPE = (12, 12, 2)
AFFINE = LPS_TO_RAS @ np.eye(4)  # voxels of 1 mm, LPS mm as indices


def box(x0, x1, y0, y1):
    """A contour around the voxels x0..x1, y0..y1, through no voxel centre."""
    low, high = np.array([x0, y0]) - 0.4, np.array([x1, y1]) + 0.4
    corners = [low, (high[0], low[1]), high, (low[0], high[1])]
    return np.array([(*corner, 0.0) for corner in corners])


def filled(*boxes):
    mask = np.zeros(SHAPE[:2], bool)
    for x0, x1, y0, y1 in boxes:
        mask[x0 : x1 + 1, y0 : y1 + 1] ^= True
    return mask


OUTER, HOLE, ISLAND = (1, 9, 1, 9), (3, 7, 3, 7), (5, 5, 5, 5)


@pytest.mark.parametrize("is_exclusive", [False, True])
@pytest.mark.parametrize("order", [1, -1])
def test_a_hole_and_an_island_in_it(is_exclusive, order):
    drawn = [Contour(box(*b), is_exclusive) for b in (OUTER, HOLE, ISLAND)][::order]
    found = rasterise(drawn, SHAPE, AFFINE)
    np.testing.assert_array_equal(found[..., 0], filled(OUTER, HOLE, ISLAND))
    assert not found[..., 1].any()


def test_contours_listed_twice_count_once_but_for_the_exclusive_type():
    for boxes in ((OUTER,), (OUTER, HOLE), (OUTER, HOLE, ISLAND)):
        twice = [Contour(box(*b)) for b in (*boxes, *boxes[::-1])]
        np.testing.assert_array_equal(rasterise(twice, SHAPE, AFFINE)[..., 0], filled(*boxes))
    exclusive = [Contour(box(*OUTER), True)] * 2
    assert not rasterise(exclusive, SHAPE, AFFINE).any()


def test_contours_apart_and_partly_over_each_other_are_united():
    a, b, apart = (1, 5, 1, 5), (4, 8, 4, 8), (10, 11, 0, 1)
    found = rasterise([Contour(box(*c)) for c in (a, b, apart)], SHAPE, AFFINE)[..., 0]
    np.testing.assert_array_equal(found, filled(a) | filled(b) | filled(apart))
    crossed = rasterise([Contour(box(*c), True) for c in (a, b)], SHAPE, AFFINE)[..., 0]
    np.testing.assert_array_equal(crossed, filled(a) ^ filled(b))


def test_a_contour_beside_the_image_is_refused_and_one_over_its_edge_is_cut():
    over = rasterise([Contour(box(8, 15, 1, 5))], SHAPE, AFFINE)[..., 0]
    np.testing.assert_array_equal(over, filled((8, 11, 1, 5)))
    for beside in ((13, 16, 1, 5), (1, 5, -9, -2)):
        with pytest.raises(DataError, match="1 of 2 contours lie outside the image"):
            rasterise([Contour(box(*OUTER)), Contour(box(*beside))], SHAPE, AFFINE)


def test_edges_fall_alike_on_all_sides():
    """A contour through voxel centres, mirrored, is the mirrored mask: nothing moves."""
    points = np.array([(2, 3, 0), (8, 3, 0), (8, 7, 0), (5, 9, 0), (2, 7, 0)], float)
    plain = rasterise([Contour(points)], SHAPE, AFFINE)[..., 0]
    assert plain[2:9, 3:8].all()
    assert not plain[:2].any()
    assert not plain[9:].any()
    for axis in (0, 1):
        mirrored = points.copy()
        mirrored[:, axis] = 11 - mirrored[:, axis]
        found = rasterise([Contour(mirrored)], SHAPE, AFFINE)[..., 0]
        np.testing.assert_array_equal(found, np.flip(plain, axis))


@pytest.fixture
def ct(tmp_path):
    shared = study()
    slices = write_series(tmp_path / "ct", "CT", shared, np.zeros((8, 10, 10)), spacing=(2, 2, 2.5))
    return shared, slices


def test_contours_of_a_thicker_series_do_not_fill_every_second_slice(ct, tmp_path):
    """Drawn on 5 mm slices that are not there; the CT of 2.5 mm has the frame of reference."""
    shared, slices = ct
    lines = {"GTV": [square(3, 15, z) for z in (2.5, 7.5, 12.5)]}
    write_structures(tmp_path / "own", shared, slices, lines)
    (own,), _ = find_series(tmp_path / "own")
    images, _ = find_series(tmp_path / "ct")
    notes = []
    read_region(own, "GTV", images, notes=notes)
    assert notes == [
        "its contours are 5.00 mm apart and the image's slices 2.50 mm: the slices between its "
        "contours have none"
    ]
    for one in slices:
        one.SeriesInstanceUID = "1.2.3"  # what it references is another series
    write_structures(tmp_path / "absent", shared, slices, lines)
    (absent,), _ = find_series(tmp_path / "absent")
    with pytest.raises(DataError, match="drawn on another series, which is not here"):
        read_region(absent, "GTV", images)


def write_seg(path, slices, values, kind, labels=("Lesion",)):
    """A SEG of `values` (slice, row, column[, segment]) by highdicom."""
    for one in slices:
        for name in ("StudyID", "AccessionNumber", "ReferringPhysicianName", "PatientSex"):
            setattr(one, name, "")
    concept = CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure")
    descriptions = [
        highdicom.seg.SegmentDescription(
            number, label, concept, concept, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, label in enumerate(labels, start=1)
    ]
    more = {"fractional_type": "PROBABILITY"} if kind == "FRACTIONAL" else {}
    highdicom.seg.Segmentation(
        slices, values, kind, descriptions, generate_uid(None), 1, generate_uid(None), 1, "x", "y",
        "1", "2", **more,
    ).save_as(path)  # fmt: skip


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("geometry", ["even", "uneven", "tilted"])
def test_segmentations_of_every_type_on_slices_as_scanners_leave_them(
    ct, tmp_path, kind, geometry, generator
):
    _, slices = ct
    for index, one in enumerate(slices):
        if geometry == "uneven":  # rounded, as 3.19, 3.27 and 3.29 mm in a real PET
            one.ImagePositionPatient = [0, 0, 2.5 * index + 0.05 * (index % 3)]
        elif geometry == "tilted":
            one.ImageOrientationPatient = [1, 0, 0, 0, np.cos(0.26), -np.sin(0.26)]
        one.save_as(tmp_path / "ct" / f"{(index * 7) % 101:03d}", enforce_file_format=True)
    soft = ndimage.gaussian_filter(generator.random((8, 10, 10)), 1.5)
    soft = (soft - soft.min()) / np.ptp(soft)
    values = soft.astype(np.float32) if kind == "FRACTIONAL" else (soft > 0.5).astype(np.uint8)
    write_seg(tmp_path / "seg.dcm", slices, values, kind)
    (one,), _ = find_series(tmp_path / "seg.dcm")
    images, _ = find_series(tmp_path / "ct")
    notes = []
    mask, on = read_region(one, "Lesion", images, notes=notes)
    assert on.uid == images[0].uid
    sure = np.abs(soft - 0.5) > 0.01  # stored in steps of 1/255
    np.testing.assert_array_equal(
        mask.data.transpose(2, 1, 0)[sure], (soft > 0.5)[sure], err_msg=kind
    )
    assert bool(notes) == (kind == "FRACTIONAL")


def test_a_fractional_segmentation_without_its_image_counts_from_one_half_on(ct, tmp_path):
    _, slices = ct
    values = np.zeros((8, 10, 10), np.float32)
    values[2:5, 3:6, 4:7], values[5:7, 3:6, 4:7] = 0.8, 0.3
    write_seg(tmp_path / "seg.dcm", slices, values, "FRACTIONAL")
    (one,), _ = find_series(tmp_path / "seg.dcm")
    mask, on = read_region(one, "Lesion", [])
    assert on is None
    assert mask.data.sum() == 27


def test_a_segmentation_of_a_part_of_the_image_is_put_on_the_images_grid(ct, tmp_path, generator):
    """Its frames have other rows and columns than the image's slices."""
    shared, slices = ct
    values = np.zeros((8, 6, 7))
    part = write_series(
        tmp_path / "part", "CT", shared, values, origin=(4, 8, 0), spacing=(2, 2, 2.5)
    )
    inside = generator.random((8, 6, 7)) < 0.3
    write_seg(tmp_path / "seg.dcm", part, inside.astype(np.uint8), "BINARY")
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = slices[0].SeriesInstanceUID
    seg.save_as(tmp_path / "seg.dcm")
    (one,), _ = find_series(tmp_path / "seg.dcm")
    images, _ = find_series(tmp_path / "ct")
    mask, on = read_region(one, "Lesion", images)
    assert on.uid == slices[0].SeriesInstanceUID
    expected = np.zeros((8, 10, 10), bool)
    expected[:, 4:10, 2:9] = inside
    np.testing.assert_array_equal(mask.data.transpose(2, 1, 0), expected)


def test_regions_are_found_by_exact_name_with_commas_and_by_number(ct, tmp_path):
    shared, slices = ct
    lines = {name: [square(3, 15, 2.5)] for name in ("GTV, PET", "BODY", "7")}
    dataset = write_structures(tmp_path / "rs", shared, slices, lines)
    assert find_region(dataset, "GTV, PET") == 1
    assert find_region(dataset, "GTV") is None
    assert find_region(dataset, "2") == 2
    assert find_region(dataset, "7") == 3  # a name goes before a number
    dataset.StructureSetROISequence[1].ROIName = "GTV, PET"  # names need not be unique
    assert find_region(dataset, "GTV, PET") is None
    dataset.save_as(tmp_path / "rs")
    (one,), _ = find_series(tmp_path / "rs")
    images, _ = find_series(tmp_path / "ct")
    with pytest.raises(DataError, match=r"2 regions are called 'GTV, PET' \(found GTV, PET \(1\)"):
        read_region(one, "GTV, PET", images)
    assert read_region(one, "1", images)[0].data.sum() == 36


def test_contours_that_enclose_nothing_are_told(ct, tmp_path):
    shared, slices = ct
    lines = [square(3, 15, 2.5), square(3, 15, 5.5), square(3, 15, 5.5)[:1]]
    dataset = write_structures(tmp_path / "rs", shared, slices, {"GTV": lines})
    for contour, kind in zip(
        dataset.ROIContourSequence[0].ContourSequence[1:], ("OPEN_PLANAR", "POINT"), strict=True
    ):
        contour.ContourGeometricType = kind
    dataset.save_as(tmp_path / "rs")
    (one,), _ = find_series(tmp_path / "rs")
    images, _ = find_series(tmp_path / "ct")
    notes = []
    mask, _ = read_region(one, "GTV", images, notes=notes)
    assert np.unique(np.argwhere(mask.data)[:, 2]).size == 1
    assert notes == ["contours that are not closed are left out: 1 OPEN_PLANAR, 1 POINT"]


def test_a_contour_that_is_no_list_of_points_is_refused_by_its_region(ct, tmp_path):
    shared, slices = ct
    dataset = write_structures(tmp_path / "rs", shared, slices, {"GTV": [square(3, 15, 2.5)]})
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = list(contour.ContourData)[:-1]
    dataset.save_as(tmp_path / "rs")
    (one,), _ = find_series(tmp_path / "rs")
    images, _ = find_series(tmp_path / "ct")
    with pytest.raises(DataError, match="rs: a contour has 11 numbers; expected three finite"):
        read_region(one, "GTV", images)


@pytest.mark.parametrize("decimals", [2, 3, 4, 6])
@pytest.mark.parametrize("degrees", [0, 30])
@pytest.mark.parametrize("spacing", [0.9765625, 4.07283])
def test_an_edge_through_voxel_centres_holds_within_the_precision_it_is_written_in(
    decimals, degrees, spacing, tmp_path
):
    """A box of 20 x 20 voxels through centres: rounded, some sides lay beside them."""
    angle = np.deg2rad(degrees)
    across = np.array([np.cos(angle), np.sin(angle), 0])
    down = np.array([-np.sin(angle), np.cos(angle), 0])
    affine = np.eye(4)
    affine[:3, :3] = np.stack([across * spacing, down * spacing, [0, 0, 3.0]], axis=1)
    affine[:3, 3] = -123.456789, 87.654321, -10
    corners = np.array([[5, 5], [24, 5], [24, 24], [5, 24]], float)
    points = corners @ affine[:3, :2].T + affine[:3, 3]
    texts = [f"{value:.{decimals}f}" for value in points.ravel()]
    item = pydicom.Dataset()
    item.add(pydicom.DataElement("ContourData", "DS", texts))
    item.ContourGeometricType = "CLOSED_PLANAR"
    region, dataset = pydicom.Dataset(), pydicom.Dataset()
    region.ReferencedROINumber, region.ContourSequence = 1, [item]
    dataset.ROIContourSequence = [region]
    drawn = _contours(dataset, 1, None, {})
    assert drawn[0].precision_mm == pytest.approx(10.0**-decimals)
    mask = rasterise(drawn, (32, 32, 2), LPS_TO_RAS @ affine)
    expected = np.zeros((32, 32, 2), bool)
    expected[5:25, 5:25, 0] = True
    np.testing.assert_array_equal(mask, expected)


def test_what_lies_beside_an_edge_by_more_is_outside():
    square = np.array([[2.0, 2.0], [6.99, 2.0], [6.99, 6.99], [2.0, 6.99]])
    points = np.column_stack([square, np.zeros(4)])
    for precision_mm, count in ((1e-4, 25), (2e-2, 36), (5.0, 36)):
        found = rasterise([Contour(points, False, precision_mm)], SHAPE, AFFINE)
        assert found.sum() == count, precision_mm


def test_all_regions_of_a_name_are_taken_where_they_are_united(ct, tmp_path):
    """As of a public segmentation with ten segments of one name."""
    shared, slices = ct
    lines = {f"{n}": [square(3 + 3 * n, 6 + 3 * n, 2.5)] for n in range(3)}
    dataset = write_structures(tmp_path / "rs", shared, slices, lines)
    for item in dataset.StructureSetROISequence[1:]:
        item.ROIName = " Neoplasm, Secondary "
    dataset.save_as(tmp_path / "rs")
    series = [*find_series(tmp_path / "rs")[0], *find_series(tmp_path / "ct")[0]]

    def chosen(**asked):
        return choose_structures("P", series, Asked(**asked))[1]

    name = "Neoplasm, Secondary"
    assert chosen(regions=(name,), unite=True) == {"tumour": ("2", "3")}
    of_text = split_classes([f"all={name},0"])
    assert chosen(classes=of_text) == {"all": ("2", "3", "0")}
    assert chosen(regions=("2",)) == {"tumour": ("2",)}
    with pytest.raises(DataError, match=r"Secondary \(2\), Neo.*Secondary \(3\).*by its number in"):
        chosen(regions=(name,))
    masks = [read_region(series[0], number, series[1:])[0].data for number in ("2", "3")]
    united, _ = read_regions(series[0], ("2", "3"), series[1:])
    np.testing.assert_array_equal(united.data, masks[0] | masks[1])
