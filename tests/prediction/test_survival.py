"""predict.py on tables with cases that fail in any way: the others are done, nothing is half."""

import csv
import shutil

import nibabel
import numpy as np
import pytest

from isanet_jax.cli.predict import main
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.prediction import predictor as predictor_module
from isanet_jax.prediction import result as result_module
from isanet_jax.prediction import windows


@pytest.fixture
def table(cohort_folder, tmp_path):
    """Three phantoms, of which any may be made bad: its folder by case, and the table's path."""
    lines, folders = ["case,ct,pet"], {}
    for number in range(3):
        case = f"case{number}"
        folder = shutil.copytree(
            cohort_folder / "scans" / f"phantom_00{number}", tmp_path / "in" / case
        )
        folders[case] = folder
        lines.append(f"{case},{folder}/ct.nii.gz,{folder}/pet.nii.gz")
    path = tmp_path / "cases.csv"
    path.write_text("\n".join(lines))
    return folders, path


def run(trained, table, tmp_path, *more):
    arguments = ["--workdir", str(trained), "--table", str(table), "--output", str(tmp_path / "o")]
    main([*arguments, "--lesions", str(tmp_path / "lesions.csv"), *more])


def lesion_cases(tmp_path):
    with open(tmp_path / "lesions.csv", newline="") as file:
        return {row["case"] for row in csv.DictReader(file)}


def rescaled(path, factor, unit=None):
    image = nibabel.load(path)
    affine = image.affine.copy()
    affine[:3] *= factor
    changed = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
    if unit:
        changed.header.set_xyzt_units(unit)
    nibabel.save(changed, path)


def test_a_header_in_micrometres_is_read_or_refused_and_the_rest_is_done(
    trained, table, tmp_path, capsys
):
    """Spacing times 1000 asked for 18 GB and was killed; its unit may say that it is right."""
    folders, path = table
    for name in ("ct.nii.gz", "pet.nii.gz"):
        rescaled(folders["case0"] / name, 1000, "micron")
        rescaled(folders["case1"] / name, 1000, "mm")
    with pytest.raises(DataError, match="1 of 3 cases failed"):
        run(trained, path, tmp_path)
    stderr = capsys.readouterr().err
    assert "case case1" in stderr
    assert "expected sizes from 0.1 to 20 mm" in stderr
    masks = sorted(p.name for p in (tmp_path / "o").iterdir())
    assert masks == ["case0.nii.gz", "case2.nii.gz"]


def test_an_unforeseen_error_is_its_cases_failure_and_its_traceback_is_kept(
    trained, table, tmp_path, capsys, monkeypatch
):
    find = result_module.lesions
    calls = []

    def fail_once(mask, pet, person):
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError("of a made-up bug")
        return find(mask, pet, person)

    monkeypatch.setattr(result_module, "lesions", fail_once)
    with pytest.raises(DataError, match="1 of 3 cases failed"):
        run(trained, table[1], tmp_path)
    log = tmp_path / "o" / "errors.log"
    assert f"ZeroDivisionError (of a made-up bug). The traceback is in {log}" in (
        capsys.readouterr().err
    )
    assert "case case1\nTraceback" in log.read_text()
    assert sorted(p.name for p in (tmp_path / "o").glob("*.gz")) == ["case0.nii.gz", "case2.nii.gz"]


def test_a_network_of_nan_is_an_error_and_no_empty_mask(trained, table, tmp_path, monkeypatch):
    monkeypatch.setattr(
        predictor_module.Predictor,
        "probabilities",
        lambda self, ct, pet: np.full(ct.shape, np.nan, np.float32),
    )
    with pytest.raises(DataError, match="3 of 3 cases failed"):
        run(trained, table[1], tmp_path)
    assert not list((tmp_path / "o").glob("*.gz"))
    assert not (tmp_path / "lesions.csv").exists()


