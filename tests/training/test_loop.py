import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from isanet_jax.cases.case import read_case
from isanet_jax.cli import evaluate
from isanet_jax.distributed.mesh import make_mesh
from isanet_jax.errors import CheckpointError, ConfigError, DataError, IsaNetError
from isanet_jax.evaluation.tune import tune_runs
from isanet_jax.locks import only_here
from isanet_jax.machine import CLOCKS, seconds_by
from isanet_jax.network import systems
from isanet_jax.network.config import ModelConfig
from isanet_jax.network.whole_volume import gaussian_weights
from isanet_jax.pipeline.inputs import make_inputs
from isanet_jax.pipeline.normalise import standardised
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.runs import log
from isanet_jax.runs.checkpoint import Checkpoints, load_params, read_progress
from isanet_jax.runs.log import RunLog, read_log
from isanet_jax.settings import Config, read
from isanet_jax.settings.table import Optimizer
from isanet_jax.training import loop, setup
from isanet_jax.training.cost import StepCost
from isanet_jax.training.optimizer import make_optimizer
from isanet_jax.training.setup import check_labels, load_cohort, split_cohort
from isanet_jax.training.step import TrainState, init_state, make_predict, make_train_step
from isanet_jax.training.validate import validate
from tests.conftest import PATIENCE, small_flags

ROOT = Path(__file__).parents[2]


def latest_params(workdir, config):
    optimizer = make_optimizer(Optimizer(), lambda step: 0.0)
    _, state = init_state(systems.of_config(read(config)), optimizer, seed=99)
    with Checkpoints(workdir, info={}) as checkpoints:
        return checkpoints.load_latest(state)[0]


def losses(workdir):
    return {
        line["step"]: line["loss"] for line in read_log(workdir / "metrics.jsonl") if "loss" in line
    }


def assert_same_run(workdir, trained, config):
    assert losses(workdir) == losses(trained)
    states = [latest_params(folder, config) for folder in (workdir, trained)]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_learns_and_leaves_its_record(trained, config):
    of_step = losses(trained)
    assert list(of_step) == list(range(1, 13))  # 4 cases, 3 epochs
    assert np.mean([of_step[s] for s in (10, 11, 12)]) < np.mean([of_step[s] for s in (1, 2, 3)])
    checks = [c for c in read_log(trained / "metrics.jsonl") if "validation_dsc" in c]
    assert [c["epoch"] for c in checks] == [1, 2, 3]
    assert all(len(c["cases"]) == 2 for c in checks)
    assert json.loads((trained / "config.json").read_text()) == config
    assert list((trained / "tensorboard").glob("events*"))
    _, description = load_params(
        trained,
        lambda d: systems.create(systems.of_config(read(d["config"])), jax.random.key(0))[1],
    )
    best = max(checks, key=lambda c: c["validation_dsc"])
    assert description["progress"]["best_dsc"] == best["validation_dsc"]
    assert description["progress"]["best_epoch"] == best["epoch"]
    assert description["config"] == config


@pytest.mark.parametrize(
    # At the end of an epoch, and within one, where the next step is under way already.
    ("number", "signal_at", "stop_at"),
    [(signal.SIGTERM, 4, 4), (signal.SIGHUP, 5, 6)],
)
def test_interrupted_and_resumed_is_the_same_as_uninterrupted(
    trained, config, tmp_path, monkeypatch, capsys, number, signal_at, stop_at
):
    record = RunLog.step

    def record_and_stop(self, step, *args, **kwargs):
        record(self, step, *args, **kwargs)
        if step == signal_at:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunLog, "step", record_and_stop)
    before = signal.signal(number, signal.SIG_DFL)  # nohup leaves SIGHUP ignored
    try:
        loop.train(config, tmp_path)
    finally:
        signal.signal(number, before)
    assert max(losses(tmp_path)) == stop_at
    assert f"stopped on {number.name}" in capsys.readouterr().out
    monkeypatch.undo()
    first = read_progress(tmp_path)["seconds"]
    before = {clock: seconds_by(clock) for clock in CLOCKS}
    loop.train(config, tmp_path)
    for clock, seconds in read_progress(tmp_path)["seconds"].items():
        # Both parts; what follows the last checkpoint is left out, and little.
        assert first[clock] < seconds <= first[clock] + seconds_by(clock) - before[clock]
    assert f"resuming from step {stop_at}" in capsys.readouterr().out
    assert_same_run(tmp_path, trained, config)
    loop.train(config, tmp_path)
    assert "trained already" in capsys.readouterr().out


