import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from isanet_jax.cli.predict import main
from isanet_jax.errors import ConfigError, DataError
from tests.conftest import real_data

ROOT = Path(__file__).parents[2]
KINDS = ("output", "probability", "uncertainty")


def predict(trained, folder, output, *more):
    main(
        [
            "--workdir",
            str(trained),
            "--ct",
            str(folder / "ct.nii.gz"),
            "--pet",
            str(folder / "pet.nii.gz"),
            "--output",
            str(output),
            *map(str, more),
        ]
    )


@pytest.fixture
def patient(cohort_folder):
    return cohort_folder / "scans" / "phantom_000"


def test_the_mask_is_on_the_cts_own_grid(trained, patient, tmp_path, capsys):
    predict(trained, patient, tmp_path / "m.nii.gz", "--probability", tmp_path / "p.nii.gz")
    ct, mask, probability = (
        nibabel.load(path)
        for path in (patient / "ct.nii.gz", tmp_path / "m.nii.gz", tmp_path / "p.nii.gz")
    )
    for image in (mask, probability):
        assert image.shape == ct.shape
        for name in ("pixdim", "srow_x", "srow_y", "srow_z", "qform_code", "sform_code"):
            assert image.header[name].tobytes() == ct.header[name].tobytes()
    values = np.asarray(probability.dataobj)
    assert 0 <= values.min() < values.max() <= 1
    np.testing.assert_array_equal(np.asarray(mask.dataobj), values >= 0.5)
    volume = np.asarray(mask.dataobj).sum() * np.prod(ct.header.get_zooms()) / 1000
    assert f"{volume:.2f} ml" in capsys.readouterr().out


def test_several_runs_predict_together_with_their_uncertainty(
    trained, trained_again, patient, tmp_path
):
    main(
        ["--workdir", str(trained), str(trained_again)]
        + ["--ct", str(patient / "ct.nii.gz"), "--pet", str(patient / "pet.nii.gz")]
        + [f"--{kind}={tmp_path / kind}.nii.gz" for kind in KINDS]
    )
    ct = nibabel.load(patient / "ct.nii.gz")
    mask, probability, uncertainty = (
        np.asarray(nibabel.load(tmp_path / f"{kind}.nii.gz").dataobj) for kind in KINDS
    )
    np.testing.assert_array_equal(mask, probability >= 0.5)
    assert uncertainty.shape == ct.shape
    p = np.clip(probability.astype(float), 1e-12, 1 - 1e-12)
    expected = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    np.testing.assert_allclose(uncertainty, expected, atol=1e-5)
    assert 0 <= uncertainty.min() < 0.5 < uncertainty.max() <= 1


def test_outputs_in_one_place_are_refused(patient, tmp_path):
    arguments = ["--workdir", "w", "--ct", "c.nii", "--pet", "p.nii"]
    with pytest.raises(ConfigError, match="two outputs.*m.nii"):
        main([*arguments, "--output", str(tmp_path / "m.nii"), f"--probability={tmp_path}/m.nii"])


