"""An extension that stops a training where a test says, however fast or slow the machine is.

ISANET_TEST_HOLD is `FOLDER`: before the process logs step N, it waits while FOLDER/hold-N exists.
ISANET_TEST_KILL_IN_SAVE is a step: the process that logs kills itself while that checkpoint is
being written.
"""

import os
import signal
import time
from pathlib import Path

import jax

from isanet_jax.runs.checkpoint import Checkpoints
from isanet_jax.runs.log import RunLog

_log, _save = RunLog.step, Checkpoints.save_latest


def _held(self, step, *args, **kwargs):
    _log(self, step, *args, **kwargs)
    self.flush()
    while (Path(os.environ["ISANET_TEST_HOLD"]) / f"hold-{step}").exists():
        time.sleep(0.01)


def _killed(self, step, *args):
    _save(self, step, *args)
    if step == int(os.environ["ISANET_TEST_KILL_IN_SAVE"]) and jax.process_index() == 0:
        os.kill(os.getpid(), signal.SIGKILL)


if "ISANET_TEST_HOLD" in os.environ:
    RunLog.step = _held
if "ISANET_TEST_KILL_IN_SAVE" in os.environ:
    Checkpoints.save_latest = _killed
