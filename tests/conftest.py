"""Shared fixtures. Small networks, and every compiled function is cached between runs."""

import os
import tempfile
from pathlib import Path

from isanet_jax import runtime

# Compiles dominate the suite: without LLVM's optimisation they take a third less. By environment,
# for the processes that tests start too; a test that gives flags of its own appends them.
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_QUICK}".strip()
runtime.choose_platform()  # before JAX is imported

import jax
import numpy as np
import pytest

from isanet_jax.cases.cohort import prepare_phantoms, read_cohort
from isanet_jax.configs import phantom as phantom_config
from isanet_jax.training.config import plain_config
from isanet_jax.training.loop import train

# A second run finds what was compiled here.
CACHE = Path(tempfile.gettempdir()) / f"isanet_jax_test_cache_{os.getuid()}"
# By environment, too: for the processes that tests start.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

DATA = Path(os.environ.get("ISANET_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


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
def cohort_folder(tmp_path_factory):
    """Six phantoms prepared at 16^3, in three folds."""
    folder = tmp_path_factory.mktemp("cohort")
    prepare_phantoms(folder, cases=6, size=16, seed=1, folds=3)
    return folder


@pytest.fixture(scope="session")
def cohort(cohort_folder):
    return read_cohort(cohort_folder)


@pytest.fixture
def config(cohort_folder):
    """A config that trains in seconds: 16^3, three levels, two channels."""
    return small_config(cohort_folder)


def small_config(cohort_folder):
    config = phantom_config.get_config()
    config.data.cases = str(cohort_folder)
    config.data.size, config.data.spacing_mm, config.data.phantoms = 16, 12.0, 0
    config.model.width, config.model.levels = 2, 3
    config.selection = "paper"
    config.train.epochs, config.train.validate_every = 3, 1
    return plain_config(config)


@pytest.fixture(scope="session")
def trained(cohort_folder, tmp_path_factory):
    """The folder of a finished run of the small config."""
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    train(small_config(cohort_folder), workdir)
    return workdir


@pytest.fixture(scope="session")
def trained_again(cohort_folder, tmp_path_factory):
    """The folder of a shorter run of the same network on another fold, with another seed."""
    workdir = tmp_path_factory.mktemp("runs") / "trained_again"
    config = small_config(cohort_folder) | {"fold": 1, "seed": 1}
    config["train"]["epochs"] = 1
    train(config, workdir)
    return workdir


@pytest.fixture
def generator():
    return np.random.default_rng(0)
