"""Rules from probabilities to masks: what they do, and how they are chosen."""

import json

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from isanet_jax.cli import evaluate, predict, tune
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.evaluation.tune import THRESHOLDS, choose, components, scores
from isanet_jax.metrics.segmentation import case_metrics
from isanet_jax.prediction.rules import Rules, read_rules

VOXEL_MM = (2.0, 3.0, 2.5)
VOXEL_ML = 0.015


def blobs(generator, share):
    """A smooth field of values from 0 to 1, of which a share is above one half."""
    field = ndimage.gaussian_filter(generator.normal(size=(20, 22, 24)), 1.2)
    return np.clip(0.5 + (field - np.quantile(field, 1 - share)) / field.std() / 2, 0, 1)


@pytest.mark.parametrize("seed", range(6))
def test_scores_of_components_are_those_of_the_mask(seed):
    """Against the mask that the rules make, scored by the metrics of all reports."""
    generator = np.random.default_rng(seed)
    probability, suv = blobs(generator, 0.1), 8 * blobs(generator, 0.3)
    reference = blobs(generator, 0.05 * (seed % 3)) > 0.5 if seed % 3 else suv < 0
    if seed % 3:
        reference |= (probability > 0.7) & (generator.random() < 2)  # some are found
    differing = 0
    for threshold in THRESHOLDS:
        found = components(probability, threshold, reference, suv, VOXEL_ML)
        for ml, hot, only in ((0, 0, False), (0.3, 0, False), (0, 4.0, False), (0.1, 3.0, True)):
            rules = Rules(threshold=threshold, smallest_ml=ml, least_suv_max=hot, largest_only=only)
            mask = rules.mask(probability, VOXEL_ML, lambda: suv)
            expected = case_metrics(mask, reference, VOXEL_MM)
            ours = scores(found, rules)
            for name in ("dsc", "lesion_f1", "fp_ml", "fn_ml"):
                assert ours[name] == pytest.approx(expected[name], abs=1e-9), (rules, name)
            assert np.isnan(ours["dsc_with_lesion"]) != bool(reference.any())
            differing += not np.array_equal(mask, probability >= threshold)
    assert differing > 3


def cases_of(probabilities, references, suv=None):
    return [
        {t: components(p, t, r, suv, VOXEL_ML) for t in THRESHOLDS}
        for p, r in zip(probabilities, references, strict=True)
    ]


def ball(centre, radius):
    d, h, w = np.ogrid[:20, :22, :24]
    return (d - centre[0]) ** 2 + (h - centre[1]) ** 2 + (w - centre[2]) ** 2 <= radius**2


def test_small_false_positives_are_taken_away_and_nothing_else_changes():
    true, speck = ball((10, 10, 10), 4), ball((3, 3, 3), 1)
    cases = cases_of([0.9 * (true | speck), 0.9 * speck], [true, true & False]) * 3
    for metric in ("dsc", "lesion_f1", "autopet"):
        rules, after, before = choose(cases, metric, has_pet=False)
        assert speck.sum() * VOXEL_ML < rules.smallest_ml <= true.sum() * VOXEL_ML
        assert (rules.threshold, rules.least_suv_max, rules.largest_only) == (0.5, 0, False)
        assert (after["dsc"], after["lesion_f1"], after["fp_ml"]) == (1, 1, 0)
        assert before["fp_ml"] == pytest.approx(speck.sum() * VOXEL_ML)


def test_rules_that_bring_nothing_are_left_out():
    true = ball((10, 10, 10), 4)
    rules, after, before = choose(cases_of([0.9 * true], [true]), "dsc", has_pet=True)
    assert rules == Rules()
    assert after == before


