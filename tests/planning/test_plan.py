import json
import os

import pytest

from isanet_jax.cli import plan as command
from isanet_jax.errors import ConfigError
from isanet_jax.planning.plan import Plan, has_gpu_compiler
from isanet_jax.planning.targets import GPUS
from isanet_jax.settings import read

needs_compiler = pytest.mark.skipif(
    not has_gpu_compiler(), reason="no jax-cuda12-plugin; requirements-dev.txt installs it"
)
SMALL = [
    "--config.data.size=16", "--config.data.phantoms=0", "--config.model.name=plain",
    "--config.model.levels=2",
]  # fmt: skip


def small(config, **model):
    return config | {"model": config["model"] | model}


def test_the_cpus_plan_is_that_of_the_real_functions(config):
    plan = Plan(read(config), "cpu")
    one, two = plan.train_step(1), plan.train_step(2)
    assert one.flops > 3 * plan.prediction().flops / 2 > 0
    assert two.flops > 1.8 * one.flops
    assert two.peak_bytes > one.peak_bytes > one.argument_bytes > 12 * plan.parameters
    assert plan.fastest_seconds(two, 1) > plan.fastest_seconds(one, 1) > 0


@needs_compiler
def test_a_gpus_plan_shows_what_rematerialisation_saves(config):
    config = config | {"data": config["data"] | {"size": 32}}
    vnet = {"name": "vnet", "width": 4, "levels": 2}
    plain, levels = (
        Plan(read(small(config, **vnet, remat=remat)), "h100").train_step(1)
        for remat in ("none", "levels")
    )
    assert levels.flops > plain.flops
    assert levels.temporary_bytes < plain.temporary_bytes
    assert plain.convolutions > 10
    assert plain.collectives == {}


@needs_compiler
def test_gradients_of_several_gpus_are_reduced(config):
    config = config | {"mesh": {"data": 2, "space": 1}}
    plan = Plan(read(config), "a100-40")
    assert set(plan.train_step(2).collectives) == {"all-reduce"}
    alone = Plan(read(config | {"mesh": {"data": 1, "space": 1}}), "a100-40").prediction()
    assert plan.prediction().peak_bytes == alone.peak_bytes  # of one volume: on one device


@pytest.mark.parametrize("name", GPUS)
@needs_compiler
def test_every_card_is_a_target_that_xla_takes(name, config):
    assert Plan(read(config), name).prediction().peak_bytes > 0


def test_the_program_prints_json(capsys):
    config = ["--config", "configs/phantom.py", *SMALL]
    command.main([*config, "--target", "cpu", "--batch", "1,2", "--json"])
    result = json.loads(capsys.readouterr().out)
    target = result["targets"]["cpu"]
    assert target["batch"] == 1
    assert target["fits"] is True
    assert target["step_flops"] == target["batches"]["1"]["step_flops"]
    assert target["batches"]["2"]["peak_bytes"] > target["peak_bytes"] > 4 * result["parameters"]
    assert target["largest_batch"] > 2
    assert target["largest_batch_compiled"] is False


def test_without_the_compiler_the_cpu_is_planned_and_the_command_told(capsys, monkeypatch):
    monkeypatch.setattr("isanet_jax.planning.plan.has_gpu_compiler", lambda: False)
    config = ["--config", "configs/phantom.py", *SMALL]
    command.main([*config, "--target", "cpu,h100", "--batch", "1"])
    out, err = capsys.readouterr()
    assert "pip install jax-cuda12-plugin==" in err
    assert "| cpu | 1 |" in out
    row = next(line for line in out.splitlines() if line.startswith("| cpu | 1 |"))
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    assert float(row.split("|")[5]) == pytest.approx(gib, abs=0.05)
    assert "h100" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "tpu"], "choose from cpu"),
        (["--batch", "0"], "above 0"),
        (["--batch", "two"], "above 0"),
        (["--fast"], "unexpected arguments"),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        command.main(["--config", "configs/phantom.py", *arguments])


def test_a_plan_is_of_a_config(capsys):
    with pytest.raises(SystemExit):
        command.main(["--target", "cpu"])
    assert "--config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("peaks", "usable", "expected"),
    [
        ({1: 10, 2: 15}, 40, (7, False)),
        ({1: 10, 2: 15}, 12, (1, True)),
        ({1: 10, 2: 15}, 9, (0, True)),
        ({1: 10, 2: 15, 4: 30}, 29, (3, False)),
        ({4: 30}, 40, (4, True)),
    ],
)
def test_the_largest_batch(peaks, usable, expected):
    assert command.largest_batch(peaks, usable, 1) == expected


def test_a_batch_is_a_multiple_of_the_devices():
    assert command.largest_batch({2: 10, 4: 20}, 36, 2) == (6, False)
