"""Several processes that train together, and what happens when one is told to stop or is lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from isanet_jax.distributed.processes import found_processes, local_devices
from isanet_jax.errors import ConfigError
from isanet_jax.runs.log import read_log
from tests.conftest import PATIENCE, PLAIN, small_flags

ROOT = Path(__file__).parents[2]
HOLD = Path(__file__).with_name("hold.py")
BY_HAND = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
TORCHRUN = {"MASTER_ADDR": "a", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "1"}
SRUN = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "3", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
MPIRUN = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
EPOCH = 6  # steps
LOST = "error: process {} of 2 (on "


@pytest.mark.parametrize("environ", [BY_HAND, TORCHRUN])
def test_processes_are_found_by_their_variables(environ):
    assert found_processes(environ) == {
        "coordinator_address": "a:1",
        "num_processes": 2,
        "process_id": 1,
        "cluster_detection_method": "deactivate",
    }
    for name in environ.keys() - {"JAX_NUM_PROCESSES", "WORLD_SIZE"}:
        with pytest.raises(ConfigError, match=f"{name}=,? ?.*need all of these"):
            found_processes({k: v for k, v in environ.items() if k != name})


def test_processes_are_found_by_their_launcher():
    assert found_processes(SRUN) == {"local_device_ids": None}  # JAX reads the rest
    four = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert found_processes(SRUN | four) == {"local_device_ids": [3]}
    assert found_processes(MPIRUN | four) == {"local_device_ids": [2, 3]}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        BY_HAND | {"JAX_NUM_PROCESSES": "1"},
        {"MASTER_ADDR": "a"},
        # A batch script of several tasks that was not started by srun.
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"},
        SRUN | {"SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_one_process_alone_looks_for_no_others(environ):
    assert found_processes(environ) is None


def test_the_devices_of_a_process():
    assert local_devices(8, rank=0, tasks=1) == list(range(8))
    assert local_devices(8, rank=1, tasks=2) == [4, 5, 6, 7]
    assert local_devices(1, rank=3, tasks=4) == [0]  # the launcher shows each its own


def by_hand(rank):
    return {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(rank)}


def by_srun(rank):
    """What srun sets for `--ntasks=2` on one machine."""
    return {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
    }


class Pair:
    """Two processes that train on phantoms, a device each.

    The first one waits before it goes on from step N while `hold(N)` lasts; the second waits for it
    in the next step.
    """

    def __init__(self, variables, workdir, cohort_folder, *settings, **environ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.workdir = workdir
        self.processes = []
        for rank in range(2):
            own = {"JAX_PLATFORMS": "cpu"} | environ | variables(rank)
            if variables is by_hand:
                own["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{port}"
            else:  # srun's processes agree on one by the job's ID, which may be in use here
                own["JAX_COORDINATOR_PORT"] = str(port)
            self.processes.append(start(workdir, cohort_folder, 2, *settings, **own))

    def wait_for(self, condition):
        """Waits until it holds while both run."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            ended = [p for p in self.processes if p.poll() is not None]
            assert not ended, ended[0].communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def steps(self):
        return len(losses(self.workdir))

    def outcome(self, rank):
        stdout, stderr = self.processes[rank].communicate(timeout=PATIENCE)
        return self.processes[rank].returncode, stdout, stderr

    def end(self):
        for process in self.processes:
            process.kill()
            process.communicate()


def start(workdir, cohort_folder, data, *settings, **environ):
    flags = small_flags(
        cohort_folder, train__batch=2, train__steps_per_epoch=EPOCH, mesh__data=data
    )
    command = [sys.executable, "train.py", "--workdir", str(workdir), *flags, *settings]
    extensions = os.pathsep.join(map(str, (PLAIN, HOLD)))
    environ = os.environ | {"ISANET_EXTENSIONS": extensions} | environ
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, env=environ, **pipes)


