"""A run stopped on four devices and resumed on others: prints what each mesh makes of it.

Run by test_mesh.py in a process of its own: eight made-up devices, no optimisation by LLVM.
"""

import dataclasses
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np

from isanet_jax.cases.case import read_case
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.runs.log import RunLog, read_log
from isanet_jax.training.loop import train
from tests.conftest import small_config

SIGNAL_AT = 4  # stops in the second epoch, after a validation: step 5 is under way by then
_record = RunLog.step


def stop_after(self, step, *args, **kwargs):
    _record(self, step, *args, **kwargs)
    if step == SIGNAL_AT:
        os.kill(os.getpid(), signal.SIGTERM)


def config_on(cohort_folder, data, space):
    config = small_config(cohort_folder)
    config["mesh"] = {"data": data, "space": space}
    config["model"]["convolution"] = "native"
    config["train"] |= {"batch": 8, "steps_per_epoch": 3, "epochs": 2}
    # What each device computes on its own elements, and an average that is stored with the rest.
    drawn = ("scaling", "misalignment", "noise", "blur", "low_resolution", "gamma")
    config["augment"] |= {f"{name}_probability": 0.5 for name in (*drawn, "mixup")}
    config["optimizer"]["average"] = 0.5
    return config


def three(case):
    """The case after two of its mirror images."""
    flips = (np.s_[::-1], np.s_[:, ::-1])
    mirrored = [{name: x[flip] for name, x in case.images.items()} for flip in flips]
    return [*(dataclasses.replace(case, images=images) for images in mirrored), case]


def main():
    """Prints {mesh: {losses, probability}}; "1x1" is the run that was not stopped."""
    cohort_folder, folder = sys.argv[1], Path(sys.argv[2])
    train(config_on(cohort_folder, 1, 1), folder / "1x1")
    RunLog.step = stop_after
    train(config_on(cohort_folder, 4, 1), folder / "stopped")
    RunLog.step = _record
    cohort = read_cohort(cohort_folder)
    case = read_case(cohort.path(sorted(cohort.cases)[0]))
    meshes = {"from 4 on 1": (1, 1), "from 4 on 8": (8, 1), "from 4 on 1x4": (1, 4)}
    for name, mesh in meshes.items():
        shutil.copytree(folder / "stopped", folder / name)
        train(config_on(cohort_folder, *mesh), folder / name)
    found = {}
    for name in ("1x1", *meshes):
        lines = read_log(folder / name / "metrics.jsonl")
        # On eight devices, which split a volume between four where the run did: three volumes at
        # a time, of which the first two are others.
        predictor = Predictor([folder / name], checkpoint="latest")
        assert predictor.devices == (2 if name.endswith("1x4") else 8)
        probability = predictor.probabilities(three(case))[2][..., 0]
        found[name] = {
            "losses": {line["step"]: line["loss"] for line in lines if "loss" in line},
            "dsc": [line["validation_dsc"] for line in lines if "validation_dsc" in line],
            "probability": np.round(probability[::4, ::4, ::4], 6).ravel().tolist(),
        }
    print("found " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
