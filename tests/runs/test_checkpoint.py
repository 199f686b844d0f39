"""Checkpoints over many saves, on damaged disks, and with parts of them gone."""

import json
import shutil
import subprocess
import sys

import pytest

from isanet_jax.errors import CheckpointError
from isanet_jax.network import systems
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.runs.checkpoint import Checkpoints, load_params
from isanet_jax.runs.log import read_log
from isanet_jax.training import loop

_MANY_SAVES = """
import os, sys, threading
import jax.numpy as jnp
from isanet_jax.runs.checkpoint import Checkpoints
from isanet_jax.training.step import TrainState

def used():
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(os.listdir("/proc/self/fd")), threading.active_count(), resident / 2**20

params = {"kernel": jnp.ones((64, 64, 32))}  # half a MiB
state = TrainState(params, params, jnp.zeros((), jnp.int32), jnp.zeros(2, jnp.uint32))
measured = []
with Checkpoints(sys.argv[1], info={}) as checkpoints:
    for step in range(1, 61):
        checkpoints.save_best(step, state, {"best_epoch": step})
        checkpoints.save_latest(step, state, {"best_epoch": step})
        checkpoints.wait()
        measured.append(used())
first, last = measured[9], measured[-1]
print(*first, *last)
"""


def test_sixty_saves_need_no_more_files_threads_and_memory_than_ten(tmp_path):
    """Saves that were not waited for kept a thread and 4.5 files each."""
    command = ["bash", "-c", 'ulimit -n 160; exec "$@"', "", sys.executable, "-c", _MANY_SAVES]
    ran = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    files, threads, mib, files_after, threads_after, mib_after = map(float, ran.stdout.split())
    assert files_after <= files + 8  # a pool's threads and pipes come and go
    assert threads_after <= threads + 8
    assert mib_after <= mib + 30  # 60 states are 120 MiB


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the finished run, to be damaged."""
    return shutil.copytree(trained, tmp_path / "run")


def file_of(run, which, pattern):
    return max((run / "checkpoints" / which).rglob(pattern), key=lambda path: path.stat().st_size)


def load_latest(run, config):
    loop.train(config, run)


def load_best(run, config):
    Predictor([run])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


_DATA, _TEXT = "params/ocdbt.process_0/d/*", "_CHECKPOINT_METADATA"


# What Orbax leaves behind when it fails: coroutines, and errors of its threads.
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
    "ignore:coroutine:RuntimeWarning",
)
@pytest.mark.parametrize(("which", "load"), [("best", load_best), ("latest", load_latest)])
@pytest.mark.parametrize(
    ("pattern", "damage", "message"),
    [
        (_DATA, flip, r"(the arrays in params/d are not those that were saved|while reading)"),
        (_DATA, cut, r"params/ocdbt.process_0/d/\w+ has \d+ bytes of \d+"),
        (_DATA, lambda path: path.unlink(), r"params/ocdbt.process_0/d/\w+ is missing"),
        ("params/_METADATA", cut, r"params/_METADATA has \d+ bytes of \d+"),
        ("params/manifest.ocdbt", flip, r"params"),
        (_TEXT, cut, r"_CHECKPOINT_METADATA has \d+ bytes of \d+"),
        (_TEXT, lambda path: path.unlink(), r"_CHECKPOINT_METADATA is missing"),
        (
            _TEXT,
            lambda path: path.write_text(path.read_text().replace('"fold": 0', '"fold": 1')),
            r"_CHECKPOINT_METADATA is not what was saved",
        ),
    ],
)  # fmt: skip
def test_damage_is_named_with_the_other_series_as_the_way_out(
    run, config, which, load, pattern, damage, message
):
    damage(file_of(run, which, pattern))
    other = "best" if which == "latest" else "latest"
    with pytest.raises(CheckpointError, match=rf"(?s)damaged.*{message}.*The {other} parameters"):
        load(run, config)


def test_the_latest_parameters_can_be_used_where_the_best_are_damaged(run, trained, cohort):
    shutil.rmtree(run / "checkpoints" / "best")
    with pytest.raises(CheckpointError, match="best is missing.*--checkpoint latest"):
        Predictor([run])
    predictor = Predictor([run], checkpoint="latest")
    assert predictor.descriptions[0]["progress"]["data"]
    same = Predictor([trained], checkpoint="latest")
    assert len(predictor.descriptions) == len(same.descriptions)


def test_a_checkpoint_that_is_gone_is_told_from_one_that_was_never_written(tmp_path):
    for series in ("best", "latest"):
        (tmp_path / "checkpoints" / series).mkdir(parents=True)
    with pytest.raises(CheckpointError, match="holds no finished checkpoint yet; train on"):
        load_params(tmp_path, None)
    (tmp_path / "checkpoints" / "saved.json").write_text(json.dumps({"best": {"step": 3}}))
    with pytest.raises(CheckpointError, match="holds no whole checkpoint any more"):
        load_params(tmp_path, None)
    with pytest.raises(CheckpointError, match="holds no trained network; train one first"):
        load_params(tmp_path / "other", None)


@pytest.mark.parametrize("gone", ["checkpoints", "checkpoints/latest", "checkpoints/latest/12"])
def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(run, config, gone):
    shutil.rmtree(run / gone)
    record = (run / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match="is missing.*To start again, use another --workdir"):
        loop.train(config, run)
    assert (run / "metrics.jsonl").read_text() == record


def test_a_missing_best_checkpoint_is_an_error_at_the_end_and_on_resuming(
    config, run, tmp_path, monkeypatch
):
    shutil.rmtree(run / "checkpoints" / "best")
    with pytest.raises(CheckpointError, match="best holds no whole checkpoint"):
        loop.train(config, run)

    save_latest, workdir = Checkpoints.save_latest, tmp_path / "other"

    def save_and_lose(self, step, *rest):
        self.wait()
        shutil.rmtree(workdir / "checkpoints" / "best" / str(step), ignore_errors=True)
        save_latest(self, step, *rest)

    monkeypatch.setattr(Checkpoints, "save_latest", save_and_lose)
    config["train"]["epochs"] = 1
    with pytest.raises(CheckpointError, match="best holds no whole checkpoint"):
        loop.train(config, workdir)


def test_a_checkpoint_of_another_version_of_its_system_is_refused(run, config, monkeypatch):
    newer = systems.SYSTEMS["plain"]._replace(version=2)
    monkeypatch.setitem(systems.SYSTEMS, "plain", newer)
    with pytest.raises(CheckpointError, match="is of version 1 of plain, and this program has"):
        Predictor([run])


def test_checkpoints_from_before_there_were_digests_load(run, config):
    for which in ("best", "latest"):
        path = file_of(run, which, _TEXT)
        content = json.loads(path.read_text())
        for name in ("digests", "system_version"):
            del content["custom_metadata"][name]
        path.write_text(json.dumps(content))
    (run / "checkpoints" / "saved.json").unlink()
    Predictor([run])
    loop.train(config, run)
    assert len(read_log(run / "metrics.jsonl")) == 15
