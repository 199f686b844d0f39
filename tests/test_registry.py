"""What a file declares is found: in the package, and where ISANET_EXTENSIONS says."""

import os

import pytest

from isanet_jax.errors import ConfigError
from isanet_jax.registry import Registry

NEW_SYSTEM = """
from isanet_jax.network.backbone import two_branch

SYSTEMS = {"mine": two_branch("a module of one's own", None)}
"""


def found():
    return Registry("SYSTEMS", "isanet_jax.network.attention", "isanet_jax.network")


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text(NEW_SYSTEM)
    paths = [os.environ["ISANET_EXTENSIONS"], str(path)]
    monkeypatch.setenv("ISANET_EXTENSIONS", os.pathsep.join(paths))
    return path


def test_a_file_is_all_that_a_new_system_takes(file):
    names = list(found())
    assert names[-2:] == ["plain", "mine"]
    assert "isa" in names


def test_a_name_that_is_taken_is_refused(file):
    file.with_name("other.py").write_text(NEW_SYSTEM.replace("mine", "isa"))
    os.environ["ISANET_EXTENSIONS"] += os.pathsep + str(file.with_name("other.py"))
    with pytest.raises(ConfigError, match="isanet_extension_other: SYSTEMS has 'isa' already"):
        list(found())


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "give paths of Python files"), ("1 / 0", "does not load: ZeroDivisionError")],
)
def test_an_extension_that_cannot_be_loaded_is_named(tmp_path, monkeypatch, content, message):
    path = tmp_path / "bad.py"
    if content:
        path.write_text(content)
    monkeypatch.setenv("ISANET_EXTENSIONS", str(path))
    with pytest.raises(ConfigError, match=f"ISANET_EXTENSIONS names {path}.*{message}"):
        list(found())


def test_nothing_is_looked_for_before_it_is_asked_for():
    registry = Registry("SYSTEMS", "isanet_jax.nowhere")
    with pytest.raises(ModuleNotFoundError):
        list(registry)
