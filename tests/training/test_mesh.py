"""Batches and volumes split over devices have the gradients of one device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from isanet_jax.distributed.placement import splits
from isanet_jax.errors import ConfigError
from isanet_jax.training.check import check_config

ROOT = Path(__file__).parents[2]
_FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
)


def start(name, *arguments):
    """A process of a module beside this one, on eight made-up devices."""
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.training.{name}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ
        | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {_FLAGS}", "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_gradients_are_one_devices_on_every_mesh():
    """Of two levels, 1 x 8 keeps the coarse one whole, and 1 x 2 none.

    Of three on 1 x 4 at 24^3, the second level has three planes a device, which cannot be halved.
    """
    # Cases of the same size and batch stand together: they have one reference.
    several = [f"attended,{mesh},16,2,8,none" for mesh in ("2x4", "2x2", "2x1", "8x1")]
    single = [f"attended,{mesh},2,1,none" for mesh in ("1x8,16", "1x2,16", "1x3,24")]
    deep = ["isa,1x4,24,3,1,none", "isa,1x4,16,2,1,blocks", "unet,1x4,16,3,1,none"]
    # Compilation is most of it: side by side.
    halves = several + single[:2], single[2:] + deep
    cases = [case for half in halves for case in half]
    processes = [start("mesh_gradients", *half) for half in halves]
    found = []
    for process in processes:
        out, errors = process.communicate()
        assert process.returncode == 0, errors[-3000:]
        found += [json.loads(line) for line in out.splitlines() if line.startswith("[")]
    assert [row[0] for row in found] == cases
    for case, loss, gradient, worst in found:
        assert loss < 1e-12, case
        assert gradient < 1e-9, case
        assert worst < 1e-7, case


def test_a_run_is_resumed_on_other_meshes_and_predicts_from_any(cohort_folder, tmp_path):
    process = start("mesh_runs", cohort_folder, tmp_path)
    out, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    found = json.loads(out.split("found ")[-1])
    expected = found.pop("1x1")
    assert list(map(int, expected["losses"])) == list(range(1, 7))
    assert len(found) == 3
    for mesh, run in found.items():
        assert run["losses"].keys() == expected["losses"].keys(), mesh
        for step, loss in run["losses"].items():
            assert loss == pytest.approx(expected["losses"][step], rel=1e-4), (mesh, step)
        assert run["dsc"] == pytest.approx(expected["dsc"], abs=0.02), mesh
        assert run["probability"] == pytest.approx(expected["probability"], abs=2e-3), mesh


def test_only_levels_with_planes_enough_are_split():
    assert splits(144, 4)
    assert splits(4, 2)
    assert not splits(18, 4)
    assert not splits(4, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh": {"data": 1, "space": 3}}, "data.size is 16 and mesh.space 3"),
        ({"mesh": {"data": 1, "space": 16}}, "data.size is 16 and mesh.space 16"),
        ({"model": {"name": "vnet"}}, "model.name 'vnet'"),
        ({"model": {"convolution": "folded"}}, "needs 'native'"),
        ({"data": {"patch": 8}}, "data.patch 8"),
    ],
)
def test_what_cannot_be_split_is_refused(config, changes, message):
    config["mesh"] = {"data": 1, "space": 2}
    for group, values in changes.items():
        config[group] |= values
    with pytest.raises(ConfigError, match=message):
        check_config(config)
