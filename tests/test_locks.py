"""Two programs in one folder, and workers whose parent is gone."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from isanet_jax import machine, nifti, parallel
from isanet_jax.cases import prepare_cohort
from isanet_jax.cli.prepare import main as prepare_main
from isanet_jax.datasets.layout import Scan
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.locks import only_here
from isanet_jax.nifti import write_volume
from isanet_jax.parallel import in_processes
from isanet_jax.volume import Volume

ROOT = Path(__file__).parents[1]


def test_a_folder_is_one_programs_at_a_time(tmp_path):
    folder = tmp_path / "new" / "folder"
    with only_here(folder, "prepare", "makes cases there"):
        refused = pytest.raises(ConfigError, match=f"another program makes.*process {os.getpid()} ")
        with refused, only_here(folder, "prepare", "makes cases there"):
            pass
        with only_here(folder, "train", "trains there"):  # another thing to do
            pass
        with pytest.raises(ConfigError, match="another program makes cases there"):
            prepare_main(["phantom", "--output", str(folder), "--cases", "2", "--folds", "2"])
    with only_here(folder, "prepare", "makes cases there"):
        pass


def test_a_program_that_was_refused_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="refused"), only_here(tmp_path / "a" / "b", "x", "works"):
        raise ValueError("refused")
    assert not list(tmp_path.iterdir())


def _scans(tmp_path, count=4):
    path = tmp_path / "ct.nii.gz"
    return [Scan(f"case{i}", {"ct": path, "pet": path}, None, f"case{i}") for i in range(count)]


def _kill_oneself(scan):
    if scan.case == "case1":
        os.kill(os.getpid(), signal.SIGKILL)
    return scan.case


def _fail(scan):
    if scan.case == "case2":
        raise MemoryError("208 GiB")
    return scan.case


def test_a_case_that_kills_its_process_fails_alone(tmp_path):
    """As the system does where memory is short."""
    found = {}
    for scan, outcome in in_processes(_kill_oneself, _scans(tmp_path), 2):
        try:
            found[scan.case] = outcome()
        except DataError as error:
            found[scan.case] = str(error)
    assert "case case1" in found.pop("case1")
    assert found == {f"case{i}": f"case{i}" for i in (0, 2, 3)}


def _kill_or_sleep(scan):
    if scan.case in ("case1", "case6"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return scan.case


def test_the_others_go_on_in_half_as_many_processes(tmp_path, caplog):
    found = {}
    for scan, outcome in in_processes(_kill_or_sleep, _scans(tmp_path, 10), 4):
        with contextlib.suppress(DataError):
            found[scan.case] = outcome()
    assert found.keys() == {f"case{i}" for i in range(10)} - {"case1", "case6"}
    told = [m for m in caplog.messages if "a process ended" in m]
    # Both may have been worked on at once.
    told_of = [f"warning: a process ended; the others go on in {n}" for n in (2, 1)]
    assert told in (told_of, told_of[:1])


def test_no_more_processes_than_there_is_memory_for(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    write_volume(tmp_path / "ct.nii.gz", Volume(np.zeros((256, 256, 256), np.uint8), np.eye(4)))
    scans = _scans(tmp_path)  # of two images: 0.31 GiB each, and half a GiB a process

    def workers(gib):
        monkeypatch.setattr(parallel, "usable_memory", lambda: None if gib is None else gib * 2**30)
        return parallel._with_memory(scans, 4)

    found = [workers(gib) for gib in (None, 4.0, 2.5, 2.0, 0.1)]
    assert found == [(4, 4), (4, 4), (3, 3), (2, 2), (1, 1)]
    assert "3 of 4 processes: the largest scans take 0.3 GiB each, and this" in caplog.messages[0]


def test_one_large_scan_among_small_ones_has_memory_enough(tmp_path, monkeypatch):
    for name, size in (("small", 32), ("large", 256)):
        data = np.zeros((size,) * 3, np.uint8)
        write_volume(tmp_path / name / "ct.nii.gz", Volume(data, np.eye(4)))
    scans = _scans(tmp_path / "small", 9) + _scans(tmp_path / "large", 1)
    monkeypatch.setattr(parallel, "usable_memory", lambda: 5 * 2**29)
    # Four at a time; each may read what the large one takes, of which there is one.
    assert parallel._with_memory(scans, 4) == (4, 3)


def test_a_scan_that_does_not_fit_into_memory_is_refused_by_name(tmp_path, monkeypatch):
    """A small file may unpack to gigabytes; a process may use its share alone."""
    path = tmp_path / "ct.nii.gz"
    write_volume(path, Volume(np.zeros((128, 128, 128), np.uint8), np.eye(4)))
    monkeypatch.setattr(nifti, "usable_memory", lambda: 2**22)
    with pytest.raises(DataError, match=r"case P1.*ct.nii.gz: unpacked it takes 0.0 GiB, and this"):
        nifti.read_volume(path, case="P1")
    monkeypatch.setattr(machine, "memory_bytes", lambda: 10**9)
    monkeypatch.setattr(machine, "_sharing", [1])
    whole = machine.usable_memory()
    machine.share_memory(4)
    assert machine.usable_memory() == whole // 4


def test_any_exception_of_a_case_is_its_failure_and_its_traceback_is_kept(tmp_path, monkeypatch):
    scans = _scans(tmp_path)
    monkeypatch.setattr(
        prepare_cohort, "prepare_case", lambda scan, **_: ({"warnings": []}, _fail(scan))
    )
    make = prepare_cohort.prepare_case
    metas, failures = prepare_cohort._make_all(make, scans, tmp_path, 1)
    assert len(metas) == 3
    assert list(failures) == ["case2"]
    assert "out of memory (208 GiB)" in failures["case2"]
    assert str(tmp_path / "errors.log") in failures["case2"]
    assert "MemoryError: 208 GiB" in (tmp_path / "errors.log").read_text()


_PARENT = """
import sys, time
from pathlib import Path
from isanet_jax.nifti import write_volume
from isanet_jax.parallel import in_processes
from isanet_jax.volume import Volume
from isanet_jax.datasets.layout import Scan
sys.path.insert(0, sys.argv[2])
from tests.test_locks import _say_and_sleep
scans = [Scan(f"case{i}", {"ct": Path(sys.argv[1])}, None, "p") for i in range(2)]
if __name__ == "__main__":
    for _ in in_processes(_say_and_sleep, scans, 2):
        pass
"""


def _say_and_sleep(scan):
    (scan.place / f"{scan.case}.pid").write_text(str(os.getpid()))
    time.sleep(120)


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_workers_end_with_their_parent_however_it_ends(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(ROOT)], cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    files = [tmp_path / f"case{i}.pid" for i in range(2)]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not all(f.exists() and f.read_text() for f in files):
        time.sleep(0.1)
    pids = [int(f.read_text()) for f in files]
    assert all(map(_is_running, pids))
    process.kill()
    process.wait()
    while time.monotonic() < deadline + 20 and any(map(_is_running, pids)):
        time.sleep(0.1)
    assert not any(map(_is_running, pids))
