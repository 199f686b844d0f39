"""Three images, overlapping classes, voxels to ignore, cases of any shape: from files to scores."""

import csv
import dataclasses
import json

import jax.numpy as jnp
import nibabel
import numpy as np
import pytest

import isanet_jax as isa
from isanet_jax.cases.case import StoredCase, read_case, read_label_on_reference
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.classes import class_masks
from isanet_jax.cli import evaluate, predict, prepare
from isanet_jax.comparison.cell import run_cell
from isanet_jax.comparison.grid import Cell
from isanet_jax.comparison.report import write_comparison
from isanet_jax.datasets.phantom import make_phantom
from isanet_jax.distributed.mesh import make_mesh
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.evaluation.evaluate import MEAN, score_given
from isanet_jax.evaluation.report import SELECTION_NOTES
from isanet_jax.kinds import SOFT_TISSUE, WIDE
from isanet_jax.network import systems
from isanet_jax.nifti import write_volume
from isanet_jax.runs.log import read_log
from isanet_jax.settings import read, to_dict
from isanet_jax.settings.command_line import parse_command_line
from isanet_jax.training.check import check_config
from isanet_jax.training.setup import set_up
from isanet_jax.training.validate import validate
from isanet_jax.volume import Volume

IMAGES = ("ct", "pet", "t1")
# Values of the label: 1 and 2 are tumour, 2 its hot part; 5 is unknown.
CLASSES = ["whole=1,2", "hot=2"]


def make_scan(folder, number):
    """A phantom with a third image, its tumours in two parts, of a field of its own size."""
    ct, pet, label = make_phantom(np.random.default_rng(number))
    top = 60 - 5 * number
    cut = (slice(None), slice(None), slice(0, top))
    t1 = Volume((ct.data[cut] > -300) * (200.0 + number) + label.data[cut] * 100, ct.affine)
    values = label.data[cut] * np.where(np.arange(top) % 2, 1, 2).astype(np.uint8)
    values[:4, :4, :4] = 5
    volumes = {"ct": Volume(ct.data[cut], ct.affine), "pet": pet, "t1": t1}
    for name, volume in volumes.items():
        write_volume(folder / f"{name}.nii.gz", volume)
    write_volume(folder / "label.nii.gz", Volume(values, ct.affine))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    rows = ["case,ct,pet,t1,label"]
    for number in range(4):
        make_scan(folder / f"P{number}", number)
        files = [f"P{number}/{name}.nii.gz" for name in (*IMAGES, "label")]
        rows.append(",".join([f"P{number}", *files]))
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def cases(source):
    output = source / "cases"
    prepare.main(["table", "--source", str(source / "cases.csv"), "--output", str(output),
                  "--images", ",".join(IMAGES), "--classes", *CLASSES, "--ignore", "5",
                  "--fit", "whole", "--spacing-mm", "12", "12", "14", "--folds", "2",
                  "--workers", "1"])  # fmt: skip
    return output


@pytest.fixture(scope="module")
def config(cases):
    config = isa.get_config("phantom")
    config.data.cases, config.data.phantoms = str(cases), 0
    config.data.images, config.data.classes = IMAGES, ("whole", "hot")
    config.data.fit, config.data.spacing_mm = "whole", (12.0, 12.0, 14.0)
    config.data.patch = (4, 8, 8)
    config.data.ct_window, config.data.pet_scale = "cohort", "suv"
    config.model.name, config.model.levels = "plain", 2
    config.selection = "paper"
    config.train.epochs, config.train.steps_per_epoch, config.train.validate_every = 2, 3, 1
    return config


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "several"
    assert isa.train(config, workdir)
    return workdir


def test_a_ct_in_two_windows_is_two_images_of_the_network(cases, config, tmp_path):
    config = config.copy_and_resolve_references()
    config.data.ct_window = "both"
    config.augment.contrast_probability = 1.0  # of each channel
    config.train.epochs = 1
    assert isa.train(config, tmp_path / "run")
    predictor = isa.load(tmp_path / "run").predictor
    (description,) = predictor.descriptions
    assert description["ct_windows"] == [list(WIDE), list(SOFT_TISSUE)]
    names = systems.of_config(read(description["config"])).images
    assert names == ("ct", "ct_soft", *IMAGES[1:])
    cohort = read_cohort(cases)
    case = read_case(cohort.path(description["split"]["test"][0]))
    found = {}
    for value in (1500, 1100, 900, 240):
        ct = np.where(case.images["ct"] > 0, value, case.images["ct"])
        shown = dataclasses.replace(case, images=case.images | {"ct": ct})
        (found[value],) = predictor.probabilities([shown])
    np.testing.assert_array_equal(found[1500], found[1100])
    # What is one in the soft window is two in the wide one.
    assert np.abs(found[900] - found[240]).max() > 0


