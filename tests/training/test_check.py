from pathlib import Path

import pytest

from isanet_jax.errors import ConfigError
from isanet_jax.settings.command_line import parse_command_line
from isanet_jax.training.check import check_config, resolved_config

BASE = ["train.py", "--config", "hecktor", "--workdir", "w"]
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
    with pytest.raises(ConfigError, match="the config has no setting loss.name"):
        check_config(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.name=dice_ce", "loss.gamma=1.0"], "loss.gamma is 1.0, and nothing reads it with"),
        (["loss.dice_smooth=1.0"], "with loss.dice_squared False; use 0.001"),
        (["optimizer.momentum=0.5"], "with optimizer.name 'adam'; use 0.99"),
        (["optimizer.name=sgd", "optimizer.b1=0.5"], "with optimizer.name 'sgd'; use 0.9"),
        (["optimizer.schedule=poly", "optimizer.restart_epochs=5"], "'poly'; use 25"),
        (["model.deep_supervision=True"], "with model.name 'isa'; use False"),
        (
            ["optimizer.schedule=cosine", "optimizer.warmup_epochs=1", "train.epochs=1"],
            "optimizer.warmup_epochs is 1 and train.epochs is 1",
        ),
        (["loss.name=dice"], "loss.name is 'dice'; choose one of dice_ce, dice_focal"),
    ],
)
def test_settings_that_nothing_reads_are_refused(overrides, message):
    config, _ = parse_command_line([*BASE, *(f"--config.{text}" for text in overrides)])
    with pytest.raises(ConfigError, match=message):
        check_config(config)


def test_what_would_run_is_shown_with_the_systems_own_size():
    config, _ = parse_command_line(["t", "--config", "own/xie2021:sts"])
    shown = resolved_config(config)
    assert (shown.model.width, shown.model.levels) == (32, 6)
    assert shown.data.cases == "cases/sts"
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
