"""Masks in versions, tools by their arithmetic, and masks that come back."""

import json
import multiprocessing
import re

import nibabel
import numpy as np
import pytest

from isanet_jax.annotate.desk import Desk
from isanet_jax.annotate.store import Labels
from isanet_jax.annotate.tools import changes, followed, threshold_in_sphere, without_component
from isanet_jax.cli import next as cli_next
from isanet_jax.cli import predict as cli_predict
from isanet_jax.cli import review as cli_review
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.nifti import read_volume
from isanet_jax.volume import Volume
from tests.dicom import make_dicom

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def mask(value):
    return Volume(np.full((3, 4, 5), value, np.uint8), AFFINE)


def test_every_version_stays_and_one_that_was_cut_off_is_none(tmp_path):
    labels = Labels(tmp_path / "labels")
    assert labels.cases() == []
    first = labels.save("a", mask(1), who="Ann")
    second = labels.save("a", mask(0), who="Bob", base=1)
    assert [one.number for one in labels.versions("a")] == [1, 2]
    assert (first.who, second.base, labels.latest("a")) == ("Ann", 1, second)
    assert read_volume(first.path).data.all()
    labels.save("b", mask(1), tag="original")
    assert (labels.cases(), labels.cases("final")) == (["a", "b"], ["a"])
    # Killed before it was whole, or its record torn: it is none, and its number is not given again.
    (tmp_path / "labels" / "a" / ".v0003").touch()
    (tmp_path / "labels" / "a" / "v0004.nii.gz").write_bytes(b"half")
    (tmp_path / "labels" / "a" / "v0004.json").write_text("{")
    assert labels.latest("a") == second
    assert labels.save("a", mask(1)).number == 4
    for name in ("../x", "", ".", "a/b"):
        with pytest.raises(DataError, match="is no case"):
            labels.versions(name)


def save_many(folder, who):
    labels = Labels(folder)
    for _ in range(10):
        labels.save("a", mask(1), who=who)


def test_readers_who_save_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    readers = [context.Process(target=save_many, args=(tmp_path, who)) for who in ("A", "B")]
    for one in readers:
        one.start()
    for one in readers:
        one.join()
    versions = Labels(tmp_path).versions("a")
    assert len({one.number for one in versions}) == 20
    assert [sum(one.who == who for one in versions) for who in "AB"] == [10, 10]


def test_a_threshold_in_a_sphere():
    pet = np.full((40, 40, 30), 0.5, np.float32)
    pet[10:16, 10:16, 10:14] = 4
    pet[12, 12, 12] = 10
    pet[20:24, 10:16, 10:14] = 9  # within the sphere, and not connected
    pet[16:20, 12, 12] = 4.05  # which 41 % of 10 does not reach
    volume = Volume(pet, AFFINE)
    point = [24.0, 24.0, 36.0]
    found = threshold_in_sphere(volume, volume, point, radius_mm=60, share=0.35)
    expected = pet >= 3.5
    np.testing.assert_array_equal(found, expected)  # joined by the bridge
    found = threshold_in_sphere(volume, volume, point, radius_mm=60, share=0.41)
    assert np.argwhere(found).tolist() == [[12, 12, 12]]
    found = threshold_in_sphere(volume, volume, point, radius_mm=8, share=None, least_suv=4)
    grid = np.stack(np.meshgrid(*map(np.arange, pet.shape), indexing="ij"), -1) * [2, 2, 3]
    np.testing.assert_array_equal(found, (pet >= 4) & (np.linalg.norm(grid - point, axis=-1) <= 8))
    assert not threshold_in_sphere(volume, volume, [999, 0, 0]).any()
    for how in ({"share": None}, {"share": 0.4, "least_suv": 2.0}, {"radius_mm": 0}):
        with pytest.raises(ConfigError):
            threshold_in_sphere(volume, volume, point, **how)
    kept = without_component(expected, (12, 12, 12))
    assert not kept.any()
    np.testing.assert_array_equal(without_component(expected, (0, 0, 0)), expected)
    np.testing.assert_array_equal(without_component(expected, (99, 0, 0)), expected)


