"""Shared fixtures. Small networks, and every compiled function is cached between runs."""

import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

from isanet_jax import runtime, streams

# Compiles dominate the suite: without LLVM's optimisation they take a third less. By environment,
# for the processes that tests start too; a test that gives flags of its own appends them.
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if metadata.version("jaxlib").startswith("0.10."):
    # XLA's emitters of fusions double the time; 0.12 has no others, and its tests compile by them.
    _QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_QUICK}".strip()
runtime.choose_platform()  # before JAX is imported
streams.show_messages()
# A system of one convolution, for the processes that tests start, too.
PLAIN = Path(__file__).with_name("plain.py")
os.environ["ISANET_EXTENSIONS"] = str(PLAIN)

import jax
import numpy as np
import pytest

from isanet_jax.cases.cohort import read_cohort
from isanet_jax.cases.prepare_cohort import prepare_phantoms
from isanet_jax.configs import phantom as phantom_config
from isanet_jax.locks import only_here
from isanet_jax.settings import to_dict
from isanet_jax.training.loop import train

# A second run finds what was compiled here.
CACHE = Path(tempfile.gettempdir()) / f"isanet_jax_test_cache_{os.getuid()}"
# By environment, too: for the processes that tests start.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.02"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)

DATA = Path(os.environ.get("ISANET_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
# Seconds that a test waits for something that will come, on a machine with ten other jobs. It is
# no measure of speed: what does not come is a failure however long it is waited for.
PATIENCE = 900

# What a training in seconds changes in configs/phantom.py.
SMALL = {
    "data.size": 16,
    "data.spacing_mm": 12.0,
    "data.phantoms": 0,
    "model.name": "plain",
    "model.levels": 2,
    "selection": "paper",
    "train.epochs": 3,
    "train.validate_every": 1,
}


def pytest_collection_modifyitems(items):
    """Puts what waits for other processes at the start of each of the two workers' halves.

    At the end, one worker would wait there while the other has nothing left to do.
    """
    first = [item for item in items if item.path.name == "test_processes.py"]
    second = [item for item in items if item.path.name == "test_mesh.py"]
    rest = [item for item in items if item not in first + second]
    half = len(rest) // 2
    items[:] = first + rest[:half] + second + rest[half:]


def real_data(name):
    """A folder of real patients, or a skip that says what is missing."""
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} in {DATA}; set ISANET_TEST_DATA to the folder that holds it")
    return DATA / name


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """`shared(name, make)`: the folder that `make(folder)` fills once for all workers.

    Tests only read it.
    """
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent  # the workers' common one

    def folder_of(name, make):
        folder, done = base / "shared" / name, base / "locks" / name / "done"
        with only_here(done.parent, "make", "makes it", wait=True):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def cohort_folder(shared):
    """Six phantoms prepared at 16^3, in three folds."""

    def make(folder):
        prepare_phantoms(folder, cases=6, size=16, seed=1, folds=3)

    return shared("cohort", make)


@pytest.fixture(scope="session")
def cohort(cohort_folder):
    return read_cohort(cohort_folder)


@pytest.fixture
def config(cohort_folder):
    """A config that trains in seconds: 16^3, one convolution (tests/plain.py)."""
    return small_config(cohort_folder)


def small_config(cohort_folder):
    config = phantom_config.get_config()
    config.update_from_flattened_dict(SMALL | {"data.cases": str(cohort_folder)})
    return to_dict(config)


def small_flags(cohort_folder, **changes):
    """The same config on a command line; `changes` as in `train__epochs=1`."""
    values = SMALL | {"data.cases": cohort_folder}
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    return ["--config", "phantom", *(f"--config.{name}={v}" for name, v in values.items())]


@pytest.fixture(scope="session")
def trained(cohort_folder, shared):
    """The folder of a finished run of the small config."""
    return shared("trained", lambda folder: train(small_config(cohort_folder), folder))


@pytest.fixture
def mirrored(monkeypatch):
    """Called, it has every run that is loaded from then on predict with mirror images."""
    from isanet_jax.prediction import predictor

    load = predictor.load_params

    def load_mirrored(*arguments, **options):
        params, description = load(*arguments, **options)
        description["config"]["predict"]["mirror"] = True
        return params, description

    return lambda: monkeypatch.setattr(predictor, "load_params", load_mirrored)


@pytest.fixture(scope="session")
def trained_again(cohort_folder, shared):
    """The folder of a shorter run of the same network on another fold, with another seed."""
    config = small_config(cohort_folder) | {"fold": 1, "seed": 1}
    config["train"]["epochs"] = 1
    return shared("trained_again", lambda folder: train(config, folder))


@pytest.fixture
def generator():
    return np.random.default_rng(0)
