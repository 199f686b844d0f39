import json

import pytest

from isanet_jax.errors import ConfigError
from isanet_jax.runs.folder import claim_workdir, compare_workdir
from isanet_jax.settings.command_line import parse_command_line

BASE = ["train.py", "--config", "hecktor", "--workdir", "w"]


def test_runs_from_before_a_setting_existed_go_on(tmp_path):
    config, _ = parse_command_line(BASE)
    older = json.loads(json.dumps(config))
    for name in ("reading", "remat", "prior"):
        del older["model"][name]
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert compare_workdir(tmp_path, config)
    config["model"]["reading"] = "text"
    with pytest.raises(ConfigError, match="model.reading: 'code' there, 'text' now"):
        compare_workdir(tmp_path, config)


def test_an_ensemble_from_before_a_setting_existed_goes_on(tmp_path):
    config, _ = parse_command_line(BASE)
    record = config | {"members": [config, config], "snapshots": False}
    older = json.loads(json.dumps(record))
    for one in (older, *older["members"]):
        del one["model"]["prior"]
        del one["augment"]["crop_probability"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert compare_workdir(tmp_path, record)
    with pytest.raises(ConfigError, match="members"):
        compare_workdir(tmp_path, record | {"members": [config]})


def test_a_run_that_names_all_its_images_goes_on(tmp_path):
    """As Table 1 does: the modalities of its last method are all of them."""
    config, _ = parse_command_line([*BASE, "--config.model.modalities=('ct','pet')"])
    claim_workdir(tmp_path, config)
    assert compare_workdir(tmp_path, config)
    assert compare_workdir(tmp_path, config | {"model": config["model"] | {"modalities": []}})
    other = config | {"model": config["model"] | {"modalities": ["pet"]}}
    with pytest.raises(ConfigError, match="model.modalities"):
        compare_workdir(tmp_path, other)


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        compare_workdir(tmp_path / "file", {})


def test_a_run_that_said_its_cross_entropy_in_numbers_is_the_same_run(tmp_path):
    """Before loss.name, nnU-Net's recipe had alpha 0.5, gamma 0 and weight 2."""
    config, _ = parse_command_line(["t", "--config", "configs/own/xie2021.py"])
    assert config["loss"]["name"] == "dice_ce"
    old = json.loads(json.dumps(config))
    del old["loss"]["name"]
    old["loss"] |= {"alpha": 0.5, "gamma": 0.0, "focal_weight": 2.0}
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert compare_workdir(tmp_path, config)
    paper, _ = parse_command_line(["t", "--config", "configs/hecktor.py"])
    older = json.loads(json.dumps(paper))
    del older["loss"]["name"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert compare_workdir(tmp_path, paper)
    with pytest.raises(ConfigError, match="loss.name: 'dice_focal' there, 'dice_ce' now"):
        compare_workdir(tmp_path, paper | {"loss": paper["loss"] | {"name": "dice_ce"}})
