"""What every program does: completion, silence, logs with times; and what a training shows."""

import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from tensorboardX import SummaryWriter

from isanet_jax import cli
from isanet_jax.arguments import take_word
from isanet_jax.cli import completion
from isanet_jax.errors import ConfigError
from isanet_jax.nifti import write_volume
from isanet_jax.runs.log import read_log
from isanet_jax.runs.track import Tracker
from isanet_jax.streams import Stamped
from isanet_jax.training import loop
from isanet_jax.training.picture import picture
from isanet_jax.volume import Volume

BASH = "/bin/bash"


def isanet(*words, **options):
    program = (
        f"import sys; sys.argv = {['isanet', *words]!r}; from isanet_jax.cli import main; main()"
    )
    return subprocess.run([sys.executable, "-c", program], text=True, check=False, **options)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    pytest.importorskip("shtab")
    path = tmp_path_factory.mktemp("completion") / "isanet"
    with open(path, "w") as file:
        assert isanet("completion", "bash", stdout=file).returncode == 0
    return path


@pytest.mark.skipif(not os.path.exists(BASH), reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("pre",), {"prepare", "predict"}),
        (("predict", "--un"), {"--uncertainty"}),
        (("prepare", "sts", "--down"), {"--download"}),
        (("predict", "--checkpoint", ""), {"best", "latest"}),
        (("train", "--work"), {"--workdir"}),
    ],
)
def test_bash_completes(script, words, expected):
    text = f"source {script}; COMP_WORDS=(isanet {' '.join(repr(w) for w in words)}); "
    text += f"COMP_CWORD={len(words)}; _shtab_isanet; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    found = subprocess.run([BASH, "-c", text], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == expected


def test_every_program_is_completed():
    pytest.importorskip("shtab")
    assert set(completion.whole_parser().programs) == set(cli.COMMANDS)


def test_quiet_leaves_errors(tmp_path):
    for words, said in ((["completion", "bash"], ""), (["tune", "--workdir", "none"], "error: ")):
        ended = isanet(*words, "--quiet", capture_output=True)
        assert ended.stdout == ""
        assert not said or ended.stderr.splitlines()[-1].startswith(said)
        assert bool(said) == bool(ended.returncode)


def test_a_terminal_without_the_sign_ends_no_program(tmp_path):
    """Of Latin and ASCII terminals: the table's "±" was an error after all had been computed."""
    for folder in ("found", "true"):
        write_volume(tmp_path / folder / "A.nii", Volume(np.ones((4, 4, 4), np.uint8), np.eye(4)))
    words = ["--predictions", str(tmp_path / "found"), "--references", str(tmp_path / "true")]
    ended = isanet(
        *("eval", *words, "--output", str(tmp_path / "out")),
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert ended.returncode == 0
    assert "1.0000 ? 0.0000" in ended.stdout


def test_lines_of_a_log_begin_with_the_time(tmp_path):
    with open(tmp_path / "log", "w") as file:
        stamped = Stamped(file)
        print("one\ntwo", file=stamped)
        stamped.write("a part ")
        stamped.write("of a line\n\n")
    lines = (tmp_path / "log").read_text().splitlines()
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
    for line, text in zip(lines, ("one", "two", "a part of a line", None), strict=True):
        assert re.fullmatch(time + text if text else "", line)


def test_a_word_of_the_command_line():
    assert take_word(["a", "--x", "1", "b"], "--x") == (["a", "b"], "1")
    assert take_word(["a", "--x=1"], "--x") == (["a"], "1")
    assert take_word(["a"], "--x") == (["a"], None)


def test_the_picture_shows_reference_and_prediction():
    images = {"ct": np.random.default_rng(0).normal(size=(6, 32, 32)), "pet": np.zeros((6, 32, 32))}
    mask = np.zeros((6, 32, 32), bool)
    mask[4, 8:16, 8:16] = True
    found = np.zeros((6, 32, 32, 2), np.float32)
    found[4, 20:28, 20:28, 1] = 0.9
    shown = picture(images, found, {"a": np.zeros_like(mask), "b": mask})
    assert shown.shape == (256, 512, 3)
    blue, orange = ((shown == colour).all(-1) for colour in ((86, 180, 233), (230, 159, 0)))
    for edge, low, high in ((blue, 64, 127), (orange, 160, 223)):
        rows, columns = np.nonzero(edge[:, :256])
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (low, high, low, high)
        np.testing.assert_array_equal(edge[:, :256], edge[:, 256:])
    assert len(np.unique(shown[:, :256])) > 50  # the CT's own values between them


class FakeTracker(types.ModuleType):
    """Takes what a training gives to MLflow."""

    def __init__(self):
        super().__init__("mlflow")
        self.runs, self.metrics, self.params, self.ended = [], [], {}, 0
        self.is_away = False

    def start_run(self, run_id=None, run_name=None):
        self.runs.append((run_id, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "r1"))

    def log_params(self, params):
        self.params |= params

    def log_metrics(self, values, step):
        if self.is_away:
            raise ConnectionError("no route")
        self.metrics.append((step, values))

    def end_run(self):
        self.ended += 1


def test_a_training_shows_pictures_and_is_tracked(config, tmp_path, monkeypatch, trained):
    fake, images = FakeTracker(), []
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setattr(
        SummaryWriter,
        "add_image",
        lambda _, tag, image, step, dataformats: images.append((tag, step)),
    )
    config["train"]["epochs"] = 1
    loop.train(config, tmp_path / "run", track="mlflow")
    assert fake.runs == [(None, "run")]
    assert fake.params["model.levels"] == "2"
    record = read_log(tmp_path / "run" / "metrics.jsonl")
    assert [step for step, _ in fake.metrics] == [line["step"] for line in record]
    assert fake.metrics[0][1]["loss"] == record[0]["loss"]
    assert fake.metrics[-1][1]["validation_dsc"] == record[-1]["validation_dsc"]
    assert fake.ended == 1
    assert {tag.split("/")[0] for tag, _ in images} == {"validation"}
    assert {step for _, step in images} == {record[-1]["step"]}
    assert len(images) == len(record[-1]["cases"])
    with pytest.raises(ConfigError, match="choose one of mlflow, wandb"):
        loop.train(config, tmp_path / "other", track="excel")


def test_a_tracker_that_fails_does_not_end_a_training(tmp_path, monkeypatch, capsys):
    fake = FakeTracker()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    tracker = Tracker("mlflow", tmp_path, {"seed": 1})
    fake.is_away = True
    tracker.log({"loss": 1.0}, 1)
    fake.is_away = False
    tracker.log({"loss": 0.9}, 2)
    tracker.close()
    assert capsys.readouterr().out.count("no longer accepts records (ConnectionError)") == 1
    assert fake.metrics == []
    Tracker("mlflow", tmp_path, {"seed": 1})  # resumed: the same record goes on
    assert [run_id for run_id, _ in fake.runs] == [None, "r1"]
    monkeypatch.setattr(fake, "start_run", lambda **_: 1 / 0)
    with pytest.raises(ConfigError, match="refuses the run.*division"):
        Tracker("mlflow", tmp_path, {})


def test_without_the_tracker_it_is_said_before_any_step(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="--track wandb needs its package: pip install wandb"):
        loop.train(config, tmp_path / "run", track="wandb")
