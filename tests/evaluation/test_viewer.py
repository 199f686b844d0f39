"""The viewer as a reader uses it: every control, what is under the cursor, what lights up."""

from pathlib import Path

import numpy as np
import pytest

from isanet_jax.evaluation.page import Page, key_of, pack_scan
from isanet_jax.evaluation.predicted import as_text
from isanet_jax.quantify.lesions import lesions
from isanet_jax.volume import Volume
from tests.evaluation.browser import see

KINDS = {"ct": "ct", "pet": "pet"}
BOXES = {
    "1": (slice(20, 28), slice(10, 18), slice(8, 16)),
    "2": (slice(4, 8), slice(30, 34), slice(20, 24)),
    "3": (slice(30, 32), slice(30, 32), slice(4, 6)),
}
SCRIPT = Path(__file__).with_name("viewer_script.js").read_text()


@pytest.fixture(scope="module")
def scan():
    shape, affine = (36, 40, 32), np.diag([3.0, 2.0, 2.0, 1.0])  # D, H, W as S, P, L
    generator = np.random.default_rng(0)
    ct = generator.uniform(-100, 100, shape).astype(np.float32)
    pet = generator.uniform(0.2, 1, shape).astype(np.float32)
    mask = np.zeros(shape, bool)
    for number, box in BOXES.items():
        mask[box], pet[box] = True, 10 - float(number)
    pet[24, 14, 12] = 9.9
    # From the patient's axes (up, back, left) to RAS mm.
    turned = np.zeros((4, 4))
    turned[2, 0], turned[1, 1], turned[0, 2], turned[3, 3] = 3.0, -2.0, -2.0, 1.0
    assert affine.shape == turned.shape
    return {"ct": Volume(ct, turned), "pet": Volume(pet, turned)}, mask


@pytest.fixture(scope="module")
def seen(scan, tmp_path_factory):
    volumes, mask = scan
    rows = lesions(Volume(mask, volumes["ct"].affine), volumes["pet"])
    told = {"summary": [("TMTV ml", "7.68")], "warnings": ["hint: SUVmax <b>unlike</b>"]}
    content = pack_scan(volumes, KINDS, {"tumour": mask}, lesions={"tumour": rows}, told=told)
    page = Page()
    page.add("one", 0, content)
    cells = [["one", str(row["lesion"]), as_text(row["suv_max"])] for row in rows]
    tables = {
        "Lesions": (["case", "lesion", "SUVmax"], cells, [key_of("", row, False) for row in rows])
    }
    path = tmp_path_factory.mktemp("viewer") / "report.html"
    page.write(path, title="a scan", lines=["It is no diagnosis."], tables=tables)
    places = {key: [(one.start + one.stop) // 2 for one in box] for key, box in BOXES.items()}
    script = SCRIPT.replace("PLACES", str(places).replace("'", '"')).replace(
        "HOTTEST", "[24, 14, 12]"
    )
    return see(path, script, size=(1366, 768)) | {"rows": rows}


def test_it_fits_a_laptop_and_says_what_matters_first(seen):
    assert seen["fits"] == [True, True, True]
    assert seen["summary"] == "7.68 TMTV ml"
    assert seen["banner"] == [False, "hint: SUVmax <b>unlike</b>"]


def test_keys_work_without_a_click(seen):
    assert seen["keyed"] == 6
    assert seen["first"][1:] == [seen["first"][0]]
    assert seen["second"][1:] == [seen["second"][0]]
    assert seen["first"] != seen["second"]


def test_letters_and_scales(seen):
    assert seen["letters"] == ["APRL", "HFRL", "HFAP", "HFRL"]
    assert seen["scales"] == pytest.approx([1] * 4, abs=0.03)  # its border is a pixel


def test_lesions_and_rows_find_each_other(seen):
    assert all(a in range(b.start, b.stop) for a, b in zip(seen["row"], BOXES["3"], strict=True))
    assert seen["lit"] == seen["listLit"] == ["1"]
    assert "1" in seen["marks"]
    assert seen["allMarks"] == 3
    assert seen["heads"] == ["#", "MTV ml", "SUVmax", "SUVpeak", "TLG g"]
    for head, column in (("MTV ml", "mtv_ml"), ("SUVmax", "suv_max"), ("TLG g", "tlg_g")):
        rising = sorted(seen["rows"], key=lambda row: row[column])
        assert seen["orders"][head] == [str(row["lesion"]) for row in rising], head
    assert seen["entered"][0] == seen["entered"][1]
    assert seen["entered"][2] == 0


def test_windows_by_presets_numbers_and_dragging(seen):
    assert seen["presets"][:4] == ["SUV 0-5", "SUV 0-10", "SUV 0-15", "SUV 0-20"]
    assert seen["preset"] == [0, 15]
    assert seen["typed"] == [[0, 7.5], ""]
    assert seen["refused"] == [0, 7.5]
    assert seen["dragged"] is True
    low, high = seen["draggedBelow"]
    assert high - low == pytest.approx(400)
    assert low == pytest.approx(-160 + 20 * 2)


def test_fusion_goes_from_one_image_alone_to_the_other(seen):
    grey = 255 * (seen["ctGrey"] + 1024) / 2048
    assert seen["ctAlone"] == pytest.approx([grey] * 3, abs=2)
    # SUV 9.9 of 10 is nearly white, 0.6 nearly black, whatever the CT is.
    assert min(seen["petAlone"]) > 200
    assert max(seen["outside"][1:]) < 5
    assert max(seen["inverted"]) < 10
    assert min(seen["upright"]) > 245


def test_the_projection_has_contours_sides_and_leads_to_places(seen):
    assert seen["contours"] is True
    assert seen["side"] == [90, "HFAP"]
    assert seen["projected"] == [24, 14, 12]


def test_zoom_and_pan_keep_what_is_pointed_at(seen):
    zoomed, before, after = seen["zoomed"]
    assert zoomed
    assert before == after == seen["panned"]
    assert seen["reset"] == 1
    assert seen["closer"] is True


def test_touch_screen_readers_and_an_image_to_keep(seen):
    assert seen["slider"] == [9, "axial slice 10 of 36 of one"]
    assert seen["unlabelled"] == []
    assert seen["image"] == ["one.png", "data:image/png;base64,", True]
    assert seen["touch"] == "pan-y"
