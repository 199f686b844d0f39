import dataclasses

import numpy as np
import pytest
from scipy import stats

from isanet_jax.cases.case import read_case
from isanet_jax.cases.grid import resample
from isanet_jax.cli import bundle
from isanet_jax.datasets.layout import Scan
from isanet_jax.errors import ConfigError
from isanet_jax.prediction import predictor as module
from isanet_jax.prediction.predictor import Predictor, entropy, to_grid_of
from isanet_jax.volume import Volume

OBLIQUE = np.array(
    [[-0.9, 0.1, 0.2, 10.0], [0.1, -1.1, 0.3, 20.0], [0.1, 0.2, 3.0, -30.0], [0, 0, 0, 1]]
)


def test_the_part_that_is_resampled_is_the_part_that_matters(generator):
    """Against resampling the whole CT grid, for fields inside, across and outside it."""
    values = generator.uniform(0.1, 1, (8, 8, 8)).astype(np.float32)
    ct = Volume(np.zeros((40, 44, 16)), OBLIQUE)
    reached = []
    for centre in ([20, 22, 8], [0, 40, 15], [39, 43, 0], [200, 0, 0]):
        affine = np.diag([2.0, -1.5, 1.0, 1.0])[[2, 1, 0, 3]]
        affine[:3, 3] = (OBLIQUE @ [*centre, 1])[:3] - affine[:3, :3] @ [3.5, 3.5, 3.5]
        out = to_grid_of(values, affine, ct)
        expected = resample(Volume(values, affine), ct.data.shape, OBLIQUE, order=1, fill=0.0)
        np.testing.assert_allclose(out.data, expected, atol=1e-6)
        reached.append((out.data > 0).mean())
    assert reached[0] > max(reached[1], reached[2]) > 0
    assert reached[3] == 0


def test_an_ensemble_is_the_mean_of_its_networks(trained, trained_again, cohort):
    case = read_case(cohort.path(sorted(cohort.cases)[0]))
    alone = [Predictor([w]).probabilities([case])[0][..., 0] for w in (trained, trained_again)]
    assert np.abs(alone[0] - alone[1]).max() > 0.05
    together = Predictor([trained, trained_again]).probabilities([case])[0][..., 0]
    np.testing.assert_allclose(together, np.mean(alone, 0), atol=1e-6)


def test_for_who_waits_mirror_images_are_left_out(trained, cohort, mirrored):
    case = read_case(cohort.path(sorted(cohort.cases)[0]))
    (once,) = Predictor([trained]).probabilities([case])
    mirrored()
    predictor = Predictor([trained])
    (eight,) = predictor.probabilities([case])
    assert np.abs(eight - once).max() > 1e-4
    np.testing.assert_array_equal(predictor.quick.probabilities([case])[0], once)
    np.testing.assert_array_equal(predictor.probabilities([case])[0], eight)
    assert predictor.quick.maker == predictor.maker


def test_networks_that_want_different_images_are_no_ensemble(trained, monkeypatch):
    load = module.load_params

    def load_differing(workdir, make_params, *, which):
        params, description = load(trained, make_params, which=which)
        if str(workdir) == "resized":
            description["preparation"] |= {"size": 32}
        return params, description

    monkeypatch.setattr(module, "load_params", load_differing)
    with pytest.raises(ConfigError, match=r"prepared differently \(size 32 and 16\)"):
        Predictor([trained, "resized"])


def test_entropy_is_scipys_and_bounded():
    p = np.array([0, 0.001, 0.3, 0.5, 0.9, 1, 1 + 1e-7, -1e-7])
    expected = [stats.entropy([q, 1 - q], base=2) for q in np.clip(p, 0, 1)]
    np.testing.assert_allclose(entropy(p), expected, atol=1e-6)
    assert entropy(p)[3] == 1


def test_half_precision_predicts_nearly_the_same(trained, cohort):
    case = read_case(cohort.path(sorted(cohort.cases)[0]))
    full = Predictor([trained]).probabilities([case])[0][..., 0]
    half = Predictor([trained], half=True).probabilities([case])[0][..., 0]
    assert half.dtype == np.float32
    assert np.abs(half - full).max() > 0
    assert np.abs(half - full).mean() < 0.01


def test_one_folder_is_one_run(trained):
    assert len(module.Predictor(str(trained)).descriptions) == 1


def test_windows_are_for_scans_without_a_box(trained):
    predictor = module.Predictor(trained)
    scan = Scan("a", {"ct": "ct", "pet": "pet"}, None, "a")
    assert predictor.settings.fit == "crop"
    assert predictor._needs_windows(scan)
    boxed = dataclasses.replace(scan, box_mm=np.array([[0, 0, 0], [9, 9, 9]]))
    assert not predictor._needs_windows(boxed)
    predictor.settings = dataclasses.replace(predictor.settings, fit="resize")
    assert not predictor._needs_windows(scan)


def test_outputs_name_the_network_that_made_them(trained, tmp_path):
    one, two = Predictor([trained]).maker, Predictor([trained, trained]).maker
    assert (one.name, two.name) == ("plain", "2 x plain")
    assert len(one.digest) == 64
    assert one.digest != two.digest
    model = tmp_path / "ours.isanet"
    bundle.main(["--workdir", str(trained), "--output", str(model)])
    assert Predictor([model]).maker == one._replace(name="ours")
