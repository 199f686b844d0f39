"""A network that takes clicks, from training to the server."""

import base64
import gzip
import json

import jax
import nibabel
import numpy as np
import pytest

import isanet_jax.api as isa
from isanet_jax.annotate import page
from isanet_jax.annotate.desk import Desk
from isanet_jax.cases.preparation import Settings
from isanet_jax.cases.prepare_cohort import prepare
from isanet_jax.datasets.table import read_table
from isanet_jax.errors import ConfigError
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.prediction.rules import Rules
from isanet_jax.settings import to_dict
from isanet_jax.training.loop import train
from tests.conftest import small_config


@pytest.fixture(scope="module")
def guided(cohort_folder, tmp_path_factory):
    config = small_config(cohort_folder)
    config["data"]["guidance"] = "clicks"
    folder = tmp_path_factory.mktemp("guided") / "run"
    assert train(config, folder)
    return folder


def test_a_click_changes_what_is_found_where_it_is(guided, trained, cohort_folder):
    model = isa.load(guided)
    scan = cohort_folder / "scans" / "phantom_000"
    images = [str(scan / name) for name in ("ct.nii.gz", "pet.nii.gz")]
    alone = model.predict(*images)
    voxel = np.array(alone.mask.shape) // 2
    point = (alone.affine[:3, :3] @ voxel + alone.affine[:3, 3]) * [-1, -1, 1]
    with_click = model.predict(*images, clicks={"tumour": ([point], [])})
    changed = np.abs(with_click.probability - alone.probability)
    assert changed.max() > 0
    # One convolution of 3³ looks no further than the click's Gaussian: the change is around it.
    spacing = np.linalg.norm(alone.affine[:3, :3], axis=0)
    places = np.argwhere(changed > 0.5 * changed.max())
    assert np.linalg.norm((places - voxel) * spacing, axis=1).min() < 12.0 * 3
    again = model.predict(*images)
    np.testing.assert_array_equal(again.probability, alone.probability)
    # A network that was trained without clicks is answered for: likelier here, and least far away.
    plain = isa.load(trained)
    raised = plain.predict(*images, clicks={"tumour": ([point], [])}).probability
    raised -= plain.predict(*images).probability
    assert raised.min() >= -1e-6
    assert raised[tuple(voxel)] > 10 * raised[0, 0, 0]
    with pytest.raises(ConfigError, match="clicks of 'node'"):
        model.predict(*images, clicks={"node": ([point], [])})


def test_it_is_resumed_and_bundled(guided, cohort_folder, tmp_path):
    from isanet_jax.cli import bundle

    config = json.loads((guided / "config.json").read_text())
    assert config["data"]["guidance"] == "clicks"
    model = tmp_path / "m.isanet"
    bundle.main(["--workdir", str(guided), "--output", str(model)])
    assert to_dict(Predictor([model])._members[0].config)["data"]["guidance"] == "clicks"


