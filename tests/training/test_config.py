import json
from pathlib import Path

import pytest

from isanet_jax.errors import ConfigError
from isanet_jax.training.config import (
    check_config,
    claim_workdir,
    compare_workdir,
    model_config,
    parse_command_line,
    resolved_config,
)

BASE = ["train.py", "--config", "configs/hecktor.py", "--workdir", "w"]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


ROOT = Path(__file__).parents[2]
# All but what others are made of.
PARTS = ("configs/recipe.py", "configs/nnunet.py")  # the second plans for a folder of cases
RUNS = [*ROOT.glob("configs/*.py"), *ROOT.glob("configs/own/*.py")]
RUNS = [path for path in RUNS if str(path.relative_to(ROOT)) not in PARTS]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_config_is_sound(path):
    config, workdir = parse_command_line(["t", "--config", str(path), "--workdir", "w"])
    check_config(config)
    assert str(workdir) == "w"
    _, workdir = parse_command_line(["t", "--config", str(path)])
    assert str(workdir) == f"runs/{path.stem}"


def test_overrides_are_typed_and_reach_the_network():
    config, _ = parse_command_line(
        [*BASE, "--config.fold=3", "--config.model.modalities=('pet',)",
         "--config.model.fusion_weights=(1.0, 2.0)", "--config.model.dtype=bfloat16"]
    )  # fmt: skip
    assert config["fold"] == 3
    made = model_config(config)
    assert (made.modalities, made.fusion_weights) == (("pet",), (1.0, 2.0))
    assert (made.dtype, made.shape) == ("bfloat16", (144, 144, 144))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BASE, "--config.optimiser.b1=0.5"], "optimiser"),
        ([*BASE, "--config.train.epoch=5"], "epoch"),
        ([*BASE, "--config.train.epochs=many"], "many"),
        ([*BASE, "--workdri=w"], "workdri"),
        ([*BASE, "train.epochs=5"], "--config.name=value"),
        (["t", "--workdir", "w"], "give --config FILE"),
        (["t", "--config", "configs/absent.py", "--workdir", "w"], "absent.py"),
    ],
)
def test_typos_are_refused_by_name(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse_command_line(arguments)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.size=100", "size of 100 is not a multiple of 16"),
        ("train.epochs=0", "train.epochs is 0"),
        ("augment.mixup_probability=1.5", "mixup_probability is 1.5; it must be a number, 0 to 1"),
        ("train.steps_per_epoch=-1", "train.steps_per_epoch is -1"),
        ("mesh.data=0", "mesh.data is 0"),
        ("mesh.space=-2", "mesh.space is -2"),
        ("seed=-1", "seed is -1"),
        ("fold=-1", "fold is -1"),
        ("augment.rotation_degrees=nan", "augment.rotation_degrees is 'nan'"),
        ("augment.mirror_probability=nan", "augment.mirror_probability is nan"),
        ("optimizer.b1=5.0", "optimizer.b1 is 5.0"),
        ("optimizer.b2=1.0", "optimizer.b2 is 1.0"),
        ("optimizer.peak_learning_rate=nan", "optimizer.peak_learning_rate is nan"),
        ("optimizer.peak_learning_rate=inf", "optimizer.peak_learning_rate is inf"),
        ("optimizer.floor_learning_rate=1.0", "floor_learning_rate is 1, above the peak"),
        ("optimizer.weight_decay=-1.0", "optimizer.weight_decay is -1.0"),
        ("loss.alpha=2.0", "loss.alpha is 2.0"),
        ("loss.gamma=nan", "loss.gamma is nan"),
        ("data.spacing_mm=0.0", "data.spacing_mm is 0.0"),
        ("data.phantoms=-1", "data.phantoms is -1"),
        ("model.width=-1", "model.width is -1"),
        ("model.fusion_weights=(1.0,-1.0)", "model.fusion_weights is"),
        ("model.fusion_weights=(1.0,inf)", "model.fusion_weights is"),
        ("model.reading=words", "code, text"),
        ("selection=best", "paper, nested"),
        ("data.fit=stretch", "crop, resize"),
        ("mesh.data=3", "multiple of the devices"),
        ("model.fusion=dot", "matmul, matmul_scaled, product"),
        ("model.name=help", r"choose one of\ncbam (.|\n)*an2021 "),
        ("data.patch=160", "at most data.size, 144"),
        ("augment.crop_share=0.5", "augment.crop_share is 0.5; it must be a number, 0 to 0.45"),
        ("optimizer.name=lion", "adam, adamw, sgd"),
        ("optimizer.schedule=linear", "restart, poly"),
        ("fold_by=patient", "fold, centre"),
    ],
)
def test_settings_that_cannot_work_are_refused(override, message):
    config, _ = parse_command_line([*BASE, f"--config.{override}"])
    with pytest.raises(ConfigError, match=message):
        check_config(config)


def test_a_crop_is_of_whole_volumes():
    changes = ["--config.augment.crop_probability=0.5", "--config.data.patch=96"]
    config, _ = parse_command_line([*BASE, *changes])
    with pytest.raises(ConfigError, match=r"crop_probability is 0\.5, and nothing reads it with"):
        check_config(config)


def test_what_is_no_config_of_a_run_is_refused():
    for argument in ("configs/compare/table2.py:sts", "configs/compare/fig6.py"):
        config, _ = parse_command_line(["t", "--config", argument])
        with pytest.raises(ConfigError, match="this config is of a comparison"):
            check_config(config)
    config, _ = parse_command_line(BASE)
    del config["loss"]
    with pytest.raises(ConfigError, match="the config has no loss"):
        check_config(config)
    config["loss"] = {}
    with pytest.raises(ConfigError, match="the config has no setting loss.dice_smooth"):
        check_config(config)


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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.name=dice_ce", "loss.gamma=1.0"], "loss.gamma is 1.0, and nothing reads it with"),
        (["loss.dice_smooth=1.0"], "with loss.dice_squared False; use 0.001"),
        (["optimizer.momentum=0.5"], "with optimizer.name 'adam'; use 0.99"),
        (["optimizer.name=sgd", "optimizer.b1=0.5"], "with optimizer.name 'sgd'; use 0.9"),
        (["optimizer.schedule=poly", "optimizer.restart_epochs=5"], "'poly'; use 25"),
        (["model.deep_supervision=True"], "with model.name 'isa'; use False"),
        (["loss.name=dice"], "choose one of dice_focal, dice_ce"),
    ],
)
def test_settings_that_nothing_reads_are_refused(overrides, message):
    config, _ = parse_command_line([*BASE, *(f"--config.{text}" for text in overrides)])
    with pytest.raises(ConfigError, match=message):
        check_config(config)


def test_what_would_run_is_shown_with_the_systems_own_size():
    config, _ = parse_command_line(["t", "--config", "own/xie2021:sts"])
    shown = resolved_config(config)
    assert (shown["model"]["width"], shown["model"]["levels"]) == (32, 6)
    assert shown["data"]["cases"] == "cases/sts"
    assert config["model"]["width"] == 0
    of_nodes, _ = parse_command_line(["t", "--config", "strong:hecktor22"])
    check_config(of_nodes)
    assert (of_nodes["data"]["cases"], of_nodes["data"]["classes"]) == (
        "cases/hecktor22",
        ["gtvp", "gtvn"],
    )
    assert (of_nodes["loss"]["name"], of_nodes["loss"]["batch_dice"]) == ("dice_ce", True)
    assert of_nodes["model"]["prior"] == 0.05
    with pytest.raises(ConfigError, match="no dataset 'stss'"):
        parse_command_line(["t", "--config", "own/xie2021:stss"])
