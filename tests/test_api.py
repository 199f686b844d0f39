"""The Python interface, by its own examples and beside the programs."""

import doctest
import json
import logging
import os
import subprocess
import sys
import types

import jax
import nibabel
import numpy as np
import pytest
from flax import nnx

import isanet_jax as isa
from isanet_jax import api
from isanet_jax.cli.predict import main as predict_command
from isanet_jax.datasets.phantom import write_phantoms
from isanet_jax.errors import CheckpointError, ConfigError, DataError


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with four scans and their table, where the examples run."""
    write_phantoms(tmp_path / "scans", cases=4, seed=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_of_the_interface(workplace, capsys):
    """In the order of the functions: what one makes, the next reads."""
    names = {"isa": isa, "np": np}
    finder = doctest.DocTestFinder(recurse=False)
    functions = [
        *(api.get_config, api.prepare, api.build, api.train, api.evaluate, api.load),
        *(isa.case_metrics, api.Model.predict),
    ]
    for function in functions:
        (example,) = finder.find(function, globs=names)
        assert example.examples, function.__name__
        example.globs = names
        result = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(
            example, clear_globs=False
        )
        assert not result.failed, capsys.readouterr().out
    errors = {"ConfigError", "DataError", "CheckpointError"}
    assert {f.__name__ for f in functions[:-1]} | errors == set(isa.__all__) - {
        *("__version__", "runtime")
    }


@pytest.fixture
def patient(cohort_folder):
    return cohort_folder / "scans" / "phantom_000"


def test_a_prediction_is_the_commands_whatever_form_the_images_have(trained, patient, tmp_path):
    ct, pet = patient / "ct.nii.gz", patient / "pet.nii.gz"
    words = ["--workdir", str(trained), "--ct", str(ct), "--pet", str(pet)]
    output = ["--output", str(tmp_path / "m.nii.gz"), "--probability", str(tmp_path / "p.nii.gz")]
    predict_command([*words, *output])
    mask, probability = (
        np.asarray(nibabel.load(tmp_path / f"{n}.nii.gz").dataobj) for n in ("m", "p")
    )
    run = isa.load(trained)
    images = [nibabel.load(path) for path in (ct, pet)]
    arrays = [(np.asarray(image.dataobj), image.affine) for image in images]
    for one, other in ((ct, str(pet)), images, arrays):
        found = run.predict(one, other)
        np.testing.assert_array_equal(found.mask, mask > 0)
        np.testing.assert_array_equal(found.probability, probability)
        np.testing.assert_allclose(found.affine, images[0].affine, atol=1e-5)
    found.save(tmp_path / "again.nii.gz")
    np.testing.assert_array_equal(nibabel.load(tmp_path / "again.nii.gz").dataobj, mask)
    with pytest.raises(DataError, match="exists already"):
        found.save(tmp_path / "again.nii.gz")
    with pytest.raises(DataError, match="the CT is not DICOM"):
        found.save(tmp_path / "a.dcm", format="rtstruct")
    with pytest.raises(ConfigError, match="format 'png'"):
        found.save(tmp_path / "a.png", format="png")
    total = sum(row["mtv_ml"] for row in found.lesions())
    assert total == pytest.approx(found.mask.sum() * abs(np.linalg.det(found.affine)) / 1000)
    assert ((found.uncertainty >= 0) & (found.uncertainty <= 1)).all()


def test_an_ensemble_is_a_list(trained, trained_again, patient):
    ct, pet = patient / "ct.nii.gz", patient / "pet.nii.gz"
    one, other = (isa.load(w).predict(ct, pet).probability for w in (trained, trained_again))
    both = isa.load([trained, trained_again]).predict(ct, pet).probability
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-6)


def test_what_is_wrong_is_an_error_that_says_so(trained, patient, tmp_path):
    run = isa.load(trained)
    ct, pet = (nibabel.load(patient / f"{n}.nii.gz") for n in ("ct", "pet"))
    bad = np.asarray(pet.dataobj).copy()
    bad[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="case P7.*1 of .* voxels are NaN"):
        run.predict(ct, (bad, pet.affine), case="P7")
    with pytest.raises(ConfigError, match="box .* is empty"):
        run.predict(ct, pet, box=(0, 0, 0, 1, 0, 1))
    with pytest.raises(DataError, match="no such file"):
        run.predict(tmp_path / "absent.nii.gz", pet)
    with pytest.raises(ConfigError, match="1 images and none by name are given; this run takes"):
        run.predict(ct)
    with pytest.raises(ConfigError, match="1 images and mr by name are given"):
        run.predict(ct, mr=pet)
    with pytest.raises(CheckpointError, match="no trained network"):
        isa.load(tmp_path)
    with pytest.raises(ConfigError, match="there is no config 'hecktr'"):
        isa.get_config("hecktr")
    with pytest.raises(ConfigError, match="model.fusion is 'product', and vnet has no such part"):
        isa.build("vnet", size=16, fusion="product")


def test_a_run_is_resumed_from_python_with_the_configs_own_types(cohort_folder, tmp_path, capsys):
    """Tuples, which JSON has not, and a ConfigDict."""
    config = isa.get_config("phantom")
    config.data.cases = str(cohort_folder)
    config.data.size, config.data.spacing_mm = 16, 12.0
    config.model.name, config.model.levels, config.train.epochs = "plain", 2, 1
    config.selection = "paper"
    before = config.to_json_best_effort()
    assert isa.train(config, tmp_path / "r")
    for again in (config, config.to_dict(), json.loads(json.dumps(config.to_dict()))):
        assert isa.train(again, str(tmp_path / "r"))
    assert config.to_json_best_effort() == before
    shown = capsys.readouterr().out
    assert shown.count("is trained already") == 3
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    assert f"GiB of {memory:.1f} GiB a device" in shown


def test_a_system_is_an_ordinary_module():
    model = isa.build("unet", size=16, width=2, levels=3, seed=3)
    assert isinstance(model, nnx.Module)
    image = np.random.default_rng(0).random((2, 16, 16, 16, 2), np.float32)
    logits = model(image).logits
    assert logits.shape == (2, 16, 16, 16, 1)
    same = isa.build("unet", size=16, width=2, levels=3, seed=3)(image).logits
    np.testing.assert_array_equal(logits, same)
    shapes = nnx.eval_shape(lambda: isa.build("unet", size=16, width=2, levels=3))
    leaves = jax.tree.leaves(nnx.state(shapes, nnx.Param))
    assert leaves
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    own = isa.build("xie2021", size=64)  # its own width and levels, not another system's
    assert (own.config.width, own.config.levels) == (32, 5)


def test_the_package_is_imported_in_no_time_and_changes_nothing():
    code = """
