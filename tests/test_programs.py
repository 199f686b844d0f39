"""The programs as a user runs them: exit codes and messages, never a traceback."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from isanet_jax import runtime
from isanet_jax.arguments import command, take_number
from isanet_jax.distributed.mesh import compiler_options, has_onednn
from isanet_jax.errors import ConfigError
from isanet_jax.network.convolution import conv3d
from isanet_jax.settings import Config
from isanet_jax.streams import printable

ROOT = Path(__file__).parents[1]


def run(root, *arguments, cwd=None):
    """A program of the clone, or `python -m isanet_jax NAME`."""
    name, *rest = arguments
    program = [str(root / name)] if name.endswith(".py") else ["-m", "isanet_jax", name]
    rest = [str(root / word) if ".py" in word else word for word in rest]
    return subprocess.run(
        [sys.executable, *program, *rest],
        cwd=cwd or root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("called", "train", "plan"),
    [
        ("/usr/bin/isanet", "isanet train", "isanet plan"),
        ("eval.py", "python train.py", "python -m isanet_jax plan"),
        ("python -m isanet_jax eval", "python -m isanet_jax train", "python -m isanet_jax plan"),
    ],
)
def test_messages_name_the_command_that_the_user_has(called, train, plan, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called])
    assert (command("train"), command("plan")) == (train, plan)


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", ""])
def test_a_number_on_the_command_line_is_at_least_one(given):
    assert take_number(["a", "--n=3", "b"], "--n", 7, "N") == (["a", "b"], 3)
    assert take_number(["a"], "--n", 7, "N") == (["a"], 7)
    with pytest.raises(ConfigError, match="--n is .*; give a count"):
        take_number([f"--n={given}"], "--n", 7, "a count")


@pytest.mark.parametrize(
    "program", [*("prepare.py", "train.py", "eval.py", "predict.py"), "compare"]
)
def test_help(request, program):
    done = run(request.config.rootpath, program, "--help")
    assert done.returncode == 0
    assert "usage" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare.py", "hecktor", "--source", "absent", "--output", "o"], "make demo"),
        (["train.py", "--config", "configs/hecktor.py"], "hecktor.grand-challenge.org"),
        (["train.py", "--config", "configs/hecktor.py", "--config.fodl=1"], "fodl"),
        (["predict.py", "--workdir", "w", "--ct", "c.nii", "--output", "o.nii"], "--pet"),
        (["eval.py", "--workdir", "absent"], "no trained network"),
        (["compare", "--config", "compare/table2:sts,tiny"], "smoke and own"),
    ],
)
def test_errors_are_one_line_and_status_2(request, tmp_path, arguments, message):
    root = request.config.rootpath
    done = run(root, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_what_is_compiled_is_kept_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    code = """
from isanet_jax import runtime
from isanet_jax.arguments import command, take_number
runtime.keep_compiled()
import jax
jax.jit(lambda x: x + 1)(1.0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    (folder,) = (tmp_path / "isanet_jax").iterdir()
    assert any(folder.iterdir())
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "chosen")
    runtime.keep_compiled()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "chosen"


def test_the_systems_are_listed(request, tmp_path):
    config = ["--config", "configs/sts.py", "--config.model.name=help"]
    done = run(request.config.rootpath, "train.py", *config, cwd=tmp_path)
    assert done.returncode == 0
    assert "iantsen2020" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("driver", "platforms", "warned"),
    [(True, "", True), (True, "cpu", False), (False, "", False)],
)
def test_a_gpu_that_is_left_unused_is_warned_of(monkeypatch, capsys, driver, platforms, warned):
    monkeypatch.setattr(runtime, "has_gpu_driver", lambda: driver)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    runtime.say_devices()
    first, *others = capsys.readouterr().out.splitlines()
    assert first == f"on 1 x CPU, JAX {jax.__version__}"
    assert bool(others) == warned
    assert not warned or "isanet-jax[cuda12]" in others[0]


def test_determinism_and_layout_are_asked_of_the_compiler_for_gpus_alone():
    def options(platform, **config):
        device = SimpleNamespace(platform=platform)
        mesh = SimpleNamespace(devices=np.array([[device]]))
        return dict(compiler_options(Config(**config), mesh))

    nhwc, same = "xla_gpu_force_conv_nhwc", "xla_gpu_deterministic_ops"
    assert options("cpu", deterministic=True) == {}
    assert options("gpu", deterministic=True, channels_last=False) == {nhwc: False, same: True}
    assert options("cuda") == {nhwc: True, same: False}


def test_onednn_is_asked_for_in_long_trainings_where_it_is():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "space"))
    assert compiler_options(Config(), mesh) == compiler_options(Config(), mesh, steps=999) == ()
    long = dict(compiler_options(Config(), mesh, steps=1000))
    assert len(long) == has_onednn()
    if jax.__version_info__ < (0, 12):
        assert not long
        pytest.skip("JAX hands no convolution to oneDNN before 0.12")
    warnings.filterwarnings("ignore", "Error writing persistent .*bad_alloc", UserWarning)
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 8, 8, 8, 8)), rng.normal(size=(3, 3, 3, 8, 8))

    def loss(x, kernel):
        return jnp.sum(jnp.square(conv3d(x, kernel)))

    found, expected = (
        jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=options)(
            x.astype(np.float32), kernel.astype(np.float32)
        )
        for options in (long, {})
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_a_files_name_commands_no_terminal(tmp_path, capsys):
    """An escape sequence in a name may clear a screen, or write what nobody said."""
    assert printable("a \x1b[2J\u202e.nii\tb\n") == "a \\x1b[2J\\u202e.nii\tb\n"
    assert printable("µg/ml, Müller, 腫瘍") == "µg/ml, Müller, 腫瘍"
    logging.getLogger("isanet_jax.x").warning("file %s", "\x1b[31m")
    assert capsys.readouterr().out == "file \\x1b[31m\n"
    ended = subprocess.run(
        [sys.executable, "-m", "isanet_jax", "eval", "--workdir", "\x1b[2Jx"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "\x1b" not in ended.stderr
    assert "error: \\x1b[2Jx holds no trained network" in ended.stderr
