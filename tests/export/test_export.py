"""Trained networks without JAX: what onnxruntime and the single file compute is what we do."""

import ast
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from jax import lax

from isanet_jax.cases.case import read_case
from isanet_jax.cli import export, predict
from isanet_jax.datasets.phantom import make_phantom
from isanet_jax.errors import ConfigError
from isanet_jax.export import isanet_onnx, model
from isanet_jax.files import write_json
from isanet_jax.network import systems
from isanet_jax.nifti import write_volume
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.volume import Volume

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from isanet_jax.export.onnx_graph import to_onnx  # noqa: E402

STDLIB_AND = {"nibabel", "numpy", "onnxruntime", "scipy"}


def run(exported, images):
    onnx.checker.check_model(exported, full_check=True)
    session = onnxruntime.InferenceSession(exported.SerializeToString())
    return session.run(None, images)[0]


def moved(params, generator):
    """Parameters of which none is what it is at the start: zeros and ones hide what is left out."""
    return jax.tree.map(
        lambda x: np.asarray(x) + 0.1 * generator.standard_normal(x.shape).astype(np.float32),
        params,
    )


FLAT = {"strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)), "kernels": ((1, 3, 3), (1, 3, 3), (3, 3, 3))}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        *((name, {}) for name in systems.SYSTEMS if name != "plain"),
        ("nnunet", FLAT),
        ("nnunet_resenc", FLAT),
    ],
)
def test_every_system_is_as_in_jax(name, own, generator):
    """Those that nnU-Net's rules plan for thick slices, too."""
    settings = {"name": name, "width": 4, "levels": 3, "convolution": "native"} | own
    config = systems.resolve(16, settings)
    graphdef, params = systems.create(config, jax.random.key(0))
    params = moved(params, generator)
    shape = (1, 16, 16, 16)
    images = {k: generator.normal(size=shape).astype(np.float32) for k in ("pet", "ct")}

    def probability(params, images):
        image = jnp.stack([images["ct"], images["pet"]], -1)
        return jax.nn.sigmoid(systems.apply(graphdef, params, image).logits)

    exported = to_onnx(lambda x: probability(params, x), dict.fromkeys(images, shape), "p")
    expected = np.asarray(jax.jit(probability)(params, images))
    found = run(exported, images)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert expected.std() > 1e-3


def boxed(images):
    """A box at a place that follows from the image, taken out and put into another."""
    x, start = images["x"], jnp.int32(images["x"][0, 0, 0, 0] * 10)
    starts = jnp.stack([start, start - 3, 9 * start])[None]
    box = jax.vmap(lambda v, s: lax.dynamic_slice(v, s, (2, 3, 2)))(x, starts)
    return jax.vmap(lax.dynamic_update_slice)(-x, box + 1, starts - 1)


@pytest.mark.parametrize(
    "function",
    [
        lambda i: jnp.einsum("bdhw,bdkw->bhkd", i["x"], i["x"] + 1),
        lambda i: lax.conv_general_dilated(
            i["x"][..., None],
            jnp.arange(27.0).reshape(3, 3, 3, 1, 1),
            (1, 1, 1),
            [(1, 2), (1, 2), (1, 2)],
            lhs_dilation=(2, 2, 2),
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        ),
        lambda i: lax.conv_general_dilated(
            jnp.tile(i["x"][..., None], 2),
            jnp.arange(54.0).reshape(3, 1, 3, 1, 6),
            (1, 2, 1),
            [(2, 2), (0, 0), (2, 2)],
            rhs_dilation=(2, 1, 2),
            feature_group_count=2,
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        ),
        lambda i: jnp.pad(i["x"], ((0, 0), (1, 2), (0, 0), (0, 1)), constant_values=-3.0),
        lambda i: jnp.where(i["x"].max((1, 3), keepdims=True) > 0.5, i["x"], 2.0)[:, ::2, 1:],
        lambda i: jnp.broadcast_to(i["x"][:, :1, :, :1], i["x"].shape).sum((1, 2)),
        lambda i: jnp.stack(jnp.split(jax.nn.elu(i["x"]), 2, 1)) ** 3,
        lambda i: jnp.clip(jnp.log(jnp.abs(i["x"]) + 1), 0.1, 0.4) + (i["x"] > 0).any(2)[..., None],
        boxed,
    ],
)
def test_operations(function, generator):
    images = {"x": generator.uniform(-1, 1, (1, 4, 4, 4)).astype(np.float32)}
    expected = np.asarray(function(images))
    found = run(to_onnx(function, {"x": (1, 4, 4, 4)}, "y"), images)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_what_is_not_known_is_refused_by_its_name():
    with pytest.raises(ConfigError, match="'cumsum', which is not exported"):
        to_onnx(lambda i: jnp.cumsum(i["x"], 1), {"x": (1, 4)}, "y")
    with pytest.raises(ConfigError, match="more than one box"):
        to_onnx(lambda i: i["x"][0, jnp.int32(i["x"][0, :3])], {"x": (1, 4)}, "y")


