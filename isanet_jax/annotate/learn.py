"""Training on from a model with the masks that readers have saved."""

import dataclasses
import json
import subprocess
import sys
import threading
from pathlib import Path

from isanet_jax.comparison.runner import module_command, module_environment
from isanet_jax.errors import ConfigError
from isanet_jax.files import write_csv, write_json
from isanet_jax.nifti import NIFTI_SUFFIXES, write_volume

EPOCHS = 20  # where no number is given
LEAST = 2  # masks that can be learnt from
_LINES = 20  # of its log that are shown


def write_table(desk) -> Path:
    """The table of the scans that have a final mask; images of DICOM are written as NIfTI.

    Args:
        desk: `isanet_jax.annotate.desk.Desk`.

    Raises:
        ConfigError: too few masks.
    """
    folder, rows = desk.folder / "learn", []
    for case in desk.labels.cases("final"):
        if case not in desk.scans:
            continue
        scan, row = desk.scans[case], {"case": case}
        for name in desk.kinds:
            path = Path(scan.image(name)).resolve()
            if scan.study is not None or not path.name.lower().endswith(NIFTI_SUFFIXES):
                path = (folder / "images" / f"{case}.{name}.nii.gz").resolve()
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_volume(path, desk.images(case).volumes[name], overwrite=True)
            row[name] = str(path)
        row["label"] = str(desk.labels.latest(case, "final").path.resolve())
        rows.append(row | {"patient": scan.patient})
    if len(rows) < LEAST:
        raise ConfigError(f"{len(rows)} final masks; give {LEAST} or more to learn from")
    path = folder / "cases.csv"
    write_csv(path, rows)
    return path


@dataclasses.dataclass
class Training:
    """One training in a process of its own; a server has one at a time.

    Attributes:
        folder: of the desk.
        process: that runs, or None.
        model: of the last training that ended well, or None.
        is_taken: whether that is used already.
    """

    folder: Path
    process: subprocess.Popen | None = None
    model: Path | None = None
    is_taken: bool = False
    stopped: bool = False
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def start(self, desk, *, model=None, epochs: int = EPOCHS) -> dict:
        """Begins; returns `status`.

        Raises:
            ConfigError: one runs already; too few masks; no model to go on from.
        """
        with self._lock:
            if self.status()["status"] == "RUNNING":
                raise ConfigError("a training runs; stop it first")
            if model is None:
                raise ConfigError("there is no model to go on from; train one with isanet train")
            if not 1 <= int(epochs) <= 10000:
                raise ConfigError(f"epochs is {epochs}; give 1 to 10000")
            job = {
                "table": str(write_table(desk)),
                "model": [str(Path(one).resolve()) for one in model],
                "folder": str(self.folder.resolve()),
                "epochs": int(epochs),
            }
            write_json(self.folder / "learn" / "job.json", job)
            self.stopped = self.is_taken = False
            with open(self.folder / "learn" / "log.txt", "wb") as log:
                self.process = subprocess.Popen(  # noqa: S603 - our own module
                    module_command("isanet_jax.annotate.learn"),
                    env=module_environment(),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            self.process.stdin.write(json.dumps(job).encode())
            self.process.stdin.close()
        return self.status()

    def stop(self) -> dict:
        """Asks it to save and end; returns `status`."""
        if self.process is not None and self.process.poll() is None:
            self.stopped = True
            self.process.terminate()
        return self.status()

    def status(self) -> dict:
        """`status`: NONE, RUNNING, DONE, STOPPED or FAILED, and the `details` of its log."""
        if self.process is None:
            return {"status": "NONE", "details": []}
        code = self.process.poll()
        path = self.folder / "learn" / "log.txt"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:]
        if code is None:
            return {"status": "RUNNING", "details": lines}
        done = code == 0 and not self.stopped
        if done:
            self.model = self.folder / "learn" / "model.isanet"
        state = "DONE" if done else "STOPPED" if self.stopped else "FAILED"
        return {"status": state, "details": lines}


def learn(job: dict) -> None:
    """Prepares the masks' scans as the model's were, trains on from it, and bundles the result.

    Args:
        job: `table`, `model` (one or several: the first is gone on from), `folder`, `epochs`.
    """
    from isanet_jax import api
    from isanet_jax.cases.cohort import read_json
    from isanet_jax.prediction.predictor import Predictor
    from isanet_jax.runs.bundle import write_bundle
    from isanet_jax.settings import changed, read_stored, to_dict

    folder = Path(job["folder"]) / "learn"
    before = Predictor(job["model"])
    settings = before.settings
    cases = len(Path(job["table"]).read_text(encoding="utf-8").splitlines()) - 1
    dealt = folder / "cases" / "folds.json"  # of a training before: patients keep their folds
    folds = read_json(dealt, "Delete its folder")["folds"] if dealt.exists() else min(5, cases)
    api.prepare(
        job["table"], folder / "cases", layout="table", fit=settings.fit,
        images=dict(settings.images), classes=dict(settings.classes.values),
        folds=folds, size=settings.size, spacing_mm=settings.spacing_mm,
    )  # fmt: skip
    config = read_stored(before.descriptions[0]["config"])
    new = {
        "data.cases": str(folder / "cases"), "init": job["model"][0], "init_seen": True,
        "fold": "all", "selection": "none", "train.epochs": job["epochs"],
        "optimizer.warmup_epochs": min(config.optimizer.warmup_epochs, job["epochs"] - 1),
    }  # fmt: skip
    number = len(list(folder.glob("run*"))) + 1
    workdir = folder / f"run{number}"
    if not api.train(to_dict(changed(config, new)), workdir):
        sys.exit(3)  # a signal stopped it
    after = Predictor([workdir], checkpoint="latest")
    write_bundle(after.networks, folder / "model.isanet", overwrite=True)


if __name__ == "__main__":
    from isanet_jax import runtime

    runtime.run_program(lambda: learn(json.load(sys.stdin)))