def test_a_click_that_the_network_does_not_follow_is_followed():
    pet = np.full((40, 40, 30), 0.5, np.float32)
    pet[10:13, 10:13, 10:12] = 8
    grid = Volume(pet, AFFINE)
    mask = np.zeros(pet.shape, bool)
    mask[25:34, 25:34, 20:26] = True

    def at(*voxel):
        return AFFINE[:3, :3] @ voxel + AFFINE[:3, 3]

    here, wrong = at(11, 11, 11), at(29, 29, 22)
    # Where the mask is right already, it stays.
    np.testing.assert_array_equal(followed(mask, grid, grid, [wrong], [here]), mask)
    np.testing.assert_array_equal(followed(mask, grid, grid, [here], []), mask | (pet == 8))
    # Without PET, or where the threshold is elsewhere: 5 mm around it.
    places = np.stack(np.meshgrid(*map(np.arange, pet.shape), indexing="ij"), -1) * [2, 2, 3]
    ball = np.linalg.norm(places - [22, 22, 33], axis=-1) <= 5
    np.testing.assert_array_equal(followed(mask, grid, None, [here], []), mask | ball)
    beside = at(15, 11, 11)
    moved = np.linalg.norm(places - [30, 22, 33], axis=-1) <= 5
    np.testing.assert_array_equal(followed(mask, grid, grid, [beside], []), mask | moved)
    # Erased as far as the mask reaches around it: 3 slices of 3 mm below the click.
    erased = np.linalg.norm(places - [58, 58, 66], axis=-1) <= 9
    found = followed(mask, grid, grid, [], [wrong])
    np.testing.assert_array_equal(found, mask & ~erased)
    assert found.sum() < mask.sum() - 100
    # Elsewhere nothing is said; clicks outside the scan are none.
    within = np.zeros(pet.shape, bool)
    np.testing.assert_array_equal(followed(mask, grid, grid, [here], [], within=within), mask)
    np.testing.assert_array_equal(followed(mask, grid, grid, [[999, 0, 0]], []), mask)


def test_what_changed():
    before, after = (np.zeros((20, 20, 20), bool) for _ in range(2))
    before[2:6, 2:6, 2:6] = before[10:12, 2:4, 2:4] = True
    after[3:7, 2:6, 2:6] = after[15:17, 15:17, 15:17] = True
    found = changes(before, after, 0.5)
    assert (found["volume_before_ml"], found["volume_after_ml"]) == (36, 36)
    assert (found["added"], found["gone"]) == (1, 1)
    assert found["dsc"] == pytest.approx(2 * 48 / 144)
    assert changes(before & False, after & False, 1.0)["dsc"] == 1


def test_a_threshold_on_another_grid_is_the_sphere_of_the_place(cohort_folder, tmp_path):
    desk = Desk([cohort_folder / "scans"], tmp_path)
    case = next(iter(desk.scans))
    pet, grid = desk.images(case).volumes["pet"], desk.grid(case)
    hottest = np.unravel_index(int(pet.data.argmax()), pet.data.shape)
    world = pet.affine[:3, :3] @ hottest + pet.affine[:3, 3]
    voxel = np.linalg.solve(grid.affine[:3, :3], world - grid.affine[:3, 3])
    found = desk.threshold(case, [voxel], radius_mm=20.0)
    assert found.data.shape == grid.data.shape
    assert found.data[tuple(np.rint(voxel).astype(int))] == 1
    again = desk.threshold(case, [], [np.rint(voxel).astype(int)], before=found.data)
    assert not again.data.any()
    with pytest.raises(ConfigError, match="there is no model yet"):
        desk.prediction(case)


