"""isanet doctor: what it says, and what it finds in the way."""

import shutil

import numpy as np
import pytest

from isanet_jax.cli import doctor
from isanet_jax.errors import ConfigError
from isanet_jax.network import convolution


def test_a_sound_machine(capsys, tmp_path):
    doctor.main(["--folder", str(tmp_path)])
    out = capsys.readouterr().out
    assert "isanet_jax " in out
    assert "jax " in out
    assert "of NumPy" in out
    assert "nothing is in the way of training" in out


def test_what_is_old_or_missing_is_named(monkeypatch):
    needs = ["numpy>=999.1", "absent-package>=1", "jax>=0.1", "torch; extra == 'bench'"]
    monkeypatch.setattr(doctor, "_requirements", lambda: needs)
    _, problems = doctor._versions()
    assert len(problems) == 2
    assert "pip install 'numpy>=999.1'" in problems[0]
    assert "absent-package is not installed" in problems[1]


def test_a_full_disk_and_a_cache_that_cannot_be_written_to(monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**8)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    _, problems = doctor._disk(tmp_path)
    assert "has 0.1 GiB left" in problems[0]
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file" / "cache"))
    _, problems = doctor._cache()
    assert "set XDG_CACHE_HOME" in problems[0]


def test_a_device_that_computes_wrongly(monkeypatch, tmp_path):
    right = convolution.conv3d
    monkeypatch.setattr(convolution, "conv3d", lambda x, k: right(x, k) + np.float32(0.5))
    with pytest.raises(ConfigError, match="computes wrongly"):
        doctor.main(["--folder", str(tmp_path)])