def test_nnunet_as_planned_for_the_cases_trains_and_predicts(cases, tmp_path, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    wanted = f"configs/nnunet.py:{cases}"
    config, _ = parse_command_line(["t", "--config", wanted, "--config.model.width=2"])
    assert (config["data"]["images"], config["data"]["classes"]) == ([*IMAGES], ["whole", "hot"])
    assert config["model"]["name"] == "nnunet"
    levels = len(config["model"]["strides"])
    assert levels == len(config["model"]["kernels"]) > 1
    divisors = np.prod(config["model"]["strides"], 0)
    assert not (np.array(config["data"]["patch"]) % divisors).any()
    shapes = [entry["shape"] for entry in read_cohort(cases).cases.values()]
    assert (np.array(config["data"]["patch"]) - np.median(shapes, 0) < divisors).all()
    config["train"] |= {"epochs": 1, "steps_per_epoch": 2, "batch": 1}
    config["selection"] = "paper"
    assert isa.train(config, tmp_path / "run")
    residual, _ = parse_command_line(["t", "--config", f"{wanted},resenc_m"])
    assert residual["model"]["name"] == "nnunet_resenc"
    for options, message in (
        ("configs/nnunet.py", "no cases to plan for"),
        (f"{wanted},huge", "no preset 'huge'"),
        ("configs/nnunet.py:absent", "no such folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_command_line(["t", "--config", options])


def test_a_case_of_any_shape_holds_images_and_bits(cases, source):
    cohort = read_cohort(cases)
    assert cohort.settings["classes"] == {"whole": [1, 2], "hot": [2]}
    shapes = set()
    for name in cohort.cases:
        case = read_case(cohort.path(name))
        shapes.add(case.label.shape)
        assert tuple(case.images) == IMAGES
        assert {image.shape for image in case.images.values()} == {case.label.shape}
        np.testing.assert_allclose(case.meta["spacing_mm"], [14, 12, 12])
        masks = case.masks(("whole", "hot"))
        assert not (masks["hot"] & ~masks["whole"]).any()
        assert 0 < masks["hot"].sum() < masks["whole"].sum()
        # The MRI's statistics are the body's, whatever air is around it.
        mean, sd = case.statistics["t1"]
        assert 150 < mean < 300
        assert sd < 100
        stored = StoredCase(cohort.path(name))
        for of_class in ("whole", "hot"):
            voxels = stored.samples(of_class)
            assert len(voxels) == masks[of_class].sum()
            assert masks[of_class][tuple(voxels.T)].all()
    assert len(shapes) > 1
    ignored = read_case(cohort.path("P0")).ignored
    assert ignored is not None


def test_a_ct_is_standardised_by_the_training_cases_tumours(cases, workdir):
    """As nnU-Net does: of the tumours' voxels, each case counting the same."""
    cohort, predictor = read_cohort(cases), isa.load(workdir).predictor
    (description,) = predictor.descriptions
    drawn = np.random.default_rng(0)
    values = []
    for name in description["split"]["train"]:
        case = read_case(cohort.path(name))
        of_tumour = case.images["ct"][case.masks(("whole",))["whole"]]
        values.append(drawn.choice(of_tumour, 10_000))
    values = np.concatenate(values).astype(float)
    low, high = np.percentile(values, (0.5, 99.5))
    expected = [low, high, values.mean(), values.std()]
    np.testing.assert_allclose(description["ct_windows"], [expected], rtol=0.03, atol=1.5)
    # The network is given what it was trained on.
    case = read_case(cohort.path(description["split"]["test"][0]))
    ct = np.full_like(case.images["ct"], int(high) + 500)
    given, more = (dict(case.images) | {"ct": ct + beyond} for beyond in (0, 200))
    replaced = (dataclasses.replace(case, images=images) for images in (given, more))
    a, b = (predictor.probabilities([one])[0] for one in replaced)
    np.testing.assert_array_equal(a, b)  # both are clipped


def test_training_validates_each_class(workdir, config):
    lines = read_log(workdir / "metrics.jsonl")
    checks = [line for line in lines if "validation_dsc" in line]
    assert checks[-1]["classes"].keys() == {"whole", "hot"}
    assert np.isfinite([line["loss"] for line in lines if "loss" in line]).all()
    check_config(to_dict(config))


def test_the_checkpoint_can_be_chosen_on_patches(config, tmp_path, cases):
    """By the exponential average of few patches' DSC, each class of all of them together."""
    config = to_dict(config)
    config["train"] |= {"validate_on": "patches"}
    run, _ = set_up(read(config), read_cohort(cases), make_mesh(1, 1))

    def always(value):
        def predict(params, images):
            shape = (*images["ct"].shape, 2)
            assert shape[1:4] == (4, 8, 8)
            return jnp.full(shape, value)

        return validate(dataclasses.replace(run, predict=predict), None, 3)

    nothing, everything = always(0.4), always(0.6)
    assert nothing["classes"] == {"whole": 0.0, "hot": 0.0}
    # Of 50 patches, and what is tumour of them: 2 t / (t + n).
    whole, hot = (score / (2 - score) for score in everything["classes"].values())
    assert 0 < hot < whole < 1
    assert always(0.6) == everything
    assert isa.train(config, tmp_path / "run")
    scores = [c["validation_dsc"] for c in read_log(tmp_path / "run" / "metrics.jsonl")
              if "validation_dsc" in c]  # fmt: skip
    averages = [scores[0], 0.9 * scores[0] + 0.1 * scores[1]]
    (description,) = isa.load(tmp_path / "run").predictor.descriptions
    assert description["progress"]["best_dsc"] == pytest.approx(max(averages))
    evaluate.main(["--workdir", str(tmp_path / "run")])
    report = (tmp_path / "run" / "eval" / "report.md").read_text()
    assert "exponential average of the validation patches' DSC" in report
    volumes = config | {"data": config["data"] | {"fit": "crop", "patch": 0}}
    with pytest.raises(ConfigError, match="whole volumes are validated on cases"):
        check_config(volumes)


def test_an_evaluation_has_each_class_and_their_mean(workdir):
    evaluate.main(["--workdir", str(workdir), "--overwrite"])
    content = json.loads((workdir / "eval" / "metrics.json").read_text())
    assert content["classes"].keys() == {"whole", "hot"}
    for case, mean in content["cases"].items():
        each = [content["classes"][name]["cases"][case] for name in ("whole", "hot")]
        assert mean["dsc"] == pytest.approx(np.mean([m["dsc"] for m in each]))
        assert mean["tp"] == sum(m["tp"] for m in each)
    aggregated = [content["classes"][name]["summary"]["dsc_agg"] for name in ("whole", "hot")]
    assert content["summary"]["dsc_agg"] == pytest.approx(np.mean(aggregated))
    with open(workdir / "eval" / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == {"whole", "hot", MEAN}
    assert "network: hot" in (workdir / "eval" / "report.md").read_text()


def test_a_comparison_has_a_table_of_each_class_and_of_their_mean(workdir, config, tmp_path):
    plain = to_dict(config)
    assert run_cell(read(plain), workdir, thresholds=False)
    comparison = {
        "title": "Two classes", "dataset": "own", "size": "smoke", "recipe": "shared",
        "base": plain, "order": ["isa"], "methods": {"isa": {"label": "ISA", "published": {}}},
        "reference": "isa", "thresholds": False, "folds": [0], "seeds": [0], "curve": "",
    }  # fmt: skip
    cells = [Cell("isa", 0, 0, read(plain), workdir)]
    write_comparison(tmp_path, comparison, cells, {})
    report = (tmp_path / "report.md").read_text()
    for heading in ("## Results, mean over whole, hot", "## whole", "## hot"):
        assert heading in report
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "dsc"]
    assert [row["class"] for row in rows] == [MEAN, "whole", "hot"]
    mean, *each = (float(row["mean"]) for row in rows)
    assert mean == pytest.approx(np.mean(each), abs=1e-6)
    assert (tmp_path / "boxes_hot.png").exists()
    assert f'- Selection "paper": {SELECTION_NOTES["paper"]}.' in report
    # Methods of a selection of their own are named with it.
    comparison["methods"]["last"] = {"label": "the last", "published": {}}
    other = Cell("last", 0, 0, read(plain | {"selection": "none"}), tmp_path / "last")
    write_comparison(tmp_path, comparison | {"order": ["isa", "last"]}, [*cells, other], {})
    report = (tmp_path / "report.md").read_text()
    for name, label in (("paper", "ISA"), ("none", "the last")):
        assert f'- Selection "{name}": {SELECTION_NOTES[name]} ({label}).' in report


def test_given_masks_are_read_as_predictions_are_written(cases, tmp_path):
    """Of classes that overlap, a voxel has one value and may belong to both."""
    cohort = read_cohort(cases)
    for case in cohort.cases:
        label = read_label_on_reference(cohort.path(case))
        masks = class_masks(label.data, cohort.settings, ("whole", "hot"))
        values = np.where(masks["hot"], 2, masks["whole"]).astype(np.uint8)
        write_volume(tmp_path / f"{case}.nii.gz", Volume(values, label.affine))
    scores = score_given(cohort, sorted(cohort.cases), tmp_path, ("whole", "hot"), lambda *_: None)
    assert scores.keys() == {"whole", "hot", MEAN}
    for of_class in scores.values():
        assert [m["dsc"] for m in of_class["ct"]["network"].values()] == [1.0] * len(cohort.cases)


def test_a_prediction_has_a_value_for_each_class(workdir, source, tmp_path, capsys):
    at = source / "P1"
    images = ["--ct", str(at / "ct.nii.gz"), "--pet", str(at / "pet.nii.gz")]
    images += ["--image", f"t1={at / 't1.nii.gz'}"]
    run = isa.load(workdir)
    found = run.predict(*(str(at / f"{name}.nii.gz") for name in IMAGES))
    by_name = run.predict(
        str(at / "ct.nii.gz"), t1=str(at / "t1.nii.gz"), pet=str(at / "pet.nii.gz")
    )
    np.testing.assert_array_equal(found.probability, by_name.probability)
    words = ["--workdir", str(workdir), *images]
    predict.main([*words, "--output", str(tmp_path / "m.nii.gz"), "--lesions",
                  str(tmp_path / "l.csv")])  # fmt: skip
    written = np.asarray(nibabel.load(tmp_path / "m.nii.gz").dataobj)
    masks = found.masks
    np.testing.assert_array_equal(written == 2, masks["hot"])
    np.testing.assert_array_equal(written == 1, masks["whole"] & ~masks["hot"])
    assert found.mask.sum() == (masks["whole"] | masks["hot"]).sum()
    rows = list(csv.DictReader((tmp_path / "l.csv").read_text().splitlines()))
    assert {row["class"] for row in rows} == {n for n, mask in masks.items() if mask.any()}
    predict.main([*words, "--output", str(tmp_path / "hot.nii.gz"), "--class", "hot"])
    alone = np.asarray(nibabel.load(tmp_path / "hot.nii.gz").dataobj)
    np.testing.assert_array_equal(alone, masks["hot"])
    with pytest.raises(ConfigError, match="--class is 'cold'; this run has whole, hot"):
        predict.main([*words, "--output", str(tmp_path / "c.nii.gz"), "--class", "cold"])
    with pytest.raises(ConfigError, match="give --ct and --pet and --image t1=FILE, or --table"):
        predict.main([*words[:-2], "--output", str(tmp_path / "d.nii.gz")])
    with pytest.raises(ConfigError, match="this run takes ct, pet, t1"):
        run.predict(str(at / "ct.nii.gz"))
    with pytest.raises(ConfigError, match="this run takes ct, pet, t1"):
        run.predict(*(str(at / f"{name}.nii.gz") for name in IMAGES), ct="another.nii.gz")
    capsys.readouterr()


def test_without_jax_the_same_values_are_found(workdir, source, tmp_path):
    """Windows over a case of any shape, three images, two classes, by onnxruntime."""
    pytest.importorskip("onnxruntime")
    from isanet_jax.cli import export
    from isanet_jax.export import isanet_onnx

    export.main(["--workdir", str(workdir), "--output", str(tmp_path / "model")])
    files = [str(source / "P2" / f"{name}.nii.gz") for name in IMAGES]
    images = ["--ct", files[0], "--pet", files[1], "--image", f"t1={files[2]}"]
    found = []
    for name, program, model in (
        ("a", predict.main, ["--workdir", str(workdir)]),
        ("b", isanet_onnx.main, ["--model", str(tmp_path / "model")]),
    ):
        paths = [tmp_path / f"{name}{kind}.nii.gz" for kind in "mp"]
        program([*model, *images, "--output", str(paths[0]), "--probability", str(paths[1])])
        found.append([np.asarray(nibabel.load(path).dataobj) for path in paths])
    assert found[0][1].std() > 1e-3
    np.testing.assert_allclose(found[1][1], found[0][1], atol=1e-5)
    assert (found[0][0] != found[1][0]).mean() < 1e-5


def test_ignored_voxels_change_nothing(source, tmp_path, capsys):
    """Masks scored with and without what is unknown; a prediction there counts as neither."""
    reference = nibabel.load(source / "P0" / "label.nii.gz")
    values = np.asarray(reference.dataobj).copy()
    for folder in ("p", "r"):
        (tmp_path / folder).mkdir()
    nibabel.save(reference, tmp_path / "r" / "a.nii.gz")
    values[values == 5] = 2
    nibabel.save(nibabel.Nifti1Image(values, reference.affine), tmp_path / "p" / "a.nii.gz")
    words = ["--predictions", str(tmp_path / "p"), "--references", str(tmp_path / "r")]
    words += ["--classes", *CLASSES, "--output", str(tmp_path / "o"), "--overwrite"]
    evaluate.main([*words, "--ignore", "5"])
    content = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert content["summary"]["dsc"]["mean"] == 1
    with pytest.raises(DataError, match="label values 0, 1, 2, 5"):
        evaluate.main(words)
    capsys.readouterr()


def test_a_case_that_lacks_an_image_is_named_or_left_out(source, tmp_path, capsys):
    table = (source / "cases.csv").read_text().replace("P3/t1.nii.gz", "P3/absent.nii.gz")
    (source / "lacking.csv").write_text(table)
    words = ["table", "--source", str(source / "lacking.csv"), "--output", str(tmp_path / "o"),
             "--images", "ct,pet,t1", "--label-values", "1,2,5", "--size", "16", "--folds", "2",
             "--workers", "1"]  # fmt: skip
    with pytest.raises(DataError, match="case P3: no MR t1"):
        prepare.main(words)
    prepare.main([*words, "--skip-bad"])
    assert sorted(read_cohort(tmp_path / "o").cases) == ["P0", "P1", "P2"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": ("ct", "pet", "t2")},
            "have the images ct, pet, t1; the config says ct, pet, t2",
        ),
        ({"classes": ("whole", "cold")}, "have the classes whole, hot.*--config.data.classes="),
        ({"spacing_mm": 12.0}, r"spacing_mm \[12.0, 12.0, 14.0\]; the config says spacing_mm 12"),
        ({"patch": 0}, "cases of any shape are trained on in patches"),
        ({"patch": (8, 8)}, "give one number or three numbers"),
        ({"patch": (0, 8, 8)}, "give 0, or voxels along each axis"),
        ({"patch": (4, 8, 6), "images": ("ct", "pet", "t1")}, r"8 x 6 \(H x W\)"),
    ],
)
def test_a_config_that_does_not_fit_the_cases_is_refused(config, tmp_path, changes, message):
    config = to_dict(config)
    config["data"] |= to_dict(changes)
    config["model"]["name"] = "isa"  # whose attention wants square slices
    with pytest.raises(ConfigError, match=message):
        isa.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_class_and_two_images_of_such_a_cohort_can_be_learnt(config, tmp_path):
    config = to_dict(config)
    config["data"] |= {"images": ["ct", "t1"], "classes": ["hot"]}
    config["train"] |= {"epochs": 1, "steps_per_epoch": 1}
    assert isa.train(config, tmp_path / "run")
    run = isa.load(tmp_path / "run")
    assert (run.predictor.classes, tuple(run.predictor.settings.images)) == (("hot",), ("ct", "t1"))
