from pathlib import Path

import pytest

from isanet_jax.errors import ConfigError
from isanet_jax.training.config import check_config, model_config, parse_command_line

BASE = ["train.py", "--config", "configs/hecktor.py", "--workdir", "w"]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


ROOT = Path(__file__).parents[2]
RUNS = [*ROOT.glob("configs/*.py"), *ROOT.glob("configs/own/*.py")]


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
    assert (made.dtype, made.size) == ("bfloat16", 144)


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
        ("augment.mixup_probability=1.5", "between 0 and 1"),
        ("selection=best", "paper, nested"),
        ("data.fit=stretch", "crop, resize"),
        ("mesh.data=3", "multiple of the devices"),
        ("model.fusion=dot", "matmul, matmul_scaled, product"),
        ("model.name=help", r"choose one of\ncbam (.|\n)*an2021 "),
        ("data.patch=160", "at most data.size, 144"),
        ("optimizer.name=lion", "adam, sgd"),
        ("optimizer.schedule=linear", "restart, poly"),
        ("fold_by=patient", "fold, centre"),
    ],
)
def test_settings_that_cannot_work_are_refused(override, message):
    config, _ = parse_command_line([*BASE, f"--config.{override}"])
    with pytest.raises(ConfigError, match=message):
        check_config(config)
