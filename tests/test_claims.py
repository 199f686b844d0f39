"""Claims: one process each, also after kills, and between machines."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isanet_jax import claims as module
from isanet_jax.claims import Claims

ROOT = Path(__file__).parents[1]


def test_a_case_is_one_process_s_until_it_is_released(tmp_path):
    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        assert one.take("a")
        assert not other.take("a")
        assert other.take("b")
        one.release("a")
        assert other.take("a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["elsewhere\n1 x", "", "torn"])
def test_a_claim_of_elsewhere_is_dead_when_it_is_not_renewed(tmp_path, monkeypatch, text):
    (tmp_path / "a.claim").write_text(text)
    with Claims(tmp_path) as one:
        assert not one.take("a")
        os.utime(tmp_path / "a.claim", (time.time() - 400, time.time() - 400))
        assert one.take("a")
        # It is renewed while its process lives.
        os.utime(tmp_path / "a.claim", (1, 1))
        monkeypatch.setattr(module, "_BEAT_S", 0.01)
    with Claims(tmp_path) as one:
        assert one.take("a")
        os.utime(tmp_path / "a.claim", (1, 1))
        deadline = time.monotonic() + 60
        while (tmp_path / "a.claim").stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "a.claim").stat().st_mtime > 2


# Does every case that is left; each takes a while, and is noted when it is done.
WORK = """
import pathlib, random, sys, time
from isanet_jax.claims import Claims
folder, order = pathlib.Path(sys.argv[1]), list(range(60))
random.Random(int(sys.argv[2])).shuffle(order)
with Claims(folder / "claims") as claims:
    for number in order:
        done = folder / f"{number}.done"
        if done.exists() or not claims.take(str(number)):
            continue
        if not done.exists():
            time.sleep(0.02)
            with open(folder / "log", "a") as log:
                log.write(f"{number}\\n")
            done.touch()
        claims.release(str(number))
"""


def test_two_processes_that_are_killed_at_random_do_each_of_sixty_cases_once(tmp_path):
    dice = random.Random(0)  # noqa: S311 - of kills
    for turn in range(20):
        command = [sys.executable, "-c", WORK, str(tmp_path)]
        two = [subprocess.Popen([*command, str(2 * turn + n)], cwd=ROOT) for n in range(2)]
        claimed = tmp_path / "claims"
        while not (claimed.exists() and any(claimed.iterdir())) and two[0].poll() is None:
            time.sleep(0.01)
        time.sleep(dice.uniform(0.05, 0.4))
        for one in two:
            if dice.random() < 0.7 and turn < 6:
                one.kill()
        for one in two:
            one.wait()
        if len(list(tmp_path.glob("*.done"))) == 60:
            break
    lines = Path(tmp_path / "log").read_text().split()
    assert sorted(set(map(int, lines))) == list(range(60))
    # A kill between the note and its mark may do one twice: no more than there were kills.
    assert len(lines) <= 60 + 2 * (turn + 1)
    assert not list((tmp_path / "claims").glob("*.claim"))