def test_sums_over_large_volumes_keep_their_digits(generator):
    """A float32 sum in one go, as onnxruntime does it, is off by 1e-4 of the mean here."""
    x = generator.uniform(0.5, 1.5, (1, 64, 64, 64, 2)).astype(np.float32)
    found = run(to_onnx(lambda i: i["x"].sum((1, 2, 3)), {"x": x.shape}, "y"), {"x": x})
    np.testing.assert_allclose(found, x.sum((1, 2, 3), dtype=np.float64), rtol=1e-6)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A phantom within the network's field of 192 mm, and one of twice its height."""
    folder = tmp_path_factory.mktemp("scans")
    ct, pet, _ = make_phantom(np.random.default_rng(5))
    for name, volume in (("ct", ct), ("pet", pet)):
        write_volume(folder / f"{name}.nii.gz", volume)
        tall = np.concatenate([volume.data, volume.data[..., ::-1]], 2)
        write_volume(folder / f"tall_{name}.nii.gz", Volume(tall, volume.affine))
    return folder


def predicted(runs, scans, tmp_path, *, tall="", options=(), rules=None):
    """(ours, that of the single file): labels and probability."""
    images = ["--ct", str(scans / f"{tall}ct.nii.gz"), "--pet", str(scans / f"{tall}pet.nii.gz")]
    output, found = tmp_path / "model", []
    rules = ["--rules", str(rules)] if rules else []
    export.main(["--workdir", *map(str, runs), "--output", str(output), *rules, "--overwrite"])
    for program, more in (
        (predict.main, ["--workdir", *map(str, runs), *rules]),
        (isanet_onnx.main, ["--model", str(output)]),
    ):
        paths = [tmp_path / f"{len(found)}{kind}.nii.gz" for kind in "mp"]
        written = ["--output", str(paths[0]), "--probability", str(paths[1]), "--overwrite"]
        program([*more, *images, *written, *options])
        found.append([nibabel.load(path) for path in paths])
    return found


def assert_same(found):
    (mask, probability), (mask_there, probability_there) = found
    values, values_there = (np.asarray(p.dataobj) for p in (probability, probability_there))
    np.testing.assert_allclose(values_there, values, atol=1e-5)
    assert values.std() > 1e-3
    labels, labels_there = (np.asarray(m.dataobj) for m in (mask, mask_there))
    assert mask.header.binaryblock == mask_there.header.binaryblock
    # Equal but for what lies at the threshold within the probability's difference.
    assert (labels != labels_there).mean() < 1e-5
    return labels


@pytest.mark.parametrize("tall", ["", "tall_"])
def test_the_single_file_predicts_as_we_do(trained, trained_again, scans, tmp_path, tall, capsys):
    found = predicted([trained, trained_again], scans, tmp_path, tall=tall)
    assert_same(found)
    out = capsys.readouterr().out
    assert "opset 18; probabilities differ from JAX's by at most" in out
    about = json.loads((tmp_path / "model" / "model.json").read_text())
    assert [n["file"] for n in about["networks"]] == ["network0.onnx", "network1.onnx"]


def test_rules_boxes_and_mirror_images_too(trained, scans, tmp_path, mirrored):
    rules = tmp_path / "rules.json"
    of_class = {"threshold": 0.4, "smallest_ml": 3.0, "least_suv_max": 1.0, "largest_only": True}
    write_json(rules, {"classes": {"tumour": of_class}})
    box = ["--box", "-60", "60", "-60", "60", "-60", "60"]
    plain = assert_same(predicted([trained], scans, tmp_path, options=box, rules=rules))
    mirrored()
    eight = assert_same(predicted([trained], scans, tmp_path, options=box, rules=rules))
    assert (plain != eight).any()


