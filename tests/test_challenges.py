"""Data sets as challenges publish them, from their files to the figures that rank."""

import json

import nibabel
import numpy as np
import pytest

import isanet_jax as isa
from isanet_jax.cli import evaluate, predict, prepare
from isanet_jax.datasets.phantom_body import make_body
from isanet_jax.nifti import write_volume
from isanet_jax.volume import Volume

FOLDS = ["--folds", "2", "--workers", "1"]


def patient(number):
    """A body with a tumour in the throat and, in every second patient, a node beside it."""
    generator = np.random.default_rng(number)
    ct, pet, label = make_body(generator)
    label = Volume(np.zeros_like(label.data), label.affine)
    for value, place, radius in ((1, (10, 20, 290), 24), (2, (-45, 15, 270), 16)):
        if value == 2 and number % 2:
            continue
        for volume, filled in ((label, value), (ct, 90), (pet, 12.0)):
            volume.data[ball(volume, place, radius)] = filled
    return ct, pet, label


def ball(volume, centre_mm, radius_mm):
    index = np.moveaxis(np.indices(volume.data.shape), 0, -1)
    world = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return np.linalg.norm(world - centre_mm, axis=-1) < radius_mm


def train(cases, classes, workdir, *, steps, width, **data):
    config = isa.get_config("hecktor22")
    config.data.cases, config.data.classes, config.data.size = str(cases), classes, 16
    for name, value in data.items():
        config.data[name] = value
    config.model.name, config.model.width, config.model.levels = "plain", width, 2
    config.train.epochs, config.train.batch, config.train.steps_per_epoch = 1, 2, steps
    config.optimizer.peak_learning_rate = 1e-2
    assert isa.train(config, workdir)
    evaluate.main(["--workdir", str(workdir)])
    return json.loads((workdir / "eval" / "metrics.json").read_text())


def aggregated_dsc(pairs, values, ignore=()):
    """2 x what all masks share over the sum of all their voxels (HECKTOR 2022)."""
    common = total = 0
    for predicted, truth in pairs:
        known = ~np.isin(truth, ignore)
        a, b = (np.isin(x, values) & known for x in (predicted, truth))
        common, total = common + (a & b).sum(), total + a.sum() + b.sum()
    return 2 * common / total


def predicted_pairs(workdir, files, folder):
    """(predicted, true) values on the CT's grid, of each case through predict.py."""
    pairs = []
    for case, (ct, pet, label) in files.items():
        output = folder / f"{case}.nii.gz"
        words = ["--ct", str(ct), "--pet", str(pet), "--output", str(output)]
        predict.main(["--workdir", str(workdir), *words])
        pairs.append([np.asarray(nibabel.load(path).dataobj) for path in (output, label)])
    return pairs


def test_hecktor_2022_is_scored_as_the_challenge_scores(tmp_path):
    source, files = tmp_path / "in", {}
    for number in range(4):
        case = f"CHUM-{number:03d}"
        names = (f"imagesTr/{case}__CT", f"imagesTr/{case}__PT", f"labelsTr/{case}")
        files[case] = [source / f"{name}.nii.gz" for name in names]
        for path, volume in zip(files[case], patient(number), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_volume(path, volume)
    words = ["--source", str(source), "--output", str(tmp_path / "cases"), "--size", "16"]
    prepare.main(["hecktor", *words, *FOLDS, "--spacing-mm", "12", "--classes", "gtvp=1", "gtvn=2"])
    settings = {"steps": 150, "width": 4, "spacing_mm": 12.0}
    found = train(tmp_path / "cases", ("gtvp", "gtvn"), tmp_path / "run", **settings)
    tested = {case: files[case] for case in found["cases"]}
    pairs = predicted_pairs(tmp_path / "run", tested, tmp_path)
    scores = [aggregated_dsc(pairs, [value]) for value in (1, 2)]
    for name, score in zip(("gtvp", "gtvn"), scores, strict=True):
        assert found["classes"][name]["summary"]["dsc_agg"] == pytest.approx(score, abs=1e-6)
    assert found["summary"]["dsc_agg"] == pytest.approx(np.mean(scores), abs=1e-6)
    assert max(scores) > 0.05  # it has learnt something: what is compared are no zeros


def test_an_nnunet_dataset_with_regions_and_voxels_to_ignore(tmp_path):
    source, files = tmp_path / "Dataset001_Test", {}
    description = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "whole": [1, 2], "node": 2, "ignore": 3},
        "regions_class_order": [1, 2],
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    for number in range(4):
        case = f"case_{number}"
        names = (f"imagesTr/{case}_0000", f"imagesTr/{case}_0001", f"labelsTr/{case}")
        files[case] = [source / f"{name}.nii.gz" for name in names]
        ct, pet, label = patient(number)
        label.data[ball(label, (10, 20, 300), 12)] = 3
        for path, volume in zip(files[case], (ct, pet, label), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_volume(path, volume)
    (source / "dataset.json").write_text(json.dumps(description))
    words = ["--source", str(source), "--output", str(tmp_path / "cases"), "--size", "16"]
    prepare.main(["nnunet", *words, *FOLDS])
    settings = {"steps": 600, "width": 16, "fit": "resize"}
    found = train(tmp_path / "cases", ("whole", "node"), tmp_path / "run", **settings)
    tested = {case: files[case] for case in found["cases"]}
    pairs = predicted_pairs(tmp_path / "run", tested, tmp_path)
    scores = {
        name: aggregated_dsc(pairs, values, ignore=[3])
        for name, values in (("whole", [1, 2]), ("node", [2]))
    }
    assert max(scores.values()) > 0.05
    for name, score in scores.items():
        assert found["classes"][name]["summary"]["dsc_agg"] == pytest.approx(score, abs=1e-6)
