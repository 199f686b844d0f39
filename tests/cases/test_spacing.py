"""`--spacing-mm auto`, nnU-Net's rule."""

import dataclasses

import numpy as np
import pytest

from isanet_jax.cases.folds import make_folds
from isanet_jax.cases.spacing import auto_spacing
from isanet_jax.datasets.layout import Scan
from isanet_jax.errors import ConfigError
from isanet_jax.nifti import write_volume
from isanet_jax.volume import Volume


def scans(folder, spacings, shapes, order=(0, 1, 2)):
    made = []
    for number, (spacing, shape) in enumerate(zip(spacings, shapes, strict=True)):
        affine = np.eye(4)
        affine[:3, :3] = np.diag(spacing)[:, order]
        path = folder / f"{number}.nii.gz"
        data = np.zeros(np.array(shape)[list(order)], np.uint8)
        write_volume(path, Volume(data, affine), overwrite=True)
        made.append(Scan(str(number), {"ct": path}, None, str(number)))
    return made


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_median_along_the_patients_axes_whatever_the_files_order(tmp_path, order):
    spacings = [(1.0, 1.0, 2.0), (2.0, 1.5, 3.0), (1.5, 1.2, 2.5)]
    made = scans(tmp_path, spacings, [(8, 8, 8)] * 3, order)
    assert auto_spacing(made, "ct") == (1.5, 1.2, 2.5)


def test_a_coarse_axis_takes_the_tenth_percentile(tmp_path):
    spacings = [(1.0, 1.0, z) for z in (3.0, 5.0, 6.0, 6.0, 6.0)]
    made = scans(tmp_path, spacings, [(60, 60, 10)] * 5)
    assert auto_spacing(made, "ct") == (1.0, 1.0, pytest.approx(np.percentile([3, 5, 6, 6, 6], 10)))
    # As many voxels along it as along the others: not coarse to nnU-Net.
    made = scans(tmp_path, spacings, [(20, 20, 20)] * 5)
    assert auto_spacing(made, "ct") == (1.0, 1.0, 6.0)


def test_what_cannot_be_read_is_left_to_the_preparation(tmp_path):
    made = scans(tmp_path, [(1.0, 1.0, 2.0)] * 2, [(8, 8, 8)] * 2)
    (tmp_path / "0.nii.gz").write_bytes(b"no image")
    assert auto_spacing(made, "ct") == (1.0, 1.0, 2.0)
    with pytest.raises(ConfigError, match="no scan has a readable image 'ct'"):
        auto_spacing(made[:1], "ct")
    with pytest.raises(ConfigError, match="give numbers for DICOM"):
        auto_spacing([dataclasses.replace(made[1], study=object())], "ct")


def test_patients_without_a_lesion_are_spread_over_the_folds():
    cases = [
        {
            "case": f"c{i}",
            "patient": f"c{i}",
            "centre": "",
            "fold": None,
            "volume_ml": float(i >= 6),
        }
        for i in range(30)
    ]
    fold_of = make_folds(cases, folds=3, seed=0)
    for which in (cases[:6], cases[6:]):
        counts = np.bincount([fold_of[c["case"]] for c in which])
        assert counts.tolist() == [len(which) // 3] * 3
    # Where all have one, the folds are those that they were.
    same = [{**case, "volume_ml": 1.0} for case in cases]
    assert make_folds(same, folds=3, seed=0) == make_folds(
        [{k: v for k, v in case.items() if k != "volume_ml"} for case in cases], folds=3, seed=0
    )
