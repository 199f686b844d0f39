"""A run's record: metrics.jsonl, TensorBoard, and the progress line."""

import contextlib
import json
import logging
import os
import sys
import time
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm

from isanet_jax.errors import DataError

_SECONDS_BETWEEN_LINES = 30.0  # of progress, where there is no terminal

_log = logging.getLogger(__name__)


class RunLog:
    """Context that records steps and validations of a run.

    metrics.jsonl has a line per step (`step`, `epoch`, `loss`, ..., `learning_rate`, `seconds`,
    `waiting_seconds`) and per validation (`step`, `epoch`, `validation_dsc`, `cases`, `classes`,
    `waiting_share`: of the epoch's time, what its steps waited for data); a `tracker`
    (`isanet_jax.runs.track`) gets the same numbers. On a resumed run, lines later than the
    checkpoint are dropped: their steps come again.
    """

    def __init__(
        self, workdir, first_step: int, total_steps: int, steps_per_epoch: int, *, tracker=None
    ):
        self._tracker = tracker
        self._path = Path(workdir) / "metrics.jsonl"
        self._steps_per_epoch = steps_per_epoch
        self._first_step, self._total_steps = first_step, total_steps
        self._shown = {}
        self._since = []  # steps since the last validation

    def __enter__(self):
        kept = [line for line in read_log(self._path) if line["step"] <= self._first_step]
        partial = self._path.with_suffix(".part")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, self._path)
        self._file = open(self._path, "a", buffering=1, encoding="utf-8")
        self._board = SummaryWriter(
            str(self._path.with_name("tensorboard")), purge_step=self._first_step + 1
        )
        self._bar = tqdm(
            total=self._total_steps, initial=self._first_step, unit="step", file=sys.stdout,
            mininterval=1.0, dynamic_ncols=True, disable=None,
        )  # fmt: skip
        self._started = self._told = time.perf_counter()
        for line in kept:
            if "validation_dsc" in line:
                self._shown["dsc"] = f"{line['validation_dsc']:.3f}"
                self._since = []
            elif "loss" in line:
                self._since.append(line)
        return self

    def __exit__(self, *exception):
        self._bar.close()
        self._board.close()
        self._file.close()
        if self._tracker:
            self._tracker.close()

    def step(self, step, metrics, learning_rate, *, cases, seconds, waited):
        """Records one step.

        Args:
            step: its number, from 1.
            metrics: of the step.
            learning_rate: that it used.
            cases: that it consumed.
            seconds: that it took.
            waited: seconds, at most, that the device then waited for the next batch.
        """
        line = {
            "step": step,
            "epoch": (step - 1) // self._steps_per_epoch + 1,
            **metrics,
            "learning_rate": float(learning_rate),
            "seconds": round(seconds, 4),
            "waiting_seconds": round(waited, 4),
        }
        self._write(line)
        self._since.append(line)
        self._shown |= {
            "loss": f"{metrics['loss']:.4f}",
            "lr": f"{float(learning_rate):.1e}",
            "cases/s": f"{cases / seconds:.2f}",
        }
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update()
        if self._bar.disable and time.perf_counter() - self._told >= _SECONDS_BETWEEN_LINES:
            self.message(
                f"step {step} of {self._total_steps}, epoch {line['epoch']}: loss "
                f"{metrics['loss']:.4f}, {seconds:.2f} s a step, {self._left(step)} left"
            )

    def validation(self, step, dsc, progress):
        """Records a validation: `dsc` of `isanet_jax.training.validate.validate`."""
        epoch = step // self._steps_per_epoch
        lines = [line for line in self._since if line["epoch"] == epoch]
        self._since = []
        losses = [line["loss"] for line in lines]
        seconds = sum(line["seconds"] for line in lines)
        waiting = sum(line["waiting_seconds"] for line in lines) / seconds if seconds else 0.0
        self._write(
            {
                "step": step,
                "epoch": epoch,
                "validation_dsc": dsc["mean"],
                "cases": dsc["cases"],
                "classes": dsc["classes"],
                "waiting_share": round(waiting, 4),
            }
        )
        each = dsc["classes"]
        listed = ", ".join(f"{name} {value:.4f}" for name, value in each.items())
        of_classes = f" ({listed})" if len(each) > 1 else ""
        self._shown["dsc"] = f"{dsc['mean']:.3f}"
        self.message(
            f"epoch {epoch}: loss {sum(losses) / max(len(losses), 1):.4f}, validation DSC "
            f"{dsc['mean']:.4f}{of_classes} (best {progress['best_dsc']:.4f} in epoch "
            f"{progress['best_epoch']}), waited for data {waiting:.1%}, {self._left(step)} left"
        )

    def _left(self, step):
        """The time until the last step, as far as this call's steps tell."""
        elapsed = time.perf_counter() - self._started
        per_step = elapsed / max(step - self._first_step, 1)
        return tqdm.format_interval((self._total_steps - step) * per_step)

    def flush(self):
        """Has everything that was recorded so far on its way to the disk."""
        self._file.flush()
        self._board.flush()

    def message(self, text):
        """Prints a line without breaking the progress line."""
        with tqdm.external_write_mode():
            _log.info(text)
        self._told = time.perf_counter()

    def _write(self, line):
        self._file.write(json.dumps(line) + "\n")
        scalars = {name: value for name, value in line.items() if isinstance(value, float)}
        for name, value in scalars.items():
            self._board.add_scalar(name, value, line["step"])
        if self._tracker:
            self._tracker.log(scalars, line["step"])

    def picture(self, step, case, image):
        """Shows a validation case in TensorBoard; `image`: (rows, columns, 3) uint8."""
        self._board.add_image(f"validation/{case}", image, step, dataformats="HWC")


class NoLog:
    """`RunLog` of the processes that write none."""

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def _nothing(self, *_, **__):
        pass

    step = validation = flush = message = _nothing
    picture = None  # so that none is drawn


def read_log(path) -> list[dict]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out.

    Raises:
        DataError: another line is damaged.
    """
    path = Path(path)
    if not path.exists():
        return []
    *whole, torn = path.read_bytes().split(b"\n")
    lines = []
    for number, text in enumerate(whole, start=1):
        try:
            line = json.loads(text)
            if not (isinstance(line["step"], int) and isinstance(line["epoch"], int)):
                raise TypeError(f"step {line['step']!r}, epoch {line['epoch']!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"line {number} of {len(whole)} is damaged ({type(error).__name__}: {error})",
                file=path,
                action="Delete the line, or put the file back from a copy: the checkpoints do not "
                "depend on it",
            ) from error
        lines.append(line)
    with contextlib.suppress(ValueError):
        last = json.loads(torn)
        lines += [last] if isinstance(last, dict) and {"step", "epoch"} <= last.keys() else []
    return lines