def test_the_desk_gives_clicks_to_the_network(guided, cohort_folder, tmp_path):
    desk = Desk([cohort_folder / "scans"], tmp_path, Predictor([guided]))
    case = next(iter(desk.scans))
    grid = desk.grid(case)
    point = grid.affine[:3, :3] @ (np.array(grid.data.shape) // 2) + grid.affine[:3, 3]
    here = desk.guided(case, [point], [])
    away = desk.guided(case, [], [point])
    assert here.data.shape == away.data.shape == grid.data.shape


def test_no_click_waits_for_the_compiler(guided, cohort_folder, tmp_path, caplog):
    desk = Desk([cohort_folder / "scans"], tmp_path, Predictor([guided]))
    case = next(iter(desk.scans))
    point = desk.grid(case).affine[:3, 3]
    with jax.log_compiles():
        desk.predictor.quick.compile(clicks=True)
        assert any("ompil" in record.getMessage() for record in caplog.records)
        caplog.clear()
        desk.guided(case, [point], [])
    assert not [record for record in caplog.records if "ompil" in record.getMessage()]


def test_exported_it_takes_the_same_clicks(guided, trained, cohort_folder, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    from isanet_jax.cli import export
    from isanet_jax.export import isanet_onnx

    export.main(["--workdir", str(guided), str(trained), "--output", str(tmp_path / "m")])
    scan = cohort_folder / "scans" / "phantom_000"
    images = [str(scan / name) for name in ("ct.nii.gz", "pet.nii.gz")]
    model = isa.load([guided, trained])
    whole = model.predict(*images)
    centre = whole.affine[:3, :3] @ (np.array(whole.mask.shape) // 2) + whole.affine[:3, 3]
    given = ["--ct", images[0], "--pet", images[1], "--model", str(tmp_path / "m")]
    given += ["--output", str(tmp_path / "mask.nii.gz"), "--overwrite"]
    given += ["--probability", str(tmp_path / "p.nii.gz")]
    for clicks in ({}, {"tumour": ([(centre * [-1, -1, 1]).tolist()], [[5, 9, 2]])}):
        (tmp_path / "clicks.json").write_text(json.dumps(clicks))
        isanet_onnx.main([*given, "--clicks", str(tmp_path / "clicks.json")])
        found = nibabel.load(tmp_path / "p.nii.gz").get_fdata()
        expected = model.predict(*images, clicks=clicks or None).probability
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected - whole.probability).max() > 1e-3
    for clicks, message in (
        ({"node": [[], []]}, "clicks of 'node'; there are tumour"),
        ({"tumour": [[[1, 2]], []]}, "clicks of tumour are two lists of points"),
        ({"tumour": 5}, "clicks of tumour are two lists of points"),
        ({"tumour": [[[1, 2, float("nan")]], []]}, "clicks of tumour are two lists of points"),
    ):
        (tmp_path / "clicks.json").write_text(json.dumps(clicks))
        with pytest.raises(SystemExit, match=message):
            isanet_onnx.main([*given, "--clicks", str(tmp_path / "clicks.json")])
    export.main(["--workdir", str(trained), "--output", str(tmp_path / "n")])
    about = json.loads((tmp_path / "n" / "model.json").read_text())
    del about["click_lift"]  # as exported before
    (tmp_path / "n" / "model.json").write_text(json.dumps(about))
    plain = isanet_onnx.Model(tmp_path / "n")
    with pytest.raises(ValueError, match="takes no clicks"):
        plain._checked({"tumour": [[], []]})


def test_in_a_whole_body_a_click_is_answered_around_it(cohort_folder, tmp_path):
    settings = Settings(fit="whole", spacing_mm=9.0)
    scans = read_table(cohort_folder / "scans" / "cases.csv")
    prepare(scans, settings, tmp_path / "cases", kind="table", folds=3, seed=0, workers=1)
    config = small_config(tmp_path / "cases")
    config["data"] |= {"fit": "whole", "patch": 8, "spacing_mm": 9.0, "guidance": "clicks"}
    config["train"]["epochs"] = 1
    assert train(config, tmp_path / "run")
    predictor = Predictor([tmp_path / "run"])
    predictor.rules = {"tumour": Rules(threshold=0.3)}
    desk = Desk([cohort_folder / "scans"], tmp_path / "desk", predictor)
    case = next(iter(desk.scans))
    grid = desk.grid(case)
    voxel = np.array(grid.data.shape) // 2
    point = grid.affine[:3, :3] @ voxel + grid.affine[:3, 3]
    clicks = {"tumour": ([point], [])}
    # Who goes on with a draft does not wait for all of the body.
    mask, inside = desk.near(case, point, clicks, "tumour")
    assert mask[tuple(voxel)]
    assert not desk._predictions
    before = desk.infer(case).data > 0
    mask, inside = desk.near(case, point, clicks, "tumour")
    assert inside[tuple(voxel)]
    assert not mask[~inside].any()
    spread = np.ptp(np.argwhere(inside) @ grid.affine[:3, :3].T, axis=0)
    assert (spread > 4 * 9).all()  # 8 voxels, less one on either side
    assert (spread < 7 * 9).all()
    found = desk.guided(case, [point], []).data > 0
    np.testing.assert_array_equal(found[~inside], before[~inside])
    np.testing.assert_array_equal(found[inside], mask[inside])
    prepared, affine = desk._prepared(case, predictor.maker.digest)
    _, place, inner = predictor.around(prepared, affine, affine[:3, 3], clicks)
    np.testing.assert_array_equal(place, affine)  # at the body's own end nothing is left out
    assert inner[0, 0, 0] == 1
    assert not inner[:, :, -1].any()
    place = [int(n) for n in np.array(page.turned(desk, case, grid.data).shape) // 2]
    asked = {"place": place, "by": "network", "value": 50, "radius_mm": 30, "class": "tumour"}
    told = page.click(desk, case, asked | {"clicks": [{"place": place, "here": True}]})
    bits = np.unpackbits(np.frombuffer(gzip.decompress(base64.b64decode(told["within"])), np.uint8))
    assert 0 < bits.sum() < 0.9 * grid.data.size
