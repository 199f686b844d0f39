"""Claims: one process each, also after kills, and between machines."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from isanet_jax import claims as module
from isanet_jax.claims import Claims


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


def work(folder, seed):
    """Does every case that is left; each takes a while, and is noted when it is done."""
    order = list(range(60))
    random.Random(seed).shuffle(order)  # noqa: S311 - of an order
    with Claims(folder / "claims") as claims:
        for number in order:
            done = folder / f"{number}.done"
            if done.exists() or not claims.take(str(number)):
                continue
            if not done.exists():
                time.sleep(0.01)
                with open(folder / "log", "a") as log:
                    log.write(f"{number}\n")
                done.touch()
            claims.release(str(number))


def test_two_processes_that_are_killed_at_random_do_each_of_sixty_cases_once(tmp_path):
    context, dice = multiprocessing.get_context("fork"), random.Random(0)  # noqa: S311
    for turn in range(200):
        two = [context.Process(target=work, args=(tmp_path, 2 * turn + n)) for n in range(2)]
        for one in two:
            one.start()
        time.sleep(dice.uniform(0.03, 0.15))
        for one in two:
            if dice.random() < 0.7 and turn < 20:
                os.kill(one.pid, signal.SIGKILL)
        for one in two:
            one.join()
        if len(list(tmp_path.glob("*.done"))) == 60:
            break
    lines = Path(tmp_path / "log").read_text().split()
    assert sorted(set(map(int, lines))) == list(range(60))
    # A kill between the note and its mark may do one twice: no more than there were kills.
    assert len(lines) <= 60 + 2 * (turn + 1)
    assert not list((tmp_path / "claims").glob("*.claim"))
