"""report.html in a real browser without a network, every control used (needs Chromium)."""

import base64
import gzip
import html
import json
import math
import re
import shutil
import subprocess

import nibabel
import numpy as np
import pytest

from isanet_jax.cases.case import read_case
from isanet_jax.evaluation.charts import boxes, curves_panel, learning_curves
from isanet_jax.evaluation.page import (
    Page,
    coded,
    metrics_table,
    pack_case,
    pack_scan,
    steps_of,
)
from isanet_jax.metrics import shown_in
from isanet_jax.nifti import read_volume
from isanet_jax.volume import Volume

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
LOGS = {
    "network 1": [{"epoch": e, "loss": 1 - e / 5, "learning_rate": 1e-3} for e in range(3)]
    + [{"epoch": e, "validation_dsc": 0.5 + e / 10} for e in range(3)],
    "network 2": [{"epoch": e, "validation_dsc": 0.4 + e / 10} for e in (0, 2)],
}
PLACES = [[8, 8, 8], [3, 12, 5], [0, 0, 0], [15, 15, 15]]
# Drives the page as a reader would, and leaves what it saw in an attribute.
SCRIPT = """
(async () => {
  const seen = {}, wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const opened = async (name) => { while (document.body.dataset.opened !== name) await wait(5); };
  while (!document.body.dataset.opened) await wait(5);
  seen.first = document.body.dataset.opened;
  const picture = (id) => byId(id).toDataURL();
  const all = () => ["axial", "coronal", "sagittal", "mip"].map(picture);
  const values = () => JSON.parse(byId("values").dataset.values);
  seen.cases = {};
  for (const one of cases) {
    byId("case").value = one.name;
    byId("case").dispatchEvent(new Event("change"));
    await opened(one.name);
    seen.cases[one.name] = PLACES.map((place) => {
      viewer.state.place = place; viewer.draw(); return values().values;
    });
  }
  // A pointer on the axial plane, at the middle of a voxel.
  viewer.state.place = [8, 8, 8]; viewer.draw();
  const box = byId("axial").getBoundingClientRect();
  const at = (row, column) => ({ clientX: box.left + box.width * (column + 0.5) / viewer.shape[2],
    clientY: box.top + box.height * (row + 0.5) / viewer.shape[1], pointerId: 1, buttons: 1,
    bubbles: true });
  byId("axial").setPointerCapture = () => {};
  byId("axial").dispatchEvent(new PointerEvent("pointermove", { ...at(4, 11), buttons: 0 }));
  seen.under = values().place;
  byId("axial").dispatchEvent(new PointerEvent("pointerdown", at(4, 11)));
  seen.clicked = [...viewer.state.place];
  const key = (id, name) => {
    if (id) byId(id).dispatchEvent(new Event("focus"));
    const pressed = new KeyboardEvent("keydown", { key: name, bubbles: true });
    (id ? byId(id) : document.body).dispatchEvent(pressed);
  };
  key("axial", "ArrowUp"); key("axial", "PageUp"); seen.scrolled = viewer.state.place[0];
  byId("coronal").dispatchEvent(new WheelEvent("wheel", { deltaY: 1 }));
  seen.wheeled = viewer.state.place[1];
  byId("next-lesion").click(); seen.lesion = [...viewer.state.place];
  const changed = {};
  const change = (id, act) => {
    const before = all().join();
    act();
    changed[id] = before !== all().join();
  };
  const set = (id, value) => () => {
    byId(id).value = value;
    byId(id).dispatchEvent(new Event("input"));
  };
  const click = (id) => () => byId(id).click();
  change("fusion", set("fusion", 90));
  change("below-window", set("below-window", "bone"));
  change("above-window", set("above-window", "SUV 0-40"));
  const ticks = ["fill", "show-reference", "show-prediction", "crosshair", "heat", "doubt"];
  for (const id of ticks.slice(0, 1)) change(id, click(id));
  const own = document.querySelectorAll("#keys input");
  change("own tick", () => own[0].click()); own[0].click();
  for (const id of ticks.slice(1)) change(id, click(id));
  change("below", set("below", 1));
  change("angle", set("angle", 60));
  change("arrow", () => key("mip", "ArrowRight"));
  const before = picture("mip"); byId("play").click(); await wait(400); byId("play").click();
  changed.play = before !== picture("mip");
  seen.changed = changed;
  const theme = document.documentElement.dataset.theme; byId("theme").click();
  seen.theme = theme !== document.documentElement.dataset.theme;
  byId("worst").click(); await opened(seen.first);
  const heads = document.querySelectorAll("#tables th button");
  const rows = () => [...document.querySelectorAll("#tables tbody tr")];
  const order = () => rows().map((row) => row.dataset.case);
  heads[0].click(); seen.byName = order(); heads[0].click(); seen.byNameFalling = order();
  heads[1].click(); seen.byDsc = order();
  document.querySelector("#tables tbody tr:last-child").click();
  await opened(seen.byDsc.at(-1)); seen.row = document.body.dataset.opened;
  seen.text = document.querySelector("#introduction p").textContent;
  seen.title = document.title;
  seen.bold = document.querySelectorAll("p b, td b").length;
  // The charts: a pointer, keys, ticks and the choice of what is shown.
  const [boxes, curves] = charts;
  const chartKey = (chart, name) =>
    chart.picture.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
  const chartPoint = (chart, x, y) => {
    const frame = chart.picture.getBoundingClientRect(), view = chart.picture.viewBox.baseVal;
    chart.picture.dispatchEvent(new PointerEvent("pointermove", {
      clientX: frame.left + x * frame.width / view.width,
      clientY: frame.top + y * frame.height / view.height }));
    return chart.said.textContent;
  };
  const choose = (chart, value) => {
    chart.choice.value = value;
    chart.choice.dispatchEvent(new Event("input"));
  };
  seen.boxes = boxes.panels.map((panel, i) => {
    choose(boxes, i);
    const drawn = [...boxes.picture.querySelectorAll("[data-box]")];
    return drawn.map((box) => JSON.parse(box.dataset.box));
  });
  seen.infinite = [...boxes.picture.querySelectorAll(".none")].map((text) => text.textContent);
  choose(boxes, 0);
  seen.dots = boxes.dots.map((d) => [d.group, d.name, d.value, chartPoint(boxes, d.x, d.y)]);
  seen.joined = boxes.joined.getAttribute("points").split(" ").length;
  chartPoint(boxes, boxes.dots[0].x, boxes.dots[0].y);
  seen.keys = ["ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight"].map((key) => {
    chartKey(boxes, key); return [boxes.chosen.group, boxes.chosen.name];
  });
  chartKey(boxes, "Enter"); await opened(boxes.chosen.name);
  seen.entered = document.body.dataset.opened;
  seen.curve = [0, 1, 2].map((epoch) => chartPoint(curves, curves.x(epoch), 100));
  chartKey(curves, "ArrowLeft"); seen.left = curves.said.textContent;
  curves.keys.querySelector("input").click();
  seen.unticked = chartPoint(curves, curves.x(1.6), 100);
  choose(curves, 1); seen.loss = chartPoint(curves, curves.x(1), 100);
  seen.chartBold = document.querySelectorAll("#charts b").length;
  document.body.dataset.seen = JSON.stringify(seen);
})().catch((error) => { document.body.dataset.seen = JSON.stringify({ error: String(error) }); });
"""