def test_which_comes_next(trained, trained_again, cohort_folder, tmp_path, capsys):
    flags = ["--cases", str(cohort_folder / "scans"), "-o", str(tmp_path)]
    model = ["--model", str(trained), str(trained_again)]
    cli_next.main([*flags, *model, "--most", "99"])
    said = capsys.readouterr().out
    rows = re.findall(r"^(phantom_\d+)  ([\d.]+)$", said, re.M)
    scores = [float(score) for _, score in rows]
    assert scores == sorted(scores, reverse=True)
    # It is the entropy of the mean probability, summed; and it is kept.
    from isanet_jax.prediction.predictor import Predictor

    desk = Desk([cohort_folder / "scans"], tmp_path, Predictor([trained, trained_again]))
    case = rows[0][0]
    found = desk.prediction(case)
    ml = abs(np.linalg.det(found.affine[:3, :3])) / 1000
    p = np.clip(found.probability.astype(float), 1e-12, 1 - 1e-12)
    bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    assert scores[0] == pytest.approx(bits.sum() * ml, rel=1e-3, abs=0.01)
    kept = json.loads((tmp_path / "uncertainty" / f"{case}.json").read_text())
    assert kept["digest"] == desk.predictor.maker.digest
    desk.save(case, cohort_folder / "scans" / case / "label.nii.gz")
    cli_next.main([*flags, *model, "--strategy", "unlike"])
    said = capsys.readouterr().out
    assert case not in said.splitlines()[0]
    with pytest.raises(ConfigError, match="needs --model"):
        cli_next.main(flags)


def test_corrected_masks_come_back_in_every_format(trained, tmp_path, capsys):
    for number in range(2):
        shared = make_dicom.study(patient_id=f"P{number}")
        make_dicom.write_patient(tmp_path / "in" / str(number), shared, seed=number)
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"classes": {"tumour": {"threshold": 1e-6}}}))
    source = str(tmp_path / "in")
    model = ["--model", str(trained), "--rules", str(rules)]
    cli_predict.main([*model, "-i", source, "-o", str(tmp_path / "out")])
    capsys.readouterr()
    back = tmp_path / "back"
    back.mkdir()
    # One corrected as NIfTI, one as SEG.
    image = nibabel.load(tmp_path / "out" / "P0.nii.gz")
    data = np.asarray(image.dataobj).copy()
    data[:, :, : data.shape[2] // 2] = 0
    nibabel.save(nibabel.Nifti1Image(data, image.affine), back / "P0.nii.gz")
    (back / "P1.seg.dcm").write_bytes((tmp_path / "out" / "P1.seg.dcm").read_bytes())
    flags = ["--cases", source, "--model", str(trained), "-o", str(tmp_path / "desk")]
    before = ["--before", str(tmp_path / "out")]
    cli_review.main([str(back), *flags, "--who", "Ann", *before])
    said = capsys.readouterr().out
    assert re.search(r"P0: version 1; [\d.]+ -> [\d.]+ ml, DSC 0\.\d+", said)
    assert re.search(r"P1: version 1; .* DSC 1\.0000, 0 lesion\(s\) added, 0 gone", said)
    assert "prepare table --source" in said
    labels = Labels(tmp_path / "desk" / "labels")
    np.testing.assert_array_equal(read_volume(labels.latest("P0").path).data, data)
    table = (tmp_path / "desk" / "learn" / "cases.csv").read_text()
    assert table.splitlines()[0] == "case,ct,pet,label,patient"
    # Again, as RTSTRUCT: the next version, compared with the last one.
    (back / "P0.nii.gz").unlink()
    (back / "P0.rtstruct.dcm").write_bytes((tmp_path / "out" / "P0.rtstruct.dcm").read_bytes())
    cli_review.main([str(back), *flags])
    assert "P0: version 2" in capsys.readouterr().out
    np.testing.assert_array_equal(
        read_volume(labels.latest("P0").path).data, np.asarray(image.dataobj)
    )
    (back / "P1.seg.dcm").write_bytes(b"nothing")
    with pytest.raises(DataError, match="1 of 2 masks were not taken"):
        cli_review.main([str(back), *flags])
    with pytest.raises(DataError, match="no masks"):
        cli_review.main([str(tmp_path / "in"), *flags])