def test_stablehlo_is_read_back_by_jax(trained, cohort, tmp_path):
    from jax import export as jax_export

    predictor = Predictor([trained])
    (made,) = model.write_model(predictor, tmp_path / "m", formats=["stablehlo"])
    content = (tmp_path / "m" / made["file"]).read_bytes()
    case = read_case(cohort.path(sorted(cohort.cases)[0]))
    images = {name: x.astype(np.float32)[None] for name, x in case.images.items()}
    found = jax_export.deserialize(bytearray(content)).call(images)
    expected = predictor.probabilities([case])[0]
    np.testing.assert_allclose(np.asarray(found)[0], expected, atol=1e-5)


def test_the_single_file_needs_four_packages_only(trained, tmp_path):
    tree = ast.parse((model._RUNNER).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    assert names - set(sys.stdlib_module_names) == STDLIB_AND


def test_what_goes_wrong_is_said_in_a_line(trained, scans, tmp_path, capsys):
    output = tmp_path / "model"
    arguments = ["--workdir", str(trained), "--output", str(output), "--format", "onnx"]
    export.main([*arguments, "--no-check"])
    assert "differ" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="holds a model already; add --overwrite"):
        export.main(arguments)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        export.main([*arguments[:3], str(tmp_path / "other"), "--overwrite"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "difference", lambda *_: 2e-3)
        with pytest.raises(ConfigError, match="differ by 2.0e-03 from JAX's"):
            export.main([*arguments, "--overwrite"])
    assert (output / "model.json").is_file()  # as it was
    given = ["--ct", str(scans / "ct.nii.gz"), "--output", str(tmp_path / "m.nii.gz")]
    wave = nibabel.Nifti1Image(np.ones((4, 4, 4), np.complex64), np.eye(4))
    nibabel.save(wave, tmp_path / "wave.nii.gz")
    for more, message in (
        ([], "this model takes ct, pet; give each of them"),
        (["--pet", str(scans / "none.nii.gz")], "none.nii.gz"),
        (["--pet", str(output / "network0.onnx")], "network0.onnx"),
        (["--pet", str(tmp_path / "wave.nii.gz")], "one real number a voxel is needed"),
    ):
        ended = subprocess.run(
            [sys.executable, str(output / "isanet_onnx.py"), *given, *more],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 1
        assert ended.stderr.startswith("error: ")
        assert message in ended.stderr
    about = json.loads((output / "model.json").read_text())
    for lie, message in (
        ({"format": 2}, "newer version: take the isanet_onnx.py beside it"),
        ({"settings": about["settings"] | {"size": 1e9}}, "size cannot be so"),
        ({"settings": about["settings"] | {"spacing_mm": float("nan")}}, "spacing_mm cannot be"),
        ({"settings": 5}, "model.json is damaged"),
        ({"values": {"tumour": 0}}, "values cannot be so"),
        ({"rules": {"tumour": about["rules"]["tumour"] | {"threshold": 2}}}, "rule of tumour"),
        ({"networks": []}, "networks cannot be so"),
        ({"networks": [about["networks"][0] | {"file": "../x.onnx"}]}, "network 0 cannot be so"),
        ({"networks": [about["networks"][0] | {"shape": [1, 2]}]}, "network 0 cannot be so"),
        ({"networks": [about["networks"][0] | {"file": "network7.onnx"}]}, "no ordinary file"),
    ):
        (tmp_path / "lying").mkdir(exist_ok=True)
        (tmp_path / "lying" / "model.json").write_text(json.dumps(about | lie))
        if not (tmp_path / "lying" / "network7.onnx").exists():
            (tmp_path / "lying" / "network7.onnx").symlink_to("/dev/zero")
        with pytest.raises(ValueError, match=message):
            isanet_onnx.Model(tmp_path / "lying")
    network = output / "network0.onnx"
    content = bytearray(network.read_bytes())
    content[len(content) // 2] ^= 1
    network.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="network0.onnx is not what was exported"):
        isanet_onnx.Model(output)


def test_without_onnx_it_is_said_how_to_get_it(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match="needs the package onnxruntime: pip install"):
        export.main(["--workdir", str(trained), "--output", str(tmp_path / "m")])
