"""Fine-tuning: a training that starts from a trained network."""

import jax
import numpy as np
import pytest

import isanet_jax as isa
from isanet_jax.errors import CheckpointError, ConfigError
from isanet_jax.network import systems
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.runs.bundle import named_arrays, write_bundle
from isanet_jax.settings import read
from isanet_jax.training.start import read_start, started_from
from tests.conftest import small_config


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    return write_bundle(Predictor([trained]).networks, tmp_path_factory.mktemp("m") / "m.isanet")


def drawn(config):
    _, params = systems.create(systems.of_config(read(config)), jax.random.key(7))
    return params


def test_all_is_taken_by_the_same_network(model, trained, config):
    of_run = dict(named_arrays(Predictor([trained]).networks[0][1]))
    for path in (model, trained):
        params, said = started_from(read_start(path), drawn(config))
        for name, array in named_arrays(params):
            np.testing.assert_array_equal(array, of_run[name])
        assert f"{len(of_run)} of {len(of_run)} arrays are taken" in said


def test_what_depends_on_classes_and_images_is_drawn_anew(model, config):
    config["data"] |= {"classes": ["a", "b"], "images": ["ct", "pet", "t1"]}
    before = dict(named_arrays(drawn(config)))
    params, said = started_from(read_start(model), drawn(config))
    after = dict(named_arrays(params))
    assert before.keys() == after.keys()
    taken = [n for n in before if not np.array_equal(before[n], after[n])]
    assert 0 < len(taken) < len(before)
    assert not any("head" in name for name in taken)
    assert "are drawn anew" in said


def test_a_training_starts_there_and_is_resumed_as_any(model, config, tmp_path, capsys):
    config["init"] = str(model)
    config["train"]["epochs"] = 1
    rates = {"peak_learning_rate": 1e-9, "floor_learning_rate": 1e-10}
    config["optimizer"] |= rates  # nothing is learnt
    assert isa.train(config, tmp_path / "run")
    assert f"starting from {model}: " in capsys.readouterr().out
    found = dict(named_arrays(Predictor([tmp_path / "run"]).networks[0][1]))
    for name, array in named_arrays(Predictor([model]).networks[0][1]):
        np.testing.assert_allclose(found[name], array, atol=1e-6)
    assert isa.train(config, tmp_path / "run")
    assert "starting from" not in capsys.readouterr().out


def test_what_cannot_be_started_from_is_refused(model, trained, cohort_folder, tmp_path):
    config = small_config(cohort_folder)
    config["model"]["name"] = "vnet"
    with pytest.raises(CheckpointError, match="arrays are among the .*; name a model of the same"):
        started_from(read_start(model), drawn(config))
    two = write_bundle(Predictor([trained, model]).networks, tmp_path / "two.isanet")
    with pytest.raises(ConfigError, match="has 2 networks; a training starts from one"):
        read_start(two)
    with pytest.raises(CheckpointError, match="holds no trained network"):
        read_start(tmp_path)
