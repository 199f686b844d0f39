"""The table of settings: all that follows from it, and every setting against every earlier run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from isanet_jax.errors import ConfigError
from isanet_jax.runs.folder import compare_workdir
from isanet_jax.settings import Config, changed, defaults, read, read_stored, to_dict
from isanet_jax.settings.declare import value_of
from isanet_jax.settings.read import DECLARED, upgraded

GOLDEN = Path(__file__).parents[1] / "golden"
EARLIER = json.loads((GOLDEN / "settings.json").read_text())


def without(values, name):
    """Nested dicts without one setting."""
    section, _, key = name.rpartition(".")
    values = json.loads(json.dumps(values))
    del (values[section] if section else values)[key]
    return values


@pytest.mark.parametrize("name", DECLARED)
def test_a_setting_is_declared_whole(name):
    one, default = DECLARED[name], value_of(Config(), name)
    assert one.text
    assert str(one.allowed)
    assert one.allowed.problem(default) is None
    assert one.allowed.problem(one.before) is None
    assert read(defaults()) == Config()
    with pytest.raises(ConfigError, match=f"{name} is <object"):
        changed(Config(), {name: object()})


def test_validation_draws_patches_without_augmentation():
    given = {"noise": 0.5, "mixup": 0.2, "rotation": 1.0, "tumour_patch": 0.33}
    flags = {f"augment.{name}_probability": value for name, value in given.items()}
    one = changed(Config(), flags).augment
    assert one.changes_intensity
    assert not one.without.changes_intensity
    kept = {"tumour_patch_probability": 0.33}
    zero = {name: 0.0 for name in to_dict(Config())["augment"] if name.endswith("_probability")}
    assert one.without == replace(one, **zero | kept)


@pytest.mark.parametrize("earlier", EARLIER, ids=lambda one: one["day"])
def test_the_defaults_of_every_earlier_version_mean_todays(earlier, tmp_path):
    """No setting was given a default that changes what a run from before it does."""
    config = earlier["config"]
    found = read_stored(config)
    assert found == Config()
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert compare_workdir(tmp_path, Config())
    for name, one in DECLARED.items():
        section, _, key = name.rpartition(".")
        if key not in (config[section] if section else config):
            assert one.since >= earlier["day"], name


@pytest.mark.parametrize("name", DECLARED)
def test_a_run_from_before_a_setting_is_resumed(name, tmp_path):
    """With what it then meant; and with nothing else."""
    before = to_dict(changed(Config(), {name: DECLARED[name].before}))
    (tmp_path / "config.json").write_text(json.dumps(without(before, name)))
    assert compare_workdir(tmp_path, before)
    other = {"seed": 7, "fold": 3, "data.cases": "elsewhere"}.get(name)
    if other is not None:
        with pytest.raises(ConfigError, match=f"{name}: .* there, {other!r} now"):
            compare_workdir(tmp_path, changed(read(before), {name: other}))


def test_a_constant_that_a_run_had_otherwise_is_named_when_it_is_resumed(tmp_path):
    config = json.loads(json.dumps(EARLIER[-1]["config"]))
    config["augment"]["gamma_range"] = [0.5, 2.0]
    assert read_stored(config) == Config()  # it predicts
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="augment.gamma_range: .* there, and no longer"):
        compare_workdir(tmp_path, Config())


def test_settings_of_several_types_take_all_of_them():
    config = defaults()
    config.data.size, config.fold = (16, 32, 48), "all"
    assert read(config).data.size == (16, 32, 48)
    assert read(config).data.input_shape == (16, 32, 48)
    assert read(to_dict(read(config))) == read(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.phantom": 3}, "there is no setting data.phantom"),
        ({"data.size": True}, "data.size is True; it must be a whole number, 1 to 4096"),
        ({"data.size": 16.5}, "data.size is 16.5; it must be a whole number"),
        ({"data.size": [16, 16]}, "give one number or three numbers"),
        ({"train.batch": [1]}, r"train.batch is \[1\]"),
        ({"model.deep_supervision": 1}, "model.deep_supervision is 1; it must be True or False"),
        ({"model.strides": [[1, 1, 3]]}, "give each level three of 1 and 2"),
        ({"data.images": ["ct", "ct"]}, "give each name once"),
        ({"data.classes": []}, "give each name once"),
        ({"loss.name": 3}, "loss.name is 3; it must be a text"),
        ({"optimizer.peak_learning_rate": float("nan")}, "it must be a number above 0"),
        ({"optimizer.peak_learning_rate": 0}, "it must be above 0"),
    ],
)
def test_what_a_setting_may_not_be(change, message):
    ((name, value),) = change.items()
    values = to_dict(Config())
    section, _, key = name.rpartition(".")
    values[section][key] = value
    with pytest.raises(ConfigError, match=message):
        read(values)


def test_a_part_is_whole_or_said_to_be_lacking():
    for name in ("data", "mesh"):
        values = to_dict(Config())
        del values[name]
        with pytest.raises(ConfigError, match=f"the config has no {name}"):
            read(values)
    with pytest.raises(ConfigError, match="no settings of a run"):
        upgraded({"data": 3})


def test_what_follows_from_the_data_settings():
    data = Config().data
    assert (data.patch_shape, data.input_shape) == (None, (144, 144, 144))
    assert data.pet_is_of_volume
    patches = replace(data, patch=(8, 16, 16), ct_window="both", images=("ct", "pet", "u:pet"))
    assert patches.patch_shape == patches.input_shape == (8, 16, 16)
    assert not patches.pet_is_of_volume
    assert patches.kinds == {"ct": "ct", "pet": "pet", "u": "pet"}
    assert patches.channels == ("ct", "ct_soft", "pet", "u")