@pytest.fixture(scope="module")
def cases(cohort):
    return {name: read_case(cohort.path(name)) for name in sorted(cohort.cases)[:3]}


def predictions(case):
    masks = case.masks(("tumour",))
    return {"tumour": np.roll(masks["tumour"], 2, 2)}


def make_page(cases, path):
    page, scores = Page(), {}
    for number, (name, case) in enumerate(cases.items()):
        probability = case.masks(("tumour",))["tumour"] * 0.9
        content = pack_case(case, case.masks(("tumour",)), predictions(case), probability)
        scores[name] = dict.fromkeys(shown_in("page"), 0.9 - 0.1 * number)
        page.add(name, scores[name]["dsc"], content)
    shifted = {name: of | {"dsc": of["dsc"] - 0.05} for name, of in scores.items()}
    shifted[min(shifted)]["hd95"] = math.inf
    groups = {"<b>one</b>": scores, "other": shifted}
    lines = ["<b>series</b> & </script>"]
    page.write(
        path, title="<i>run</i>", lines=lines, tables={"Cases": metrics_table({"tumour": scores})},
        charts=[boxes("All cases", groups, ("dsc", "hd95")), learning_curves(LOGS)],
    )  # fmt: skip
    return groups


@pytest.fixture(scope="module")
def seen(cases, tmp_path_factory):
    if BROWSER is None:
        pytest.skip("Chromium is not installed")
    folder = tmp_path_factory.mktemp("page")
    path = folder / "report.html"
    groups = make_page(cases, path)
    text = path.read_text()
    script = f"<script>{SCRIPT.replace('PLACES', json.dumps(PLACES))}</script></body>"
    path.write_text(text.replace("</body>", script))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1400"]
    options += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=60000"]
    command = [BROWSER, *options, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    subprocess.run(
        [BROWSER, *options, f"--screenshot={folder / 'report.png'}", path.as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    assert (folder / "report.png").stat().st_size > 20_000
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stderr[-1000:]
    content = json.loads(html.unescape(found.group(1)))
    assert "error" not in content, content
    return content | {"groups": groups}


def test_the_values_under_the_cursor_are_the_arrays(seen, cases):
    assert seen["cases"].keys() == cases.keys()
    for name, case in cases.items():
        for place, values in zip(PLACES, seen["cases"][name], strict=True):
            for (image, data), value in zip(case.images.items(), values, strict=True):
                steps, true = steps_of(image, data), float(data[tuple(place)])
                assert value == pytest.approx(steps[np.abs(steps - true).argmin()], abs=1e-3)


def test_places_keys_wheel_and_lesions(seen, cases):
    assert seen["under"] == seen["clicked"] == [8, 4, 11]
    assert seen["scrolled"] == 15  # 8 + 1 + 10, and no further than the last slice
    assert seen["wheeled"] == 5
    case = list(cases.values())[-1]
    masks = case.masks(("tumour",))["tumour"] | predictions(case)["tumour"]
    assert masks[tuple(seen["lesion"])]


def test_every_control_does_something(seen):
    assert len(seen["changed"]) == 14
    assert all(seen["changed"].values()), seen["changed"]
    assert seen["theme"]


def test_tables_sort_and_open_cases_and_the_worst_comes_first(seen, cases):
    names = list(cases)
    assert seen["first"] == names[-1]
    assert seen["byName"] == names
    assert seen["byNameFalling"] == names[::-1]
    assert seen["byDsc"] == names[::-1]
    assert seen["row"] == names[0]


def test_text_with_html_in_it_is_shown_as_text(seen):
    assert seen["text"] == "<b>series</b> & </script>"
    assert seen["title"] == "<i>run</i>"
    assert seen["bold"] == 0


def test_box_plots_are_the_cases(seen):
    """As Matplotlib draws them, which does not share the code."""
    from matplotlib.cbook import boxplot_stats

    for metric, drawn in zip(("dsc", "hd95"), seen["boxes"], strict=True):
        for of_cases, box in zip(seen["groups"].values(), drawn, strict=True):
            values = [of[metric] for of in of_cases.values()]
            (stats,) = boxplot_stats([value for value in values if math.isfinite(value)])
            names = ("q1", "med", "q3", "whislo", "whishi", "mean")
            found = [box[name] for name in ("low", "middle", "high", "from", "to", "mean")]
            assert found == pytest.approx([stats[name] for name in names])
    assert seen["infinite"] == ["1 infinite"]


def test_a_dot_says_its_case_and_opens_it(seen):
    assert len(seen["dots"]) == 6
    for group, name, value, said in seen["dots"]:
        assert value == seen["groups"][group][name]["dsc"]
        assert said == f"{name}: DSC {value:.4f} ({group})"
    assert seen["joined"] == 2  # the case in both rows
    # The best of the first row; it in the second, where nothing is further right.
    best = max(seen["groups"]["other"], key=lambda name: seen["groups"]["other"][name]["dsc"])
    assert seen["keys"] == [["other", best]] * 4
    assert seen["entered"] == best
    assert seen["chartBold"] == 0


def test_curves_say_what_they_are_at_an_epoch(seen):
    one, two = ([c for c in log if "validation_dsc" in c] for log in LOGS.values())
    both = {c["epoch"]: f"epoch {c['epoch']}: network 1 {c['validation_dsc']:.4f}" for c in one}
    for c in two:
        both[c["epoch"]] += f"   network 2 {c['validation_dsc']:.4f}"
    assert seen["curve"] == list(both.values())
    assert seen["left"] == both[1]
    assert seen["unticked"] == "epoch 2: network 2 0.6000"
    assert seen["loss"] == "epoch 1: network 1 0.8000"  # alone, so that it has no tick


def test_what_a_page_holds_of_a_case(cases):
    case = next(iter(cases.values()))
    masks = case.masks(("tumour",))
    content = pack_case(case, masks, predictions(case))
    stored = np.frombuffer(gzip.decompress(base64.b64decode(content["masks"][0]["data"])), np.uint8)
    found = np.unpackbits(stored, count=masks["tumour"].size).reshape(masks["tumour"].shape)
    np.testing.assert_array_equal(found, masks["tumour"])
    assert {lesion["what"] for lesion in content["lesions"]} <= {"lesion", "false"}
    for lesion in content["lesions"]:
        if lesion["what"] == "lesion":
            assert masks["tumour"][tuple(lesion["centre"])]


def test_soft_tissue_is_kept_to_one_hounsfield_unit():
    data = np.arange(-160, 241, dtype=np.float32)
    steps = steps_of("ct", data)
    assert np.abs(steps[coded(data, steps)] - data).max() <= 1.01
    pet = np.linspace(0, 40, 999, dtype=np.float32)
    steps = steps_of("pet", pet)
    found = steps[coded(pet, steps)]
    assert np.abs(found - pet).max() <= 0.16
    assert np.abs(found - pet)[pet < 2.5].max() <= 0.04


def test_other_images_are_shown_in_256_values_between_their_percentiles():
    data = np.arange(10001, dtype=np.float32)
    steps = steps_of("mr", data)
    assert (len(steps), steps[0], steps[-1]) == (256, 10, 9990)
    assert len(steps_of("mr", np.zeros(9))) == 256  # constant: still rising
    assert (np.diff(steps_of("mr", np.zeros(9))) >= 0).all()


def test_a_value_that_is_not_finite_is_no_point_of_a_curve():
    lines = {"a": [(1, 0.5), (2, math.inf), (3, math.nan), (4, 0.75)], "b": []}
    panel = curves_panel("DSC", "epoch", lines)
    assert panel["lines"] == [{"name": "a", "points": [(1, 0.5), (4, 0.75)]}]


def test_of_many_cases_those_that_did_worst_are_kept(cases, tmp_path):
    case = next(iter(cases.values()))
    content = pack_case(case, case.masks(("tumour",)), predictions(case))
    page = Page(most=2)
    assert not page.is_full
    for name, score in (("a", 0.9), ("b", 0.2), ("c", 0.5), ("d", 0.7)):
        page.add(name, score, content)
    scores = {name: dict.fromkeys(shown_in("page"), 0.5) for name in "abcd"}
    page.write(
        tmp_path / "r.html",
        title="t",
        lines=[],
        tables={"Cases": metrics_table({"tumour": scores})},
    )
    text = (tmp_path / "r.html").read_text()
    assert page.is_full
    assert '[{"name": "b", "score": 0.2}, {"name": "c", "score": 0.5}]' in text
    assert re.findall(r'data-case="(.)"', text) == ["b", "c"]
    assert all(f"<td>{name}</td>" in text for name in "abcd")


def test_large_cases_are_shown_at_fewer_voxels(cases):
    import dataclasses

    case = next(iter(cases.values()))
    big = (160, 160, 160)
    images = {name: np.zeros(big, data.dtype) for name, data in case.images.items()}
    mask = np.zeros(big, bool)
    mask[100:120, 40:60, 80:90] = True
    content = pack_case(
        dataclasses.replace(case, images=images), {"tumour": mask}, {"tumour": mask}
    )
    assert content["shape"] == [80, 80, 80]
    assert content["spacing"] == pytest.approx([2 * s for s in case.meta["spacing_mm"]])
    (lesion,) = content["lesions"]
    assert mask[::2, ::2, ::2][tuple(lesion["centre"])]
    assert len(json.dumps(content)) < 4_000_000


def test_a_scan_in_any_orientation_is_turned_to_the_patients(cohort):
    """The same scan with its axes in other orders and directions gives the same page."""
    folder = cohort.folder / "scans" / "phantom_000"
    volumes = {name: read_volume(folder / f"{name}.nii.gz") for name in ("ct", "pet")}
    label = read_volume(folder / "label.nii.gz")
    kinds = {"ct": "ct", "pet": "pet"}
    plain = pack_scan(volumes, kinds, {"tumour": label.data > 0}, (label.data > 0) * 0.5)
    assert plain["lesions"]
    assert all(lesion["what"] == "found" for lesion in plain["lesions"])
    image = nibabel.Nifti1Image(volumes["ct"].data, volumes["ct"].affine)
    to_other = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt("PRI")
    )
    ct = image.as_reoriented(to_other)
    mask = nibabel.apply_orientation(label.data > 0, to_other)
    other = volumes | {"ct": Volume(np.asarray(ct.dataobj), ct.affine)}
    turned = pack_scan(other, kinds, {"tumour": mask}, mask * 0.5)
    np.testing.assert_allclose(turned.pop("affine"), plain.pop("affine"), atol=1e-4)
    np.testing.assert_allclose(turned.pop("spacing"), plain.pop("spacing"), rtol=1e-6)
    assert turned == plain