class LateMetric:
    """A scalar of a step that takes long: reading it is noted."""

    def __init__(self, step, notes):
        self.step, self.notes = step, notes

    def is_ready(self):
        return False

    def __float__(self):
        self.notes.append(f"read {self.step}")
        return 1.0


def test_a_step_is_started_and_its_batch_copied_before_the_last_ones_metrics_are_read(monkeypatch):
    notes = []

    def train_step(state, batch):
        step = int(batch["case"][0])
        notes.append(f"start {step}")
        return state, {"loss": LateMetric(step, notes)}

    def place_batch(batch, mesh):
        notes.append(f"copy {batch['case'][0]}")
        return batch

    class Batches:
        number = 0

        def __next__(self):
            self.number += 1
            return {"case": np.array([self.number])}

        def get_state(self):
            return self.number

    monkeypatch.setattr(loop, "place_batch", place_batch)
    monkeypatch.setattr(loop, "validate", lambda *_, **__: {"mean": 0.5, "cases": {}})
    log = SimpleNamespace(
        step=lambda step, *_, **__: notes.append(f"log {step}"),
        validation=lambda *_: None, flush=lambda: None, message=lambda text: None,
        picture=lambda *_: None,
    )  # fmt: skip
    saved = []
    checkpoints = SimpleNamespace(
        save_best=lambda *_: None, check_best=lambda: None, close=lambda: None,
        save_latest=lambda step, state, progress: saved.append((step, progress["data"])),
    )  # fmt: skip
    run = SimpleNamespace(
        train_step=train_step, total_steps=4, steps_per_epoch=2, mesh=None, predict=None,
        schedule=lambda step: 0.1, cohort=None, parts=SimpleNamespace(train=[], selection=["A"]),
        config=Config(),
    )  # fmt: skip
    state = TrainState(np.zeros(1), (), 0, None)
    monkeypatch.setattr(loop, "not_finite", lambda state: [])
    stop = SimpleNamespace(reason=None, signal_name=None)
    trace = SimpleNamespace(step_done=lambda: None, stop=lambda: None)
    progress = {"best_dsc": -1.0, "best_epoch": 0}
    assert loop._train_steps(
        run, state, progress, dict.fromkeys(CLOCKS, 0.0), workdir=None, batches=Batches(),
        checkpoints=checkpoints, stop=stop, log=log, trace=trace,
    )  # fmt: skip
    epoch = [
        *("copy 1", "start 1", "copy 2", "start 2", "copy 3", "read 1", "log 1"),
        *("read 2", "log 2", "start 3", "copy 4", "start 4", "copy 5", "read 3", "log 3"),
        *("read 4", "log 4"),
    ]
    assert notes == epoch
    assert saved == [(2, 2), (4, 4)]  # the data's place is that of the step that is saved


