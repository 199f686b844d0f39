"""Cohorts to plan for, and nnU-Net's own plans for them.

    python -m tests.planning.nnunet_plans FOLDER

writes nnunet_plans.json anew; it needs nnunetv2 2.8.1 and runs without this package.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

PLANS = Path(__file__).with_suffix(".json")
CLASSES = 2
# Name -> spacing in mm and voxels of a scan, along D, H, W, and how many there are.
_COHORTS = {
    "isotropic": ((1.0, 1.0, 1.0), (144, 144, 144), 50),
    "anisotropic": ((5.0, 0.8, 0.8), (24, 320, 300), 40),
    "whole-body": ((3.0, 2.04, 2.04), (326, 400, 400), 100),
    "sagittal": ((1.0, 1.0, 4.0), (200, 220, 40), 30),
}


def cohorts() -> dict:
    """Name -> spacings (n, 3) mm and shapes (n, 3), each scan a little different."""
    generator = np.random.default_rng(0)
    made = {}
    for name, (spacing, shape, count) in _COHORTS.items():
        spacings = np.array(spacing) * generator.uniform(0.97, 1.03, (count, 1))
        shapes = (np.array(shape) * generator.uniform(0.9, 1.1, (count, 3))).astype(int)
        made[name] = spacings, shapes
    return made


def main(folder):
    """Plans each cohort with each of nnU-Net's planners."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import (
        residual_encoder_unet_planners as residual,
    )

    planners = {
        "plain": default_experiment_planner.ExperimentPlanner,
        "resenc_m": residual.nnUNetPlannerResEncM,
        "resenc_l": residual.nnUNetPlannerResEncL,
        "resenc_xl": residual.nnUNetPlannerResEncXL,
    }
    found = {}
    for name, (spacings, shapes) in cohorts().items():
        for preset, planner in planners.items():
            plans = _plan(folder, planner, spacings.tolist(), shapes.tolist())
            fine, back = plans["configurations"]["3d_fullres"], plans["transpose_backward"]
            network = fine["architecture"]["arch_kwargs"]
            coarse = plans["configurations"].get("3d_lowres")

            def ours(values, back=back):
                return [values[axis] for axis in back]

            found[f"{name} {preset}"] = {
                "spacing_mm": ours(fine["spacing"]),
                "patch": ours(fine["patch_size"]),
                "strides": [ours(stride) for stride in network["strides"]],
                "kernels": [ours(kernel) for kernel in network["kernel_sizes"]],
                "batch": fine["batch_size"],
                "batch_dice": fine["batch_dice"],
                "coarser_mm": coarse and ours(coarse["spacing"]),
            }
    text = ",\n".join(f'"{name}": {json.dumps(plan)}' for name, plan in found.items())
    PLANS.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")


def _plan(folder, planner, spacings, shapes):
    name = "Dataset901_Cohort"
    raw, preprocessed = folder / "raw" / name, folder / "preprocessed" / name
    for made in (raw / "imagesTr", raw / "labelsTr", preprocessed):
        made.mkdir(parents=True, exist_ok=True)
    labels = {"background": 0} | {f"c{n}": n for n in range(1, CLASSES + 1)}
    description = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": labels,
        "numTraining": len(shapes),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    fingerprint = {
        "spacings": spacings,
        "shapes_after_crop": shapes,
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {},
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    for old in preprocessed.glob("*Plans.json"):
        old.unlink()
    made = planner(901)
    made.determine_reader_writer = lambda: type("Reader", (), {})  # there are no images to read
    return made.plan_experiment()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
