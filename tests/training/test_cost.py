"""What a step costs, and what a device has."""

import os
import types

import jax
import numpy as np
import pytest

from isanet_jax.machine import memory_bytes
from isanet_jax.training.cost import analyse_collectives, analyse_cost, count_flops, device_bytes


def test_a_devices_memory_is_what_computations_may_use():
    assert device_bytes(jax.devices("cpu")[0]) == memory_bytes()
    stats = {"bytes_in_use": 3, "peak_bytes_in_use": 5, "bytes_limit": 7, "largest_alloc_size": 2}
    gpu = types.SimpleNamespace(platform="gpu", memory_stats=lambda: stats)
    assert device_bytes(gpu) == 7
    silent = types.SimpleNamespace(platform="gpu", memory_stats=lambda: None)
    assert device_bytes(silent) == 0  # unknown


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/slurm/job_7/step_0", {"slurm/job_7/memory.max": 2**30}, 2**30),
        ("0::/user.slice", {"user.slice/memory.max": "max"}, None),
        # Version 1, and a container, which sees its own group at the top.
        ("9:cpu:/\n4:memory:/docker/abc", {"memory/memory.limit_in_bytes": 2**29}, 2**29),
        ("4:memory:/a", {"memory/a/memory.limit_in_bytes": 2**63 - 4096}, None),
        (None, {}, None),
    ],
)
def test_a_jobs_memory_is_its_control_groups(tmp_path, groups, limits, expected):
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups + "\n")
    for name, limit in limits.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True)
        path.write_text(f"{limit}\n")
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_bytes(tmp_path) == (expected or whole)


def test_a_products_operations_and_arguments():
    x = np.zeros((64, 128), np.float32)
    y = np.zeros((128, 32), np.float32)
    lowered = jax.jit(lambda a, b: a @ b).lower(x, y)
    flops = count_flops(lowered)
    assert flops == 2 * 64 * 128 * 32
    cost = analyse_cost(lowered.compile(), flops)
    assert cost.flops == flops
    assert cost.argument_bytes == x.nbytes + y.nbytes
    assert cost.peak_bytes >= x.nbytes + y.nbytes
    assert not cost.collectives


def test_operations_are_counted_where_a_gpus_compiler_does_not(monkeypatch):
    function = jax.jit(lambda a, b: a @ b)
    shapes = (np.zeros((64, 128), np.float32), np.zeros((128, 32), np.float32))
    silent = types.SimpleNamespace(cost_analysis=lambda: None)  # as of CUDA's plugin
    assert count_flops(silent) == 0
    assert count_flops(silent, function, shapes) == 2 * 64 * 128 * 32

    def refuse(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", refuse)
    assert count_flops(silent, function, shapes) == 0


def test_collectives_are_counted_with_their_bytes():
    text = """
  %a = f32[2,3]{1,0} all-gather(f32[1,3]{1,0} %x), dimensions={0}
  %b = bf16[4]{0} all-reduce(bf16[4]{0} %y), to_apply=%add
  %c = bf16[8]{0} all-reduce(bf16[8]{0} %z), to_apply=%add
"""
    found = analyse_collectives(text)
    assert found["all-gather"]["count"] == 1
    assert found["all-gather"]["bytes"] == 24
    assert found["all-reduce"] == {"count": 2, "bytes": 24, "largest": 16}
