"""The GPU's benchmark, at toy size on the CPU: that every part of it still runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = (
    "device",
    "numbers unet",
    "step unet bfloat16 none last",
    "operations unet bfloat16 none last",
    "predict unet bfloat16",
    "waiting unet",
    "augment",
    "step isa float32 mistyped last",
)


def test_every_part_of_the_gpu_benchmark_runs(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.gpu", "--toy", "--output", tmp_path),
            *("--parts", ",".join(PARTS)),
        ],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found) == list(PARTS)
    errors = {part: each["error"] for part, each in found.items() if "error" in each}
    assert set(errors) == {PARTS[-1]}, errors
    assert "mistyped" in errors[PARTS[-1]]
    assert found["device"]["platform"] == "cpu"
    differences = found["numbers unet"]["differences"]
    for name, each in differences.items():
        assert each["highest"] < 1e-5, name
        assert each["highest"] < each["bfloat16"], name
    step = found["step unet bfloat16 none last"]
    assert step["seconds"] > 0
    assert step["loss_is_finite"]
    assert 0 <= found["waiting unet"]["waiting_share"] <= 1
    assert len(found["operations unet bfloat16 none last"]["table"]) == 12
    report = (tmp_path / "gpu.md").read_text()
    assert "| step unet bfloat16 none last |" in report
    assert "| network unet |" in report
    assert "written to" in done.stdout


def test_what_the_time_does_not_suffice_for_is_said(tmp_path):
    from benchmarks import gpu

    gpu.main(["--toy", "--minutes", "0", "--output", str(tmp_path), "--parts", "device,augment"])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {each["error"] for each in found.values()} == {"no time left"}