def test_a_ct_stored_in_another_order_gets_the_same_mask(trained, patient, tmp_path):
    """Geometry is the affine: flipping and permuting the stored array changes nothing."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("ct.nii.gz", "pet.nii.gz"):
        image = nibabel.load(patient / name)
        orientation = nibabel.orientations.axcodes2ornt(("I", "R", "A"))
        start = nibabel.io_orientation(image.affine)
        change = nibabel.orientations.ornt_transform(start, orientation)
        nibabel.save(image.as_reoriented(change), other / name)
    predict(trained, patient, tmp_path / "a.nii.gz")
    predict(trained, other, tmp_path / "b.nii.gz")
    a, b = (nibabel.load(tmp_path / f"{n}.nii.gz") for n in "ab")
    assert a.shape != b.shape
    back = b.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.io_orientation(b.affine), nibabel.io_orientation(a.affine)
        )
    )
    np.testing.assert_allclose(back.affine, a.affine, atol=1e-4)
    differing = np.asarray(a.dataobj) != np.asarray(back.dataobj)
    assert differing.mean() < 1e-3


def test_existing_outputs_are_refused_before_any_work(trained, patient, tmp_path):
    (tmp_path / "m.nii.gz").write_bytes(b"precious")
    with pytest.raises(DataError, match="exists already"):
        predict(trained, patient, tmp_path / "m.nii.gz")
    assert (tmp_path / "m.nii.gz").read_bytes() == b"precious"
    predict(trained, patient, tmp_path / "m.nii.gz", "--overwrite")
    assert nibabel.load(tmp_path / "m.nii.gz").shape


def test_a_bad_case_in_a_table_does_not_stop_the_others(trained, cohort_folder, tmp_path, capsys):
    scans = cohort_folder / "scans"
    (tmp_path / "bad.nii.gz").write_text("no image")
    rows = [
        f"A,{scans}/phantom_000/ct.nii.gz,{tmp_path}/bad.nii.gz",
        f"B,{scans}/phantom_001/ct.nii.gz,{scans}/phantom_001/pet.nii.gz",
    ]
    table = tmp_path / "cases.csv"
    table.write_text("case,ct,pet\n" + "\n".join(rows) + "\n")
    arguments = ["--workdir", str(trained), "--table", str(table), "--output", str(tmp_path / "o")]
    with pytest.raises(DataError, match="1 of 2 cases failed"):
        main(arguments)
    assert "case A, file" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "o").iterdir()] == ["B.nii.gz"]
    with pytest.raises(DataError, match="exists already"):
        main(arguments)
    table.write_text("case,ct,pet\n" + rows[1] + "\n")
    main([*arguments, "--skip-existing"])
    assert "every mask is there" in capsys.readouterr().out


def test_cases_are_spread_over_devices(trained, cohort_folder, tmp_path):
    """Five cases, one of them broken, on two devices as on one."""
    names = [f"phantom_{i:03}" for i in range(5)]
    rows = [f"{n},{cohort_folder}/scans/{n}/ct.nii.gz,{cohort_folder}/scans/{n}/pet.nii.gz"
            for n in names]  # fmt: skip
    (tmp_path / "bad.nii.gz").write_text("no image")
    rows[1] = f"{names[1]},{cohort_folder}/scans/{names[1]}/ct.nii.gz,{tmp_path}/bad.nii.gz"
    (tmp_path / "table.csv").write_text("\n".join(["case,ct,pet", *rows]) + "\n")
    for devices in (1, 2):
        command = [sys.executable, "predict.py", "--workdir", trained, "--table",
                   tmp_path / "table.csv", "--output", tmp_path / f"masks{devices}",
                   "--probability", tmp_path / f"on{devices}"]  # fmt: skip
        count = f"--xla_force_host_platform_device_count={devices}"
        flags = f"{os.environ['XLA_FLAGS']} {count}"
        process = subprocess.run(
            list(map(str, command)), cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert process.returncode == 2, process.stderr
        assert "1 of 5 cases failed" in process.stderr
        assert process.stdout.count("lesion(s)") + process.stdout.count("EMPTY") == 4
    for name in names[:1] + names[2:]:
        one, two = (
            np.asarray(nibabel.load(tmp_path / f"on{n}" / f"{name}.nii.gz").dataobj) for n in (1, 2)
        )
        np.testing.assert_allclose(two, one, atol=1e-5)
    assert not (tmp_path / "on2" / "phantom_001.nii.gz").exists()


def test_arguments_that_do_not_fit_together(tmp_path):
    with pytest.raises(ConfigError, match="--ct and --pet, or --table"):
        main(["--workdir", "w", "--ct", "c", "--output", "o"])
    with pytest.raises(ConfigError, match="either --table"):
        main(["--workdir", "w", "--ct", "c", "--table", "t", "--output", "o"])


def test_a_real_patient(trained, tmp_path):
    at = real_data("sts") / "STS_002"
    main(
        [
            "--workdir",
            str(trained),
            "--ct",
            str(at / "CT_image.nii.gz"),
            "--pet",
            str(at / "PET_image.nii.gz"),
            "--output",
            str(tmp_path / "m.nii.gz"),
        ]
    )
    ct, mask = nibabel.load(at / "CT_image.nii.gz"), nibabel.load(tmp_path / "m.nii.gz")
    assert mask.shape == ct.shape
    np.testing.assert_array_equal(mask.affine, ct.affine)
    assert mask.header["sform_code"] == ct.header["sform_code"] == 0


def test_dicom_in_and_out_with_a_table_of_lesions(trained, patient, tmp_path, capsys):
    import csv

    from isanet_jax.dicom.series import find_series
    from isanet_jax.dicom.structures import read_region
    from tests.dicom.make_dicom import MARKERS, markers_in, plant_markers, study, write_series

    shared = study("DOE^JANE", "NO", "MRN-1")
    for name, modality, scale in (("ct", "CT", 1), ("pet", "PT", 0.01)):
        image = nibabel.load(patient / f"{name}.nii.gz")
        spacing = [float(s) for s in image.header.get_zooms()]
        origin = image.affine[:3, 3] * [-1, -1, 1]
        values = np.rint(np.asarray(image.dataobj).transpose(2, 1, 0) / scale)
        more = {"RescaleSlope": scale, "Units": "GML" if name == "pet" else None}
        write_series(
            tmp_path / name, modality, shared, values, origin=origin, spacing=spacing,
            **more,
        )  # fmt: skip
        for path in (tmp_path / name).iterdir():
            one = pydicom.dcmread(path)
            plant_markers(one)
            one.save_as(path)
    voxel_ml = np.prod(nibabel.load(patient / "ct.nii.gz").header.get_zooms()) / 1000
    output = tmp_path / "out" / "mask.nii.gz"
    arguments = ["--workdir", str(trained), "--ct", str(tmp_path / "ct"), "--output", str(output)]
    arguments += ["--pet", str(tmp_path / "pet"), "--lesions", str(output.parent / "l.csv")]
    arguments += ["--probability", str(output.parent / "p.nii.gz")]
    arguments += ["--report", str(output.parent / "r.html")]
    main([*arguments, "--format", "nifti,dicom-seg,rtstruct"])
    shown = capsys.readouterr()
    for text in (*MARKERS, "DOE", "JANE", "MRN", "19610203"):
        assert text not in shown.out + shown.err
    assert markers_in(tmp_path / "ct")
    assert not markers_in(output.parent)
    names = sorted(p.name for p in output.parent.iterdir())
    masks = ["mask.nii.gz", "mask.rtstruct.dcm", "mask.seg.dcm"]
    assert names == ["l.csv", *masks, "p.nii.gz", "r.html"]
    mask = np.asarray(nibabel.load(output).dataobj) > 0
    assert mask.any()
    images, _ = find_series(tmp_path / "ct")
    (one,), _ = find_series(output.with_name("mask.rtstruct.dcm"))
    np.testing.assert_array_equal(read_region(one, "Neoplasm", images)[0].data, mask)
    with open(output.with_name("l.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    page = output.with_name("r.html").read_text()
    for row in rows:
        assert f"<td>{float(row['mtv_ml']):.2f}</td>" in page
    total = sum(float(row["mtv_ml"]) for row in rows)
    assert total == pytest.approx(mask.sum() * voxel_ml, abs=1e-3)
    assert {row["case"] for row in rows} == {"scan"}
    for row in rows:  # four decimals
        assert all(len(value.partition(".")[2]) <= 4 for value in row.values())
    with pytest.raises(DataError, match="exists already"):
        main([*arguments, "--format", "nifti"])


def test_a_scan_larger_than_the_network_is_seen_whole(trained, patient, tmp_path, capsys):
    """The phantom inside a larger field: the prediction covers all of the CT."""
    larger = tmp_path / "larger"
    larger.mkdir()
    for name, fill in (("ct.nii.gz", -1000), ("pet.nii.gz", 0)):
        image = nibabel.load(patient / name)
        data = np.pad(np.asarray(image.dataobj), 20, constant_values=fill)
        affine = image.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ [20, 20, 20]
        nibabel.save(nibabel.Nifti1Image(data, affine), larger / name)
    predict(trained, larger, tmp_path / "m.nii.gz", "--probability", tmp_path / "p.nii.gz")
    values = np.asarray(nibabel.load(tmp_path / "p.nii.gz").dataobj)
    edge = np.concatenate([values[:3].ravel(), values[-3:].ravel(), values[:, :, -3:].ravel()])
    assert (edge > 0).mean() > 0.9  # nothing is left out
    predict(trained, larger, tmp_path / "n.nii.gz", "--batch", "4")
    a, b = (np.asarray(nibabel.load(tmp_path / f"{n}.nii.gz").dataobj) for n in "mn")
    assert (a != b).mean() < 1e-3


def test_dicom_outputs_need_a_dicom_ct(trained, patient, tmp_path):
    with pytest.raises(DataError, match="1 of 1 cases failed"):
        predict(trained, patient, tmp_path / "m.dcm", "--format", "dicom-seg")
    with pytest.raises(ConfigError, match="--format is 'tiff'"):
        predict(trained, patient, tmp_path / "m.nii.gz", "--format", "tiff")


def test_a_scan_unlike_the_training_is_hinted_at(trained, patient, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("ct.nii.gz", "pet.nii.gz"):
        image = nibabel.load(patient / name)
        affine = image.affine @ np.diag([2.0, 1, 1, 1])
        factor = 5.0 if name.startswith("pet") else 1.0
        data = np.asarray(image.dataobj) * factor
        nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), affine), other / name)
    predict(trained, patient, tmp_path / "a.nii.gz")
    assert "hint" not in capsys.readouterr().out
    predict(trained, other, tmp_path / "b.nii.gz")
    shown = capsys.readouterr().out
    assert "hint: CT voxel size right-left is" in shown
    assert "hint: PET reaches" in shown