def program(*arguments, file_size_kb=None, **environ):
    """Starts a program of the repository, if asked for with a limit on the size of its files."""
    limit = (
        [] if file_size_kb is None else ["bash", "-c", f'ulimit -f {file_size_kb}; exec "$@"', ""]
    )
    return subprocess.Popen(
        [*limit, sys.executable, *map(str, arguments)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | environ,
    )  # fmt: skip


def train_command(workdir, cohort_folder, **changes):
    """The small config of conftest.py, from the command line."""
    return ["train.py", "--workdir", workdir, *small_flags(cohort_folder, **changes)]


def test_killed_and_resumed_is_the_same_as_uninterrupted(trained, config, cohort_folder, tmp_path):
    """The program itself, killed without warning, and ended by SIGINT with exit code 0."""
    workdir = tmp_path / "run"
    command = train_command(workdir, cohort_folder)

    record = workdir / "metrics.jsonl"

    def run_until(steps, number):
        # A run starts by replacing the record: until then its lines are the last run's.
        stale = record.stat().st_ino if record.exists() else None
        process = program(*command)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            if record.exists() and record.stat().st_ino != stale:
                lines = read_log(record)
                if lines and lines[-1]["step"] >= steps:
                    process.send_signal(number)
                    break
            time.sleep(0.002)
        return process.wait(PATIENCE), *process.communicate()

    code, _, stderr = run_until(5, signal.SIGKILL)
    assert code == -signal.SIGKILL, stderr
    code, _, stderr = run_until(7, signal.SIGINT)
    assert code == 0, stderr
    loop.train(config, workdir)
    assert_same_run(workdir, trained, config)


def test_a_workdir_of_another_config_is_refused(trained, config):
    config["optimizer"]["peak_learning_rate"] = 0.5
    with pytest.raises(ConfigError, match="optimizer.peak_learning_rate: 0.001 there, 0.5 now"):
        loop.train(config, trained)


def test_a_checkpoint_of_another_network_is_refused(trained, config, tmp_path):
    (tmp_path / "checkpoints").symlink_to(trained / "checkpoints")
    config["model"]["width"] = 4
    with pytest.raises(CheckpointError, match="checkpoint"):
        loop.train(config, tmp_path)
    config["model"] |= {"width": 2, "name": "unet"}
    with pytest.raises(CheckpointError, match="checkpoint"):
        loop.train(config, tmp_path)


def test_a_loss_that_is_not_finite_stops_and_names_the_cases(config, tmp_path, cohort):
    config["optimizer"] |= {"peak_learning_rate": 1e38, "floor_learning_rate": 1e37}
    with pytest.raises(IsaNetError, match="loss is not finite at step .*phantom_00") as error:
        loop.train(config, tmp_path)
    with np.load(tmp_path / "nonfinite_batch.npz") as batch:
        assert batch["images.ct"].shape == (1, 16, 16, 16)
        named = [c for c in cohort.cases if c in str(error.value)]
        assert len(named) == len({int(batch["case"][0]), int(batch["partner"][0])})


def test_cases_prepared_otherwise_are_refused(config, tmp_path):
    config["data"]["size"] = 32
    with pytest.raises(
        ConfigError, match=r"size 16; the config says size 32.*--config.data.size=16"
    ):
        loop.train(config, tmp_path)


def test_phantoms_have_the_classes_that_are_asked_for(config, tmp_path):
    config["data"] |= {"cases": str(tmp_path / "nodes"), "phantoms": 5, "classes": ("gtvp", "gtvn")}
    assert tuple(load_cohort(read(config)).settings["classes"]) == ("gtvp", "gtvn")


def test_one_step_of_two_samples_is_the_mean_of_their_gradients(config, cohort):
    """The batch's loss is the mean over its samples: a step on [a, a] is a step on [a]."""
    from isanet_jax.pipeline.dataset import training_data

    optimizer = make_optimizer(Optimizer(), lambda step: 1e-3)
    inputs, cases = make_inputs(read(config), cohort), sorted(cohort.cases)
    options = {"batch": 1, "seed": 0, "augment": read(config).augment}
    batch = next(iter(training_data(cohort, cases, inputs, **options)))
    double = jax.tree.map(lambda value: np.concatenate([value, value]), batch)
    results = []
    for data in (batch, double):
        graphdef, state = init_state(systems.of_config(read(config)), optimizer, 0)
        step = make_train_step(graphdef, optimizer, make_mesh(1, 1), inputs, loss=read(config).loss)
        _, metrics = step(state, data)
        results.append({name: float(value) for name, value in metrics.items()})
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_an_epoch_has_each_training_case_once_and_a_part_of_a_batch_is_a_step(config, cohort):
    config["train"] |= {"batch": 2, "steps_per_epoch": 0}
    run, _ = setup.set_up(read(config), cohort, make_mesh(1, 1))
    assert run.steps_per_epoch == -(-len(run.parts.train) // 2)


def test_a_mesh_of_more_devices_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="mesh.data is 99"):
        make_mesh(99, 1)


def test_a_full_disk_ends_with_a_clear_error_and_loses_nothing(config, cohort_folder, tmp_path):
    """No file may grow beyond 60 kB: the checkpoint's do not fit."""
    workdir, wide = tmp_path / "run", 256
    command = train_command(workdir, cohort_folder, model__width=wide)
    process = program(*command, file_size_kb=60, JAX_ENABLE_COMPILATION_CACHE="false")
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, stderr
    *before, last = stderr.strip().splitlines()
    assert last.startswith("error: file")
    assert "cannot be written" in last
    # Nothing of the libraries' tracebacks; XLA says that there is no GPU.
    assert not [line for line in before if "cudart" not in line and "InitializeLog" not in line]
    config["model"]["width"] = wide
    for folder in (workdir, tmp_path / "other"):
        loop.train(config, folder)
    assert_same_run(workdir, tmp_path / "other", config)


def test_patches_sgd_deep_supervision_and_mirrors_train_and_predict(config, cohort, tmp_path):
    """nnU-Net's recipe: every option that the paper's own leaves out, in one run."""
    config["model"]["deep_supervision"] = True
    config["data"]["patch"] = 8
    config["optimizer"] |= {"name": "sgd", "schedule": "poly", "peak_learning_rate": 0.05}
    config["optimizer"] |= {"weight_decay": 3e-5, "clip_norm": 12.0}
    config["train"] |= {"epochs": 2, "steps_per_epoch": 6, "batch": 2}
    config["predict"]["mirror"] = True
    loop.train(config, tmp_path)
    lines = read_log(tmp_path / "metrics.jsonl")
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    np.testing.assert_allclose(rates, [0.05] * 6 + [0.05 * 0.5**0.9] * 6, rtol=1e-5)
    params, description = load_params(
        tmp_path,
        lambda d: systems.create(systems.of_config(read(d["config"])), jax.random.key(0))[1],
    )
    graphdef, _ = systems.create(systems.of_config(read(config)), jax.random.key(0))
    # Windows; validation is without mirror images.
    kinds = {"ct": "ct", "pet": "pet"}
    predict = make_predict(graphdef, make_mesh(1, 1), tuple(kinds.items()), of_volume=False)

    def probability_of(case, axes=()):
        images, _ = standardised(case.images, case.statistics, kinds, of_volume=False)
        total, weight = np.zeros((16, 16, 16)), np.zeros((16, 16, 16))
        weights = gaussian_weights((8, 8, 8))
        for starts in itertools.product((0, 4, 8), repeat=3):  # half of a window apart
            at = tuple(slice(start, start + 8) for start in starts)
            flipped = {name: np.flip(x, axes)[at][None] for name, x in images.items()}
            total[at] += np.asarray(predict(params, flipped))[0, ..., 0] * weights
            weight[at] += weights
        return np.flip(total / weight, axes)

    epoch = description["progress"]["best_epoch"]
    (best,) = (c for c in lines if c["epoch"] == epoch and "validation_dsc" in c)
    for name, dsc in best["cases"].items():
        case = read_case(cohort.path(name))
        mask = probability_of(case) >= 0.5
        label = case.label > 0
        assert dsc == pytest.approx(2 * (mask & label).sum() / (mask.sum() + label.sum()))
    mean = np.zeros((16, 16, 16))
    for flips in itertools.product((False, True), repeat=3):
        mean += probability_of(case, np.flatnonzero(flips).tolist()) / 8
    probability = Predictor([tmp_path]).probabilities([case])[0][..., 0]
    np.testing.assert_allclose(probability, mean, atol=1e-5)


def test_clipping_and_decay_come_before_the_momentum():
    settings = Optimizer(name="sgd", momentum=0.9, weight_decay=0.5, clip_norm=1.0)
    optimizer = make_optimizer(settings, lambda step: 0.1)
    params, velocity = np.array([2.0, -1.0]), np.zeros(2)
    state, jax_params = optimizer.init(params), jax.numpy.asarray(params)
    for gradient in ([3.0, 4.0], [0.3, 0.0]):
        updates, state = optimizer.update(jax.numpy.asarray(gradient), state, jax_params)
        jax_params = jax_params + updates
        # PyTorch's SGD(nesterov=True, weight_decay=0.5) after clip_grad_norm_(1.0).
        g = np.array(gradient) / max(1, np.linalg.norm(gradient)) + 0.5 * params
        velocity = 0.9 * velocity + g
        params = params - 0.1 * (g + 0.9 * velocity)
        np.testing.assert_allclose(jax_params, params, rtol=1e-6)


def test_the_log_says_what_share_of_the_time_the_steps_waited(trained):
    lines = read_log(trained / "metrics.jsonl")
    shares = [line["waiting_share"] for line in lines if "waiting_share" in line]
    assert len(shares) == 3
    assert all(0 <= share < 1 for share in shares)
    steps = [line for line in lines if "waiting_seconds" in line and line["epoch"] == 1]
    waited = sum(line["waiting_seconds"] for line in steps)
    assert shares[0] == pytest.approx(waited / sum(line["seconds"] for line in steps), abs=1e-3)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_the_optimisers_state_starts_as_its_init_says(name):
    optimizer = make_optimizer(
        Optimizer(name=name, clip_norm=1.0, weight_decay=0.1), lambda step: 1e-3
    )
    model = ModelConfig(size=8, width=2, levels=2)
    _, state = init_state(model, optimizer, 0)
    expected = optimizer.init(state.params)
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(expected)
    for ours, its in zip(*map(jax.tree.leaves, (state.opt_state, expected)), strict=True):
        np.testing.assert_array_equal(ours, its)
        assert ours.dtype == its.dtype


@pytest.mark.parametrize(
    ("usable", "message"),
    [
        (7, r"needs 8.00 GiB on a device of 7.00 GiB: 5.00 GiB would do with --config.model.remat"),
        (1, r"needs 8.00 GiB on a device of 1.00 GiB: use a smaller --config.data.patch"),
    ],
)
def test_a_step_that_cannot_fit_is_refused_with_what_would(
    config, tmp_path, monkeypatch, usable, message
):
    """The needs are invented here: compiling each setting takes minutes."""

    asked = []

    def needs(train_step, state, batch_size, inputs):
        asked.append(batch_size)
        peak = 8 if len(asked) == 1 else 5  # the config's, then the settings that save
        return None, StepCost(1e9, peak * 2**30, 0, 0, 0, {})

    monkeypatch.setattr(setup, "compile_with_cost", needs)
    monkeypatch.setattr(setup, "device_bytes", lambda _: usable * 2**30)
    with pytest.raises(ConfigError, match=message):
        loop.train(config, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.jsonl"))


def test_parameters_that_are_not_finite_are_not_saved(config, tmp_path):
    """They overflow in the step before a checkpoint: its loss is still finite."""
    config["optimizer"] |= {"peak_learning_rate": 1e38, "floor_learning_rate": 1e37}
    config["optimizer"] |= {"name": "sgd", "momentum": 0.9, "weight_decay": 1e3}
    config["train"] |= {"steps_per_epoch": 1}
    with pytest.raises(
        IsaNetError, match=r"not finite after step 1, such as params.*No checkpoint had been saved"
    ):
        loop.train(config, tmp_path)
    assert not [p for p in tmp_path.glob("checkpoints/*/*") if p.name.isdigit()]


def test_a_validation_that_is_not_finite_is_an_error(config, cohort):
    def predict(params, images):
        """One voxel of all is none."""
        return jax.numpy.zeros_like(images["ct"])[..., None].at[0, 3, 2, 1].set(jax.numpy.nan)

    run, state = setup.set_up(read(config), cohort, make_mesh(1, 1))
    with pytest.raises(IsaNetError, match="not finite on the validation case phantom_00"):
        validate(dataclasses.replace(run, predict=predict), state.params, 1)


def test_only_a_better_network_replaces_the_best(config, tmp_path, monkeypatch):
    """By however little; an equal one does not."""
    found = iter([0.5, 0.49, 0.5, 0.501, 0.5009])
    monkeypatch.setattr(
        loop,
        "validate",
        lambda *_, **__: {"mean": (dsc := next(found)), "cases": {"a": dsc}, "classes": {}},
    )
    saved, save = [], Checkpoints.save_best

    def record(self, step, state, progress):
        saved.append((step, progress["best_dsc"], progress["best_epoch"]))
        save(self, step, state, progress)

    monkeypatch.setattr(Checkpoints, "save_best", record)
    config["train"] |= {"epochs": 5, "steps_per_epoch": 1}
    loop.train(config, tmp_path)
    assert saved == [(1, 0.5, 1), (4, 0.501, 4)]
    assert Predictor([tmp_path]).descriptions[0]["progress"]["best_epoch"] == 4


def test_a_second_program_in_the_same_folder_is_refused(config, tmp_path):
    with (
        only_here(tmp_path, "train", "trains there"),
        pytest.raises(ConfigError, match="another program trains there"),
    ):
        loop.train(config, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_refused_config_does_not_claim_the_folder(config, tmp_path):
    with pytest.raises(ConfigError, match="fold is 7"):
        loop.train(config | {"fold": 7}, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_labels_that_are_all_empty_are_refused(config, cohort):
    for which, what in (("train", "training"), ("selection", "validation")):
        parts = split_cohort(read(config), cohort)
        cases = {
            case: entry
            | ({"volumes_case_ml": {"tumour": 0.0}} if case in getattr(parts, which) else {})
            for case, entry in cohort.cases.items()
        }
        emptied = dataclasses.replace(cohort, cases=cases)
        with pytest.raises(DataError, match=f"labels of all . {what} cases are empty"):
            check_labels(read(config), emptied, parts)


def test_a_signal_is_heard_while_the_step_is_compiled(config, tmp_path, monkeypatch):
    """Compiling takes a minute and more, and there is nothing to save yet."""
    compiling = threading.Event()

    def compile_slowly(*_):
        compiling.set()
        time.sleep(60)

    def interrupt():
        compiling.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(setup, "compile_with_cost", compile_slowly)
    threading.Thread(target=interrupt, daemon=True).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, tmp_path)
    assert compiling.is_set()
    assert time.monotonic() - started < 50


def test_tensorboard_has_what_the_checkpoint_has(config, tmp_path, monkeypatch):
    """The writer keeps events for two minutes: after a kill they would be gone."""
    sizes, save = [], Checkpoints.save_latest

    def look(self, *arguments):
        time.sleep(0.2)  # its own thread writes
        sizes.append(sum(p.stat().st_size for p in (tmp_path / "tensorboard").iterdir()))
        save(self, *arguments)

    monkeypatch.setattr(Checkpoints, "save_latest", look)
    loop.train(config, tmp_path)
    assert sizes[0] > 1000
    assert sizes == sorted(set(sizes))


def test_a_reader_that_leaves_does_not_stop_the_training(trained, config, cohort_folder, tmp_path):
    process = program(*train_command(tmp_path / "run", cohort_folder))
    process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        stderr = process.stderr.read()
    assert process.wait(PATIENCE) == 0, stderr
    assert "Traceback" not in stderr
    assert_same_run(tmp_path / "run", trained, config)


def test_sixty_validations_leave_nothing_behind(trained, config, cohort):
    """Files, threads and memory: of the data's readers, and of what is computed."""
    run, state = setup.set_up(read(config), cohort, make_mesh(1, 1))
    used = []
    for _ in range(60):
        validate(run, state.params, 1)
        with open("/proc/self/statm") as file:
            mib = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        used.append((len(os.listdir("/proc/self/fd")), threading.active_count(), mib))
    files, threads, mib = (last - first for first, last in zip(used[9], used[-1], strict=True))
    assert files <= 4
    assert threads <= 4
    assert mib <= 50


def test_all_cases_can_be_trained_on(config, tmp_path, cohort, capsys):
    """By the last checkpoint, or the average of the weights; there is none left to score."""
    config["fold"] = "all"
    config["optimizer"] |= {"average": 0.5}
    config["train"] |= {"epochs": 2}
    assert loop.train(config, tmp_path / "run")
    shown = capsys.readouterr().out
    assert f"{len(cohort.cases)} cases to train on, 0 to validate" in shown
    assert "none is left to score" in shown
    predictor = Predictor([tmp_path / "run"])
    (description,) = predictor.descriptions
    assert description["progress"]["best_epoch"] == 2
    assert set(description["split"]["train"]) == set(cohort.cases)
    case = read_case(cohort.path(min(cohort.cases)))
    average = predictor.probabilities([case])[0]
    last = Predictor([tmp_path / "run"], checkpoint="latest").probabilities([case])[0]
    assert np.abs(average - last).max() > 0
    with pytest.raises(ConfigError, match="was trained or selected on"):
        evaluate.main(["--workdir", str(tmp_path / "run")])
    with pytest.raises(ConfigError, match="none is left to choose rules on"):
        tune_runs([tmp_path / "run"], tmp_path / "rules.json")
    assert loop.train(config, tmp_path / "run")  # again: it is trained already


def test_all_that_is_not_tested_can_be_trained_on(config, tmp_path, cohort, capsys):
    """As in nnU-Net: no case is kept aside to choose by, and the test fold is scored."""
    config["selection"] = "none"
    config["train"] |= {"epochs": 2}
    run = tmp_path / "run"
    assert loop.train(config, run)
    tested = [case for case, fold in cohort.fold_of.items() if fold == config["fold"]]
    shown = capsys.readouterr().out
    assert f"{len(cohort.cases) - len(tested)} cases to train on, 0 to validate" in shown
    assert f"the last checkpoint counts; next: isanet eval --workdir {run}" in shown
    evaluate.main(["--workdir", str(run)])
    found = json.loads((run / "eval" / "metrics.json").read_text())
    assert sorted(found["cases"]) == sorted(tested)
    (described,) = found["runs"]
    assert (described["selection"], described["best_epoch"]) == ("none", 2)
    assert described["validation_dsc"] is None
    assert "no case was kept aside" in (run / "eval" / "report.md").read_text()
    with pytest.raises(ConfigError, match="the role 'selection': none is left"):
        tune_runs([run], tmp_path / "rules.json", role="selection")


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    config, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(log, "_SECONDS_BETWEEN_LINES", 0.0)
    config["train"] |= {"epochs": 1}
    assert loop.train(config, tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    told = next(line for line in lines if line.startswith("step 1 of"))
    figures = r"epoch 1: loss [\d.]+, [\d.]+ s a step, [\d:]+ left"
    assert re.fullmatch(rf"step 1 of \d+, {figures}", told)