def losses(workdir):
    lines = read_log(Path(workdir) / "metrics.jsonl")
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.fixture(scope="module")
def alone(cohort_folder, tmp_path_factory):
    """The run of one process on one device that the pairs are compared with."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    process = start(workdir, cohort_folder, 1)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    return workdir


@pytest.fixture
def pair_of(cohort_folder):
    pairs = []

    def make(workdir, *settings, variables=by_hand, **environ):
        pairs.append(Pair(variables, workdir, cohort_folder, *settings, **environ))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.end()


def test_two_processes_train_as_one_stop_together_and_survive_a_kill(
    alone, cohort_folder, tmp_path, pair_of
):
    workdir = tmp_path / "run"
    within = (EPOCH + 2, EPOCH + 3)  # steps of the second epoch, with many to come
    holds = [tmp_path / f"hold-{step}" for step in within]
    for hold in holds:
        hold.touch()

    # The second is killed in the middle of an epoch, once the first checkpoint is whole.
    pair = pair_of(workdir, ISANET_TEST_HOLD=str(tmp_path))
    first = workdir / "checkpoints" / "latest" / str(EPOCH)
    pair.wait_for(lambda: first.exists() and pair.steps() >= within[0])
    pair.processes[1].kill()
    status, _, stderr = pair.outcome(0)
    assert (status, LOST.format(1) in stderr) == (2, True), stderr

    # Told to stop, the second stops both in the same step, and it is saved.
    holds[0].unlink()
    again = pair_of(workdir, ISANET_TEST_HOLD=str(tmp_path))
    again.wait_for(lambda: again.steps() >= within[1])
    again.processes[1].send_signal(signal.SIGTERM)
    holds[1].unlink()
    (first, stdout, stderr), (second, *_) = again.outcome(0), again.outcome(1)
    assert (first, second) == (0, 0), stderr
    assert f"resuming from step {EPOCH} (" in stdout
    assert "stopped on another process's signal after step" in stdout

    # One process alone ends what two began, with the losses of one alone.
    stopped = max(losses(workdir))
    assert stopped < 3 * EPOCH  # a batch fetched ahead later, and a step read late
    process = start(workdir, cohort_folder, 1)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert f"resuming from step {stopped}" in stdout, stderr
    expected, found = losses(alone), losses(workdir)
    assert list(found) == list(expected) == list(range(1, 3 * EPOCH + 1))
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    scores = [
        [line["cases"] for line in read_log(folder / "metrics.jsonl") if "cases" in line]
        for folder in (alone, workdir)
    ]
    assert len(scores[0]) == len(scores[1]) == 3


def test_the_first_process_killed_while_it_saves(alone, cohort_folder, tmp_path, pair_of):
    workdir = tmp_path / "run"
    latest = workdir / "checkpoints" / "latest"
    pair = pair_of(workdir, variables=by_srun, ISANET_TEST_KILL_IN_SAVE=str(2 * EPOCH))
    status, _, stderr = pair.outcome(1)
    assert (status, LOST.format(0) in stderr) == (2, True), stderr
    assert pair.outcome(0)[0] == -signal.SIGKILL
    assert [path.name for path in latest.glob("*.*tmp*")], "it was written already"
    process = start(workdir, cohort_folder, 1)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert f"resuming from step {EPOCH} (" in stdout, stderr
    np.testing.assert_allclose(
        list(losses(workdir).values()), list(losses(alone).values()), rtol=1e-4
    )


def test_devices_left_out_are_refused(cohort_folder, tmp_path, pair_of):
    pair = pair_of(tmp_path / "run", "--config.mesh.data=1")
    for rank in range(2):
        status, _, stderr = pair.outcome(rank)
        assert status == 2
    assert "the 2 processes have 2 devices: use all" in stderr or LOST.format(0) in stderr


def test_processes_that_do_not_meet_say_so():
    code = (
        "from isanet_jax.distributed import processes\n"
        "processes._MEET_WITHIN = 5\n"
        "with processes.distributed_session():\n"
        "    pass\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environ = os.environ | by_hand(1) | {"JAX_COORDINATOR_ADDRESS": address}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert process.returncode == 2
    assert "error: the processes do not find each other" in process.stderr
    assert address in process.stderr
