import numpy as np
from scipy import ndimage

from isanet_jax.cases.grid import resample
from isanet_jax.datasets.phantom import make_nodal_phantom, make_phantom, write_phantoms
from isanet_jax.metrics.thresholds import threshold_masks


def dsc(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_phantoms_resemble_the_task_and_no_threshold_wins():
    scores = {}
    for seed in range(8):
        ct, pet, label = make_phantom(np.random.default_rng([0, seed]))
        again = make_phantom(np.random.default_rng([0, seed]))
        np.testing.assert_array_equal(pet.data, again[1].data)
        assert ct.data.min() < -900
        assert 300 < ct.data.max() < 1000
        assert 4 < pet.data.max() < 30
        voxel_ml = abs(np.linalg.det(label.affine[:3, :3])) / 1000
        assert 5 < label.data.sum() * voxel_ml < 400
        assert 1 <= ndimage.label(label.data)[1] <= 4
        suv = resample(pet, label.data.shape, label.affine, order=1, fill=0)
        for name, mask in threshold_masks(suv, float(pet.data.max())).items():
            scores.setdefault(name, []).append(dsc(mask, label.data > 0))
    assert all(np.mean(values) < 0.6 for values in scores.values()), scores


def test_nodal_phantoms_have_a_primary_near_the_midline_and_nodes_beside_it():
    without = 0
    for seed in range(8):
        _, _, label = make_nodal_phantom(np.random.default_rng([0, seed]))
        found = {}
        for value in (1, 2):
            x = np.argwhere(label.data == value)[:, 0]
            found[value] = np.abs(label.affine[0, 0] * x + label.affine[0, 3])
        assert found[1].min() < 14
        without += found[2].size == 0
        if found[2].size:
            assert found[2].max() > 34
            assert found[2].mean() > found[1].mean()
    assert 0 < without < 8


def test_what_is_missing_of_a_phantom_is_written_again_and_the_rest_kept(tmp_path):
    table = write_phantoms(tmp_path, cases=2, seed=3)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.nii.gz")}
    assert len(before) == 6
    times = {path: path.stat().st_mtime_ns for path in before}
    (tmp_path / "phantom_001" / "label.nii.gz").unlink()
    assert write_phantoms(tmp_path, cases=2, seed=3) == table
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.nii.gz")} == before
    whole = [path for path in before if path.parent.name == "phantom_000"]
    assert all(path.stat().st_mtime_ns == times[path] for path in whole)
