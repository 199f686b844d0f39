"""The package as a user installs it: a wheel in an empty environment, used from an empty folder."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import isanet_jax

ROOT = Path(__file__).parents[1]
NO_NETWORK = re.compile("NewConnectionError|Temporary failure in name resolution|ConnectTimeout")


def run(*command, cwd, status=0):
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=clean, capture_output=True, text=True, check=False, timeout=900
    )
    if NO_NETWORK.search(done.stderr):
        pytest.skip("no network for pip")
    assert done.returncode == status, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_has_every_file(wheel):
    """What is tracked of the package and its configs, and nothing else."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "isanet_jax", "configs"],  # noqa: S607
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    wanted = {re.sub("^configs/", "isanet_jax/configs/", n) for n in listed if (ROOT / n).exists()}
    found = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert found == wanted
    assert isanet_jax.__version__ in wheel.name


def test_the_first_steps_of_somebody_who_has_only_the_wheel(wheel, tmp_path):
    # By the container's steps; what is not imported need not be compiled.
    text = (ROOT / "deploy" / "Containerfile").read_text().replace("\\\n", "")
    (script,) = re.findall(r"^RUN (python -m venv .*)$", text, re.M)
    for old, new in {
        "python -m venv": f"{sys.executable} -m venv", "/opt/isanet": f"{tmp_path}/env",
        "/src": str(wheel), "$EXTRAS": "node", "--no-cache-dir": "--quiet --no-compile",
    }.items():  # fmt: skip
        script = script.replace(old, new)
    run("sh", "-euc", script, cwd=tmp_path)
    binary = tmp_path / "env" / "bin"
    here = tmp_path / "here"
    here.mkdir()
    isanet = binary / "isanet"
    assert "predict" in run(isanet, "--help", cwd=here)
    assert run(isanet, "--version", cwd=here).strip() == isanet_jax.__version__
    assert "give --model" in run(isanet, "node", "--accept", "A", cwd=here, status=2)
    assert "no command 'tarin'" in run(isanet, "tarin", cwd=here, status=2)
    refused = run(isanet, "train", cwd=here, status=2)
    assert "isanet train --config hecktor" in refused
    assert not list(here.iterdir())
    small = ["--config.data.size=16", "--config.data.spacing_mm=12.0", "--config.data.phantoms=6"]
    small += ["--config.model.width=2", "--config.model.levels=2", "--config.train.epochs=2"]
    done = run(isanet, "train", "--config", "phantom", "--workdir", "r", *small, cwd=here)
    assert "next: isanet eval --workdir r" in done
    assert "mean DSC" in run(isanet, "eval", "--workdir", "r", cwd=here)
    scan = here / "cases" / "phantom" / "scans" / "phantom_000"
    images = ["--ct", scan / "ct.nii.gz", "--pet", scan / "pet.nii.gz"]
    run(isanet, "predict", "--workdir", "r", *images, "--output", "m.nii.gz", cwd=here)
    assert (here / "m.nii.gz").exists()
    # The model of the package, on what it has not seen: it says so.
    said = run(isanet, "predict", "--model", "sarcoma", "-i", scan, "-o", "out", cwd=here)
    assert "hint: " in said
    assert (here / "out" / "report.html").exists()
    assert "phantom_000" in (here / "out" / "patients.csv").read_text()
    shown = run(isanet, "compare", "--config", "compare/table3:sts,own", "--print-config", cwd=here)
    assert "runs/table3_sts_own/xie2021/fold0-seed0" in shown


def test_the_locked_versions_are_the_tested_ones_and_have_hashes():
    text = (ROOT / "requirements-locked.txt").read_text()
    entries = re.findall(r"^([\w.-]+)==(\S+)((?:.*\n\s+--hash=sha256:[0-9a-f]{64})+)", text, re.M)
    assert len(entries) == len(re.findall(r"^[\w.-]+==", text, re.M))
    locked = {name.lower().replace("_", "-"): version for name, version, _ in entries}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    for name, version in (line.split("==") for line in lines if "==" in line):
        assert locked[name.lower().replace("_", "-")] == version, f"{name}: make lock"


def test_the_tested_versions_are_in_the_declared_ranges():
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {r.name: r for r in map(Requirement, project["dependencies"])}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert pinned.keys() == declared.keys()
    for name, version in pinned.items():
        assert declared[name].specifier.contains(version), name
