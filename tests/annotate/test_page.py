"""The reader's page in a browser, against the server: every tool voxel for voxel."""

import base64
import gzip
import itertools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from isanet_jax.annotate import page as of_page
from isanet_jax.annotate.desk import Desk
from isanet_jax.annotate.tools import threshold_in_sphere
from isanet_jax.evaluation.page import to_page
from isanet_jax.nifti import read_volume
from tests.evaluation.browser import driven, seen_at

pytest.importorskip("uvicorn", reason="needs .[label]")

from tests.annotate.test_server import Running

HELP, TOOLS, STROKES = (
    Path(__file__).with_name(f"page_{name}.js").read_text() for name in ("help", "tools", "strokes")
)


@pytest.fixture(scope="module")
def desk(cohort_folder, tmp_path_factory):
    return Desk([cohort_folder / "scans"], tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def places(desk):
    case = next(iter(desk.scans))
    pet, grid = desk.images(case).volumes["pet"], desk.grid(case)
    turned = of_page.turned(desk, case, grid.data)
    from isanet_jax.cases.grid import resample

    suv = resample(pet, grid.data.shape, grid.affine, order=1, fill=0.0)
    on_page = of_page.turned(desk, case, suv)
    hot = [int(n) for n in np.unravel_index(int(on_page.argmax()), on_page.shape)]
    d, h, w = turned.shape
    return {
        "HOT": hot, "FROM": [d // 2, h // 3, w // 3], "TO": [d // 2, h // 2, w // 2],
        "LOW": [d // 4, h // 2, w // 2], "HIGH": [3 * d // 4, h // 2 + 3, w // 2 - 2],
    }  # fmt: skip


def run(desk, script, places, folder, monkeypatch):
    for name, place in places.items():
        script = script.replace(name, json.dumps(place))
    text = of_page.text(desk).replace("</body>", driven(HELP + script))
    with monkeypatch.context() as patch:
        patch.setattr(of_page, "text", lambda _: text)
        one = Running(desk)
        try:
            case = next(iter(desk.scans))
            return seen_at(f"{one.url}/#{case}", folder, size=(1366, 900))
        finally:
            one.close()


def label(text, shape):
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8).reshape(shape)


def ball(shape, spacing, place, diameter):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) - place
    return np.square(grid * spacing).sum(-1) <= (diameter / 2) ** 2


def test_every_tool_and_500_strokes(desk, places, tmp_path, monkeypatch):
    case = next(iter(desk.scans))
    seen = run(desk, TOOLS, places, tmp_path, monkeypatch)
    shape, spacing = seen["shape"], np.array(seen["spacing"])
    assert seen["empty"]
    assert seen["tool"] == "tumour"
    # The click's mask is the server's arithmetic, in the page's axes.
    grid, pet = desk.grid(case), desk.images(case).volumes["pet"]
    inverse = nibabel.orientations.inv_ornt_aff(to_page(grid.affine), grid.data.shape)
    own = nibabel.affines.apply_affine(inverse, places["HOT"])
    mask = threshold_in_sphere(pet, grid, nibabel.affines.apply_affine(grid.affine, own))
    assert mask.any()
    clicked = label(seen["clicked"], shape)
    np.testing.assert_array_equal(clicked, of_page.turned(desk, case, mask))
    ml = mask.sum() * grid.voxel_ml
    assert dict(seen["measured"])["TMTV ml"] == f"{ml:.2f}"
    assert seen["listed"] == 1
    assert seen["away"]
    assert seen["again"]
    np.testing.assert_array_equal(label(seen["back"], shape), clicked)
    # A stroke is a ball at each voxel on the way.
    start, end = (np.array(places[name]) for name in ("FROM", "TO"))
    steps = int(np.abs(end - start).max())
    way = [np.floor(start + (end - start) * n / steps + 0.5).astype(int) for n in range(steps + 1)]
    expected = np.zeros(shape, bool)
    for place in way:
        expected |= ball(shape, spacing, place, 24)
    np.testing.assert_array_equal(label(seen["stroke"], shape) > 0, expected)
    expected &= ~ball(shape, spacing, start, 16)
    np.testing.assert_array_equal(label(seen["erased"], shape) > 0, expected)
    assert seen["undone"]
    np.testing.assert_array_equal(label(seen["redone"], shape) > 0, expected)
    # Between slices: signed distances, halfway.
    two = label(seen["two"], shape) > 0
    between = two.copy()
    drawn = np.flatnonzero(two.any((1, 2)))
    for low, high in itertools.pairwise(drawn):
        a, b = (
            ndimage.distance_transform_edt(~two[z], spacing[1:])
            - ndimage.distance_transform_edt(two[z], spacing[1:])
            for z in (low, high)
        )
        for z in range(low + 1, high):
            share = (z - low) / (high - low)
            between[z] |= a * (1 - share) + b * share < -1e-9
    found = label(seen["between"], shape) > 0
    assert found.sum() > two.sum()
    assert np.count_nonzero(found != between) <= 2  # a tie, by rounding
    # Lesions by their components.
    parts, _ = ndimage.label(found, np.ones((3, 3, 3)))
    alone = parts == parts[tuple(places["LOW"])]
    np.testing.assert_array_equal(label(seen["kept"], shape) > 0, alone)
    assert seen["deleted"]
    # What was saved is on the disk, on the scan's own grid.
    assert (seen["version"], seen["said"]) == (1, "version 1 is kept")
    (version,) = desk.labels.versions(case)
    assert version.who == "Ann"
    stored = read_volume(version.path)
    np.testing.assert_allclose(stored.affine, grid.affine, atol=1e-4)
    np.testing.assert_array_equal(
        of_page.turned(desk, case, stored.data), label(seen["final"], shape)
    )
    assert seen["reference"] == [int((label(seen["final"], shape) > 0).sum())]
    assert seen["lost"] == "NOT SAVED (no connection); tried again"
    assert seen["dirty"]
    assert seen["found"] == ["draft 1", False]
    # Loaded again, the draft is there; then 500 strokes, which take seconds.
    again = run(desk, STROKES, places, tmp_path, monkeypatch)
    np.testing.assert_array_equal(label(again["opened"], shape), label(seen["draft"], shape))
    assert again["note"] == "a draft that was not saved"
    expected = np.zeros(shape, bool)
    reach = np.floor(7 / spacing).astype(int)
    for place, erases in again["strokes"]:
        low = np.maximum(np.array(place) - reach, 0)
        high = np.minimum(np.array(place) + reach + 1, shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        inside = ball(tuple(high - low), spacing, np.array(place) - low, 14)
        expected[box] = (expected[box] & ~inside) if erases else (expected[box] | inside)
    np.testing.assert_array_equal(label(again["all"], shape) > 0, expected)


def test_what_the_page_sends_is_checked(desk):
    case = next(iter(desk.scans))
    one = Running(desk)
    try:
        for path, method, body, message in (
            (f"mask?image={case}", "PUT", b"no gzip", "is no mask"),
            (f"mask?image={case}", "PUT", gzip.compress(b"\0" * 5), "a mask of 5 voxels"),
            (f"measure?image={case}", "POST", gzip.compress(bytes([9]) * desk.grid(case).data.size),
             "the values"),
            (f"click?image={case}", "POST", b"{}", "is no click"),
            (f"click?image={case}", "POST", json.dumps({"place": [9999, 0, 0], "by": "suv",
             "value": 4, "radius_mm": 30}).encode(), "a voxel of the scan"),
            (f"version?image={case}&number=99", "GET", None, "has no version 99"),
            (f"export?image={case}&format=exe", "GET", None, "no format"),
            ("data?image=../x", "GET", None, "no image"),
        ):  # fmt: skip
            status, answer = one.ask(f"/page/{path}", method=method, body=body)
            assert status == 400, path
            assert message in answer["detail"], path
    finally:
        one.close()