import sys, time, signal, logging, warnings
before = (signal.getsignal(signal.SIGINT), threading_hook := sys.excepthook, sys.stdout)
start = time.perf_counter()
import isanet_jax
took = time.perf_counter() - start
assert "jax" not in sys.modules and "numpy" not in sys.modules
import matplotlib, pydicom, jax, os
kept = (matplotlib.get_backend(auto_select=False),
        pydicom.config.settings.reading_validation_mode,
        jax.config.jax_use_shardy_partitioner, jax.config.jax_platforms, dict(os.environ))
import importlib, pkgutil
for module in pkgutil.walk_packages(isanet_jax.__path__, "isanet_jax."):
    importlib.import_module(module.name)
after = (matplotlib.get_backend(auto_select=False),
         pydicom.config.settings.reading_validation_mode,
         jax.config.jax_use_shardy_partitioner, jax.config.jax_platforms, dict(os.environ))
assert kept == after, (kept, after)
assert before == (signal.getsignal(signal.SIGINT), sys.excepthook, sys.stdout)
print(took)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < 1  # 5 ms; ten times the aim where the machine is busy


def test_a_config_has_the_variant_after_its_colon():
    assert isa.get_config("own/xie2021:sts").data.cases == "cases/sts"
    assert isa.get_config("own/xie2021").data.cases == "cases/hecktor"
    small = isa.get_config("compare/table2:sts,smoke")
    assert (small.base.data.cases, small.size) == ("cases/sts32", "smoke")


def test_what_a_training_says_can_be_silenced(config, tmp_path, capsys):
    logger = logging.getLogger("isanet_jax")
    logger.setLevel(logging.WARNING)
    try:
        isa.train(config, tmp_path / "r")
    finally:
        logger.setLevel(logging.INFO)
    assert capsys.readouterr().out == ""


def test_the_public_names_are_there():
    for name in isa.__all__:
        value = getattr(isa, name)
        assert value is not None
        if isinstance(value, types.FunctionType):
            assert value.__doc__
    assert set(isa.__all__) <= set(dir(isa))
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        _ = isa.predict


def test_classes_may_be_given_with_the_options(tmp_path):
    from isanet_jax.datasets.layout import Options

    scans = tmp_path / "scans"
    write_phantoms(scans, cases=2, seed=0)
    grid = {"size": 16, "fit": "crop", "spacing_mm": 12.0, "folds": 2}
    given = isa.prepare(scans / "cases.csv", tmp_path / "a", classes={"hot": ("1",)}, **grid)
    options = Options(classes={"hot": ("1",)})
    found = isa.prepare(scans / "cases.csv", tmp_path / "b", options=options, **grid)
    assert found == given
    assert found[0]["volumes_ml"].keys() == {"hot"}