def test_a_gain_of_one_lucky_case_changes_nothing():
    """It is within the standard error over the cases; one of most of them is not."""
    true, around = ball((10, 10, 10), 4), ball((10, 10, 10), 5)
    good, wide = 0.95 * true, 0.95 * true + 0.6 * (around & ~true)
    for count, expected in ((1, 0.5), (7, 0.7)):
        cases = cases_of([wide] * count + [good] * (8 - count), [true] * 8)
        rules, *_ = choose(cases, "dsc", has_pet=False)
        assert rules.threshold == expected


def test_a_least_uptake_needs_a_pet():
    true, cold = ball((6, 6, 6), 3), ball((14, 14, 14), 4)
    suv = 5.0 * true + 1.0 * cold
    cases = cases_of([0.9 * (true | cold)], [true], suv)
    rules, after, _ = choose(cases, "dsc", has_pet=True)
    assert 1 < rules.least_suv_max <= 5
    assert after["dsc"] == 1
    with pytest.raises(ConfigError, match="there is no PET"):
        rules.mask(0.9 * true, VOXEL_ML)


def test_rules_of_a_run_are_chosen_written_and_applied(trained, cohort_folder, tmp_path, capsys):
    path = tmp_path / "rules.json"
    tune.main(["--workdir", str(trained), "--output", str(path), "--metric", "lesion_f1"])
    content = json.loads(path.read_text())
    assert content["classes"].keys() == {"tumour"}
    assert content["after"]["tumour"]["lesion_f1"] >= content["before"]["tumour"]["lesion_f1"]
    assert "| tumour | one half |" in capsys.readouterr().out
    with pytest.raises(DataError, match="exists already"):
        tune.main(["--workdir", str(trained), "--output", str(path)])

    # Rules of our own, whose effect is known.
    content["classes"]["tumour"] = {"threshold": 0.3, "smallest_ml": 1.0, "largest_only": True}
    path.write_text(json.dumps(content))
    scan = cohort_folder / "scans" / "phantom_000"
    words = ["--workdir", str(trained), "--ct", str(scan / "ct.nii.gz")]
    words += ["--pet", str(scan / "pet.nii.gz"), "--probability", str(tmp_path / "p.nii.gz")]
    predict.main([*words, "--output", str(tmp_path / "m.nii.gz"), "--rules", str(path)])
    mask = np.asarray(nibabel.load(tmp_path / "m.nii.gz").dataobj)
    probability = np.asarray(nibabel.load(tmp_path / "p.nii.gz").dataobj)
    parts, count = ndimage.label(probability >= 0.3, np.ones((3, 3, 3)))
    assert count
    sizes = np.bincount(parts.ravel())[1:]
    expected = parts == 1 + sizes.argmax()
    voxel_ml = np.prod(nibabel.load(tmp_path / "m.nii.gz").header.get_zooms()) / 1000
    np.testing.assert_array_equal(mask > 0, expected & (sizes.max() * voxel_ml >= 1))
    out = tmp_path / "eval"
    evaluate.main(["--workdir", str(trained), "--output", str(out), "--rules", str(path)])
    assert "Masks: tumour: probability of at least 0.3" in (out / "report.md").read_text()
    assert json.loads((out / "metrics.json").read_text())["rules"]["tumour"]["threshold"] == 0.3
    capsys.readouterr()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "holds no rules"),
        ("[]", "holds no rules"),
        ('{"classes": {"tumour": {"speed": 3}}}', "holds no rules.*speed"),
        ('{"classes": {"tumour": {"threshold": "high"}}}', "holds no rules"),
        ('{"classes": {"node": {}}}', "has no rules for tumour; it has node"),
    ],
)
def test_files_that_hold_no_rules_are_refused(tmp_path, text, message):
    (tmp_path / "rules.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_rules(tmp_path / "rules.json", ("tumour",))
    with pytest.raises(ConfigError, match="holds no rules"):
        read_rules(tmp_path / "absent.json", ("tumour",))


def test_the_rules_of_several_runs_need_a_file(trained):
    with pytest.raises(ConfigError, match="give --output"):
        tune.main(["--workdir", str(trained), str(trained)])
