import numpy as np
from scipy import ndimage

from isanet_jax.cases.grid import resample
from isanet_jax.datasets.phantom import make_phantom
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