def test_masks_and_lesions_of_a_case_appear_together(trained, table, tmp_path, monkeypatch):
    """A crash between them left the case out of the table for good with --skip-existing."""

    def killed(self, case, rows):
        raise KeyboardInterrupt

    from isanet_jax.cli import predict as command

    more = ["--probability", str(tmp_path / "p"), "--uncertainty", str(tmp_path / "u")]
    with monkeypatch.context() as patch:
        patch.setattr(command._LesionTable, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            run(trained, table[1], tmp_path, *more)
    for folder in "opu":
        assert not list((tmp_path / folder).rglob("*.*"))
    run(trained, table[1], tmp_path, *more, "--skip-existing")
    found = lesion_cases(tmp_path)
    masks = {
        p.name.removesuffix(".nii.gz")
        for p in (tmp_path / "o").iterdir()
        if np.asarray(nibabel.load(p).dataobj).any()
    }
    assert found == masks


def test_outputs_are_never_inputs_and_the_lesions_never_the_mask(table, tmp_path):
    folders, path = table
    ct, pet = (folders["case0"] / f"{kind}.nii.gz" for kind in ("ct", "pet"))
    one = ["--workdir", "w", "--ct", str(ct), "--pet", str(pet), "--overwrite"]
    for more in (
        ["--output", str(ct)],
        ["--output", str(tmp_path / "m.nii.gz"), "--probability", str(pet)],
        ["--output", str(tmp_path / "m.nii.gz"), "--lesions", str(pet)],
    ):
        with pytest.raises(ConfigError, match="over an input"):
            main([*one, *more])
    with pytest.raises(ConfigError, match="two outputs"):
        main([*one, "--output", f"{tmp_path}/m.nii.gz", "--lesions", f"{tmp_path}/in/../m.nii.gz"])
    with pytest.raises(ConfigError, match="over an input"):
        main(["--workdir", "w", "--table", str(path), "--output", "o", "--lesions", str(path),
              "--overwrite"])  # fmt: skip
    assert path.read_text().startswith("case,ct,pet")


def test_a_table_of_other_columns_is_not_taken_for_one_of_lesions(table, tmp_path):
    (tmp_path / "lesions.csv").write_text("name,age\nx,1\n")
    with pytest.raises(DataError, match="is not a table of lesions: it has the columns name, age"):
        run("w", table[1], tmp_path, "--overwrite")


@pytest.mark.parametrize("corner", ["nan", "inf"])
def test_a_box_that_is_not_finite_is_refused(table, tmp_path, corner):
    scan = ["--ct", "c.nii", "--pet", "p.nii", "--output", str(tmp_path / "m.nii")]
    with pytest.raises(ConfigError, match="empty or not finite"):
        main(["--workdir", "w", *scan, "--box", "0", corner, "0", "1", "0", "1"])


def test_a_large_batch_asks_for_no_more_than_there_are_windows():
    """--batch 1000 on one window made a thousand of them."""
    from isanet_jax.cases.preparation import Settings
    from isanet_jax.volume import Volume

    batches = []

    def probability(cases):
        batches.append(len(cases))
        return np.zeros((len(cases), 16, 16, 16, 1), np.float32)

    ct = Volume(np.zeros((8, 8, 8), np.float32), np.eye(4))
    settings = Settings(size=16, spacing_mm=1.0)
    images = {"ct": ct, "pet": ct}
    windows.predict_windows(probability, images, settings, classes=1, batch=1000)
    assert batches == [1]


def test_windows_over_a_field_that_no_scan_has_are_refused_before_they_are_made():
    from isanet_jax.cases.preparation import Settings
    from isanet_jax.volume import Volume

    ct = Volume(np.zeros((4, 4, 4), np.float32), np.diag([900.0, 900.0, 900.0, 1.0]))
    with pytest.raises(DataError, match="expected at most 1073741824 voxels"):
        windows.predict_windows(
            None, {"ct": ct, "pet": ct}, Settings(size=16, spacing_mm=1.0), classes=1, batch=1
        )


def test_the_sphere_of_fine_voxels_is_the_sphere_of_coarse_ones(generator):
    """PET voxels of 0.04 mm asked for 208 GiB. Of 0.25 mm: the peak of a smooth field."""
    from isanet_jax.quantify.lesions import lesions
    from isanet_jax.volume import Volume

    peaks = []
    for spacing in (0.25, 1.0):
        half = int(14 / spacing)
        axes = np.ogrid[tuple(slice(-half, half + 1) for _ in range(3))]
        squared = sum(np.square(a * spacing) for a in axes)
        pet = 10 * np.exp(-squared / (2 * 8.0**2)).astype(np.float32)
        affine = np.diag([spacing, spacing, spacing, 1.0])
        mask = np.zeros(pet.shape, bool)
        mask[(half,) * 3] = True
        (row,) = lesions(Volume(mask, affine), Volume(pet, affine))
        peaks.append(row["suv_peak"])
    assert peaks[0] == pytest.approx(peaks[1], rel=2e-3)
    radius = np.linspace(0, (3000 / (4 * np.pi)) ** (1 / 3), 1000)
    shells = np.square(radius)
    mean = np.average(10 * np.exp(-shells / (2 * 8.0**2)), weights=shells)
    assert peaks[0] == pytest.approx(mean, rel=0.01)
