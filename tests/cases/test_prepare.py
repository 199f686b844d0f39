import dataclasses
import json
import zipfile

import numpy as np
import pytest
from scipy import ndimage

from isanet_jax.cases import prepare, prepare_cohort
from isanet_jax.cases.case import case_of, read_case, read_label_on_reference
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.cases.identity import content_digest
from isanet_jax.classes import Classes
from isanet_jax.cli import prepare as command
from isanet_jax.datasets.layout import Scan
from isanet_jax.datasets.phantom import make_phantom
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.nifti import read_volume, write_volume
from isanet_jax.volume import Volume
from tests.conftest import real_data

SETTINGS = prepare.Settings(size=16, fit="crop", spacing_mm=12.0)


@pytest.fixture(scope="module")
def patient():
    return make_phantom(np.random.default_rng(5))


def write_scan(folder, patient, case="A", **changes):
    names = dict(zip(("ct", "pet", "label"), patient, strict=True)) | changes
    for kind, volume in names.items():
        write_volume(folder / case / f"{kind}.nii.gz", volume, overwrite=True)
    at = folder / case
    images = {kind: at / f"{kind}.nii.gz" for kind in names if kind != "label"}
    return Scan(case, images, at / "label.nii.gz", case)


def run(scans, output, **options):
    options = {"kind": "table", "folds": 2, "seed": 0, "workers": 1} | options
    return prepare_cohort.prepare(scans, SETTINGS, output, **options)


def changed(volume, data):
    return Volume(data, volume.affine)


def test_a_case_holds_the_scan_on_its_grid(tmp_path, patient):
    ct, _, label = patient
    scan = write_scan(tmp_path, patient)
    meta, made = prepare.prepare_case(scan, SETTINGS, tmp_path)
    assert made
    case = read_case(tmp_path / "A.zarr.zip")
    assert (case.images["ct"].shape, case.images["ct"].dtype) == ((16, 16, 16), np.int16)
    assert (case.images["pet"].dtype, case.label.dtype) == (np.float32, np.uint8)
    # One voxel by hand: the grid's voxel centres, through the affines, onto the nearest CT voxel.
    d, h, w = np.argwhere(case.label)[0]
    world = np.array(meta["affine"]) @ [d, h, w, 1]
    i, j, k = np.rint(np.linalg.inv(ct.affine) @ world)[:3].astype(int)
    assert label.data[i, j, k] == 1
    stored = read_label_on_reference(tmp_path / "A.zarr.zip")
    np.testing.assert_array_equal(stored.data, label.data > 0)
    expected_ml = label.data.sum() * abs(np.linalg.det(label.affine[:3, :3])) / 1000
    assert meta["volume_ml"] == pytest.approx(expected_ml)


def test_finished_cases_are_kept_and_changed_ones_made_anew(tmp_path, patient):
    output = tmp_path / "out"
    scans = [write_scan(tmp_path, patient, case) for case in "AB"]
    run(scans, output)
    first = {p.name: p.stat().st_mtime_ns for p in output.glob("*.zarr.zip")}
    (output / ".A.zarr.zip.1.part").write_bytes(b"left by a killed run")
    run(scans, output)
    assert {p.name: p.stat().st_mtime_ns for p in output.glob("*.zarr.zip")} == first
    assert not list(output.glob(".*"))
    write_scan(tmp_path, patient, "A", ct=changed(patient[0], patient[0].data + 1))
    (output / "B.zarr.zip").write_bytes((output / "B.zarr.zip").read_bytes()[:1000])
    run(scans, output)
    again = {p.name: p.stat().st_mtime_ns for p in output.glob("*.zarr.zip")}
    assert all(again[name] != first[name] for name in first)


def test_parallel_and_serial_preparation_agree(tmp_path, patient):
    scans = [write_scan(tmp_path, patient, case) for case in "ABC"]
    run(scans, tmp_path / "one")
    run(scans, tmp_path / "two", workers=2)
    for case in "ABC":
        a, b = (read_case(tmp_path / n / f"{case}.zarr.zip") for n in ("one", "two"))
        np.testing.assert_array_equal(a.images["pet"], b.images["pet"])
        assert a.meta == b.meta


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ct, pet, label: {"pet": changed(pet, pet.data * 1e4)}, "looks like Bq/ml"),
        (lambda ct, pet, label: {"pet": changed(pet, pet.data * 0)}, "image is empty"),
        (
            lambda ct, pet, label: {"ct": changed(ct, np.clip(ct.data // 8 + 125, 0, 255))},
            "expected HU",
        ),
        (lambda ct, pet, label: {"ct": changed(ct, ct.data * 0 - 500)}, "CT values from -500 to"),
        # Scaled for another network; a CT in the PET's place.
        (lambda ct, pet, label: {"ct": changed(ct, np.clip(ct.data / 1e3, -1, 1))}, "expected HU"),
        (
            lambda ct, pet, label: {"pet": changed(pet, np.clip(ct.data, -1024, 900))},
            "looks like HU",
        ),
        (
            lambda ct, pet, label: {"pet": Volume(pet.data, pet.affine + np.eye(4, k=3) * 5000)},
            "do not overlap",
        ),
        (lambda ct, pet, label: {"label": changed(label, label.data * 255)}, "label values 0, 255"),
        (
            lambda ct, pet, label: {
                "label": Volume(label.data, label.affine + np.eye(4, k=3) * 5000)
            },
            "the label lies outside the CT",
        ),
    ],
)
def test_bad_scans_are_refused_and_the_others_kept(tmp_path, patient, change, message):
    good, other = (write_scan(tmp_path, patient, case) for case in ("good", "other"))
    bad = write_scan(tmp_path, patient, "bad", **change(*patient))
    output = tmp_path / "out"
    with pytest.raises(DataError) as error:
        run([bad, good, other], output)
    assert message in str(error.value)
    assert "case bad" in str(error.value)
    assert {p.name for p in output.iterdir()} == {"good.zarr.zip", "other.zarr.zip"}

    entries = run([bad, good, other], output, skip_bad=True)
    assert [e["case"] for e in entries] == ["good", "other"]
    assert message in json.loads((output / "manifest.json").read_text())["failed"]["bad"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "0"], "--size is 0"),
        (["--folds", "1"], "--folds is 1"),
        (["--workers", "0"], "--workers is 0"),
        (["--spacing-mm", "nan"], "--spacing-mm is nan"),
        (["--seed", "-1"], "--seed is -1"),
    ],
)
def test_arguments_that_cannot_work_are_refused_before_any_work(tmp_path, arguments, message):
    source = ["table", "--source", str(tmp_path / "absent.csv"), "--output", str(tmp_path / "o")]
    with pytest.raises(ConfigError, match=message):
        command.main([*source, *arguments])
    assert not list(tmp_path.iterdir())


def test_folds_that_cannot_be_are_refused_before_any_work(tmp_path, patient):
    scans = [write_scan(tmp_path / "s", patient, case=case) for case in "ABC"]
    with pytest.raises(DataError, match="3 patients for 5 folds"):
        run(scans, tmp_path / "cases", folds=5)
    prescribed = [dataclasses.replace(scans[0], fold=1), *scans[1:]]
    with pytest.raises(DataError, match="1 cases have a fold and 2 have none"):
        run(prescribed, tmp_path / "cases")
    with pytest.raises(DataError, match="3 patients for 5 folds"):
        prepare_cohort.prepare_phantoms(tmp_path / "cases", cases=3, size=16, seed=0)
    assert not list(tmp_path.glob("cases/**/*"))


def test_the_output_is_neither_a_file_nor_the_source(tmp_path):
    (tmp_path / "file").write_text("")
    for output, message in (("file", "is a file; name a folder"), ("", "is the source")):
        with pytest.raises(ConfigError, match=message):
            command.main(["sts", "--source", str(tmp_path), "--output", str(tmp_path / output)])


def test_an_empty_label_is_a_warning(tmp_path, patient, capsys):
    empty = changed(patient[2], patient[2].data * 0)
    scans = [write_scan(tmp_path, patient, "A", label=empty), write_scan(tmp_path, patient, "B")]
    entries = run(scans, tmp_path / "out")
    assert entries[0]["warnings"] == ["the label is empty"]
    assert "case A: the label is empty" in capsys.readouterr().err
    command._summarise(entries, "out")
    assert "1 with an empty label" in capsys.readouterr().out


def test_a_label_cut_by_the_crop_is_a_warning(tmp_path, patient):
    settings = dataclasses.replace(SETTINGS, spacing_mm=2.0)
    meta, _ = prepare.prepare_case(write_scan(tmp_path, patient), settings, tmp_path)
    assert any("of the tumour" in warning for warning in meta["warnings"])


def test_one_scan_of_two_patients_is_told(tmp_path, patient, capsys):
    _, pet, _ = patient
    scans = [write_scan(tmp_path, patient, case) for case in "ABC"]
    scans[1] = dataclasses.replace(scans[1], patient="A")
    scans.append(write_scan(tmp_path, patient, "D", pet=changed(pet, pet.data * 0.9)))
    run(scans, tmp_path / "out")
    told = [line for line in capsys.readouterr().err.splitlines() if "is the same as" in line]
    assert [line.split(" is the")[0] for line in told] == [
        "warning: case C: the scan",
        "warning: case C: pet",
        "warning: case D: the scan",
    ]
    assert "they are in the folds 1 and 0: leave one of them out" in told[0]


def shifted(volume, number):
    """Another patient's: the volume rolled by some voxels."""
    return changed(volume, np.roll(volume.data, number, axis=0))


def test_a_patient_keeps_their_fold_when_others_come_and_go(tmp_path, patient, caplog):
    caplog.set_level("INFO")

    def scans(*numbers):
        volumes = [[shifted(v, n) for v in patient] for n in numbers]
        return [write_scan(tmp_path, v, f"P{n:02}") for v, n in zip(volumes, numbers, strict=True)]

    output = tmp_path / "out"

    def folds():
        return json.loads((output / "folds.json").read_text())["fold_of"]

    run(scans(*range(6)), output, folds=3)
    first = folds()
    assert not caplog.messages
    run(scans(*range(7)), output, folds=3)
    assert folds().items() >= first.items()
    assert caplog.messages[-1].startswith("6 patients keep their folds, 1 new one is dealt into")
    # A second scan goes where its patient is, whatever it is called.
    second = dataclasses.replace(scans(9)[0], case="again", patient="P03")
    run([*scans(*range(7)), second], output, folds=3)
    assert folds()["again"] == first["P03"]
    # A copy under another name goes with what it is a copy of.
    copies = [dataclasses.replace(scans(n)[0], case=f"copy{n}", patient=f"X{n}") for n in range(4)]
    run([*scans(*range(7)), second, *copies], output, folds=3)
    assert [folds()[f"copy{n}"] for n in range(4)] == [first[f"P{n:02}"] for n in range(4)]
    for name in ("again", "copy0", "copy1", "copy2", "copy3", "P06"):
        (output / f"{name}.zarr.zip").unlink()
    run(scans(*range(6)), output, folds=3)
    assert folds() == first
    with pytest.raises(ConfigError, match="3 folds dealt from seed 0.*--folds 3 --seed 0, or deal"):
        run(scans(*range(6)), output, folds=2)
    run(scans(*range(6)), output, folds=2, refold=True)
    assert set(folds().values()) == {0, 1}
    assert "of 6 patients have another fold than before" in caplog.messages[-1]
    (output / "folds.json").write_text("{")
    with pytest.raises(DataError, match=r"folds.json: is damaged.*--refold, or put the file back"):
        run(scans(*range(6)), output, folds=2)
    run(scans(*range(6)), output, folds=2, refold=True)
    (output / "manifest.json").write_text('{"cases": 5}')
    run(scans(*range(6)), output, folds=2)
    assert set(folds().values()) == {0, 1}


def test_a_case_is_known_by_its_content(tmp_path, patient):
    ct = patient[0]
    known = content_digest(ct)
    (tmp_path / "a").mkdir()
    for name, volume in (
        ("other.nii", ct),
        ("other.nii.gz", changed(ct, ct.data.astype(np.float32))),
        ("a/turned.nii.gz", Volume(*turned(ct))),
    ):
        write_volume(tmp_path / name, volume)
        assert content_digest(read_volume(tmp_path / name)) == known, name
    assert content_digest(shifted(ct, 1)) != known
    assert content_digest(Volume(ct.data, ct.affine @ np.diag([1, 1, 1.2, 1]))) != known
    assert content_digest(changed(ct, ct.data[::-1])) != known
    zeros = [np.zeros((2, 2, 2), np.float32), -np.zeros((2, 2, 2), np.float32)]
    assert content_digest(Volume(zeros[0], np.eye(4))) == content_digest(
        Volume(zeros[1], np.eye(4))
    )


def turned(volume):
    """(data, affine) with other axes first, of which one runs backwards: the same voxels."""
    data = volume.data.transpose(2, 0, 1)[::-1]
    affine = volume.affine[:, [2, 0, 1, 3]].copy()
    affine[:, 3] += (data.shape[0] - 1) * affine[:, 0]
    affine[:, 0] *= -1
    return data, affine


def test_cases_of_before_there_were_digests_get_them(tmp_path, patient, monkeypatch):
    scans = [write_scan(tmp_path, [shifted(v, n) for v in patient], f"P{n}") for n in range(2)]
    new = run(scans, tmp_path / "out")
    write = prepare.write_case

    def as_before(path, case, *rest):
        meta = {k: v for k, v in case.meta.items() if k not in ("content", "digest")}
        write(path, dataclasses.replace(case, meta=meta), *rest)

    with monkeypatch.context() as patched:
        patched.setattr(prepare, "write_case", as_before)
        patched.setattr(prepare_cohort, "_doubled", lambda metas, fold_of: [])
        patched.setattr(prepare_cohort, "_MANIFEST_KEYS", prepare_cohort._MANIFEST_KEYS[:-3])
        run(scans, tmp_path / "old")
    assert "content" not in read_cohort(tmp_path / "old").cases["P0"]
    read_cohort(tmp_path / "old").stored("P0").read()
    before = (tmp_path / "old" / "P0.zarr.zip").read_bytes()
    again = run(scans, tmp_path / "old")
    assert (tmp_path / "old" / "P0.zarr.zip").read_bytes() == before
    for a, b in zip(again, new, strict=True):
        assert [a[name] for name in ("content", "digest")] == [
            b[name] for name in ("content", "digest")
        ]
    for case in ("P0", "P1"):  # its file has none still, and is the manifest's all the same
        read_cohort(tmp_path / "old").stored(case).read()


def test_a_swapped_or_changed_file_is_told_before_it_is_read_and_made_anew(tmp_path, patient):
    scans = [write_scan(tmp_path, [shifted(v, n) for v in patient], f"P{n}") for n in range(2)]
    output = tmp_path / "out"
    entries = run(scans, output)
    paths = [output / f"P{n}.zarr.zip" for n in range(2)]
    whole = [path.read_bytes() for path in paths]
    paths[0].write_bytes(whole[1])
    with pytest.raises(
        DataError, match=r"case P0.*not the file.*\(case, patient, sources.*swapped"
    ):
        read_cohort(output).stored("P0")
    assert run(scans, output) == entries
    assert paths[0].read_bytes() == whole[0]
    # The same header over another label: as it says itself, it is P0.
    with zipfile.ZipFile(paths[0]) as a, zipfile.ZipFile(paths[1]) as b:
        members = {name: a.read(name) for name in a.namelist()}
        members |= {name: b.read(name) for name in members if name.startswith("label/c")}
    with zipfile.ZipFile(paths[0], "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(
        DataError, match="not the file that manifest.json describes: it was swapped"
    ):
        read_cohort(output).stored("P0")
    run(scans, output)
    assert paths[0].read_bytes() == whole[0]


def test_an_inverted_label_is_a_warning(tmp_path, patient):
    scan = write_scan(tmp_path, patient, label=changed(patient[2], 1 - patient[2].data))
    meta, _ = prepare.prepare_case(scan, SETTINGS, tmp_path)
    assert any("of its field: is it the body, or" in warning for warning in meta["warnings"])


def test_a_tumour_beyond_the_pet_is_a_warning(tmp_path, patient):
    _, pet, label = patient
    top = int(np.argwhere(label.data)[:, 2].max())
    affine = pet.affine.copy()
    affine[:3, 3] += affine[:3, 2] * top
    scan = write_scan(tmp_path, patient, pet=Volume(pet.data[:, :, top:], affine))
    meta, _ = prepare.prepare_case(scan, SETTINGS, tmp_path)
    assert any("of the label lies outside the PET" in warning for warning in meta["warnings"])


def test_label_on_another_grid_goes_through_the_affines(tmp_path, patient):
    _, _, label = patient
    flipped = Volume(
        label.data[::-1], label.affine @ [[-1, 0, 0, 79], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    prepare.prepare_case(write_scan(tmp_path, patient, "A"), SETTINGS, tmp_path)
    prepare.prepare_case(write_scan(tmp_path, patient, "B", label=flipped), SETTINGS, tmp_path)
    a, b = (read_case(tmp_path / f"{case}.zarr.zip") for case in "AB")
    np.testing.assert_array_equal(a.label, b.label)


def test_other_cases_in_the_folder_are_refused(tmp_path, patient):
    scans = [write_scan(tmp_path, patient, case) for case in "AB"]
    run(scans, tmp_path / "out")
    with pytest.raises(DataError, match="not in the source: B"):
        run(scans[:1], tmp_path / "out")


def test_damaged_cohorts_are_refused(tmp_path, cohort_folder):
    with pytest.raises(DataError, match="no such folder.*isanet prepare hecktor.*make demo"):
        read_cohort(tmp_path / "absent")
    with pytest.raises(DataError, match="manifest.json"):
        read_cohort(tmp_path)
    content = (cohort_folder / "phantom_000.zarr.zip").read_bytes()
    (tmp_path / "bad.zarr.zip").write_bytes(content[:5000] + b"x" * 100 + content[5100:])
    with pytest.raises(DataError, match="case bad.*damaged"):
        read_case(tmp_path / "bad.zarr.zip")


def test_command_line_prepares_a_table(tmp_path, cohort_folder, capsys):
    command.main(
        [
            "table",
            "--source",
            str(cohort_folder / "scans" / "cases.csv"),
            "--output",
            str(tmp_path),
            "--size",
            "8",
            "--folds",
            "3",
            "--workers",
            "1",
        ]
    )
    assert "6 cases of 6 patients" in capsys.readouterr().out
    assert read_cohort(tmp_path).settings["fit"] == "resize"


def test_real_patient_keeps_its_tumour(tmp_path):
    source = real_data("sts")
    at = source / "STS_001"
    images = {"ct": at / "CT_image.nii.gz", "pet": at / "PET_image.nii.gz"}
    scan = Scan("STS_001", images, at / "CT_mask.nii.gz", "STS_001")
    settings = prepare.Settings(size=96, fit="resize")
    meta, _ = prepare.prepare_case(scan, settings, tmp_path)
    assert meta["volume_case_ml"] == pytest.approx(meta["volume_ml"], rel=0.01)
    case, pet = read_case(tmp_path / "STS_001.zarr.zip"), read_volume(scan.image("pet"))
    assert case.images["pet"].max() == pytest.approx(pet.data.max(), rel=0.1)


@pytest.mark.parametrize("year", [2020, 2021])
def test_hecktor_from_download_to_cases(tmp_path, patient, year, capsys):
    """Both layouts end to end; the organisers' boxes are LPS, the grid is centred on them."""
    folder = tmp_path / "download" / "hecktor_nii"
    rows = ["PatientID,x1,x2,y1,y2,z1,z2"]
    for number, case in enumerate(("CHGJ007", "CHUS010")):
        at = folder / case if year == 2020 else folder
        label = "ct_gtvt" if year == 2020 else "gtvt"
        for kind, volume in zip(("ct", "pt", label), patient, strict=True):
            write_volume(at / f"{case}_{kind}.nii.gz", volume)
        rows.append(f"{case},{-40 + number},{40 + number},-30,50,-45,35.5")
    name = "bbox.csv" if year == 2020 else "hecktor2021_bbox_training.csv"
    (tmp_path / "download" / name).write_text("\n".join(rows))
    command.main(["hecktor", "--source", str(tmp_path / "download"), "--output",
                  str(tmp_path / "cases"), "--size", "32", "--spacing-mm", "2.5", "--folds", "2",
                  "--workers", "1"])  # fmt: skip
    assert "2 cases of 2 patients" in capsys.readouterr().out
    cohort = read_cohort(tmp_path / "cases")
    assert cohort.settings == {
        "size": 32, "fit": "crop", "spacing_mm": 2.5, "images": {"ct": "ct", "pet": "pet"},
        "classes": {"tumour": [1]}, "ignore": [], "others": [],
        "region": "given",
    }  # fmt: skip
    assert [entry["centre"] for entry in cohort.cases.values()] == ["CHGJ", "CHUS"]
    meta = read_case(cohort.path("CHUS010")).meta
    centre = np.array(meta["affine"]) @ [15.5, 15.5, 15.5, 1]
    np.testing.assert_allclose(centre[:3], [-1, -10, -4.75])


@pytest.mark.parametrize(("target", "voxels"), [("gtvp", 1), ("gtvn", 2), ("both", 3), (None, 1)])
def test_later_hecktor_finds_the_head_and_has_nodes_too(tmp_path, target, voxels, capsys):
    source = tmp_path / "download"
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    ct = np.full((60, 60, 100), -1000, np.float32)
    ct[10:50, 10:50] = 40
    pet = np.ones(ct.shape, np.float32)
    pet[20:40, 20:40, 70:90] = 9  # the brain
    label = np.zeros(ct.shape, np.uint8)
    label[30, 36, 60], label[30, 36, 62:64] = 1, 2
    for case in ("CHUM-001", "MDA-002"):
        for kind, data in (("_CT", ct), ("_PT", pet), ("", label)):
            name = f"{case}_{kind}.nii.gz" if kind else f"{case}.nii.gz"
            write_volume(source / case / name, Volume(data, affine))
    arguments = ["hecktor", "--source", str(source), "--output", str(tmp_path / "cases")]
    arguments += ["--size", "36", "--spacing-mm", "4", "--folds", "2", "--workers", "1"]
    command.main(arguments + (["--target", target] if target else []))
    cohort = read_cohort(tmp_path / "cases")
    assert cohort.settings["region"] == "head"
    arguments[4] = str(tmp_path / "two")
    command.main([*arguments, "--classes", "gtvp=1", "gtvn=2"])
    for entry in read_cohort(tmp_path / "two").cases.values():
        assert entry["volumes_ml"] == pytest.approx({"gtvp": 0.064, "gtvn": 2 * 0.064})
    for entry in cohort.cases.values():
        assert entry["volume_ml"] == pytest.approx(voxels * 0.064)
        assert entry["volume_case_ml"] == pytest.approx(entry["volume_ml"])
        doubts = "no bone in the field", "smaller than 0.1 ml"  # of the made-up scans
        assert all(any(doubt in text for doubt in doubts) for text in entry["warnings"])
    meta = read_case(cohort.path("CHUM-001")).meta
    low = np.array(meta["affine"]) @ [-0.5, 35.5, 35.5, 1]
    lowest = 70 * 4
    # Smoothing lowers the brain's edge by two voxels.
    assert abs(low[2] - (lowest - 114)) < 9
    assert low[0] == pytest.approx(29.5 * 4 - 72, abs=1)
    capsys.readouterr()


def test_auto_recognises_and_prepares(tmp_path, patient, capsys):
    source = tmp_path / "Dataset001"
    for case in ("a", "b"):
        for name, volume in zip(
            (f"imagesTr/{case}_0000", f"imagesTr/{case}_0001", f"labelsTr/{case}"),
            patient,
            strict=True,
        ):
            write_volume(source / f"{name}.nii.gz", volume)
    (source / "dataset.json").write_text(
        '{"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "tumor": 1}}'
    )
    arguments = ["auto", "--source", str(source), "--output", str(tmp_path / "cases")]
    command.main([*arguments, "--size", "16", "--folds", "2", "--workers", "1"])
    shown = capsys.readouterr().out
    assert "Dataset001: nnunet" in shown
    assert "2 cases of 2 patients" in shown


def test_lesions_that_vanish_on_the_case_grid_are_told_one_by_one(tmp_path, patient):
    label = patient[2]
    data = np.zeros(label.data.shape, np.uint8)
    data[4:16, 4:16, 4:16] = 1
    data[30, 30, 30] = data[40, 12, 20] = 1
    scan = write_scan(tmp_path, patient, label=changed(label, data))
    meta, _ = prepare.prepare_case(scan, SETTINGS, tmp_path)
    ml = abs(np.linalg.det(label.affine[:3, :3])) / 1000
    assert (
        f"2 lesion(s) of the label are lost on the case's grid ({ml:.3f} ml, {ml:.3f} ml)"
        in (meta["warnings"])
    )
    found = read_case(tmp_path / "A.zarr.zip").label
    assert ndimage.label(found, np.ones((3, 3, 3)))[1] == 1


def test_a_mask_that_a_resampler_rounded_is_a_mask(tmp_path):
    data = np.zeros((4, 4, 4), np.float32)
    data[1:3] = 0.9999999
    write_volume(tmp_path / "a.nii", Volume(data, np.eye(4)))
    assert prepare.read_label(tmp_path / "a.nii", Classes(), case="A").data.sum() == 32
    write_volume(tmp_path / "b.nii", Volume(data * 0.99, np.eye(4)))
    with pytest.raises(DataError, match=r"label values 0, 0.98999"):
        prepare.read_label(tmp_path / "b.nii", Classes(), case="A")


def test_a_missing_label_is_its_cases_failure(tmp_path, patient, cohort_folder):
    scans = [write_scan(tmp_path, patient, case) for case in "ABC"]
    scans[1].label.unlink()
    lines = [
        "case,ct,pet,label",
        *(f"{s.case},{s.image('ct')},{s.image('pet')},{s.label}" for s in scans),
    ]
    table = tmp_path / "cases.csv"
    table.write_text("\n".join(lines))
    arguments = ["--source", str(table), "--workers", "1"]
    prepared = [
        "table",
        *arguments,
        "--output",
        str(tmp_path / "o"),
        "--size",
        "16",
        "--folds",
        "2",
    ]
    with pytest.raises(DataError, match="case B: no label"):
        command.main(prepared)
    command.main([*prepared, "--skip-bad"])
    assert sorted(case_of(p) for p in (tmp_path / "o").glob("*.zarr.zip")) == ["A", "C"]
    with pytest.raises(SystemExit):
        command.main(["check", *arguments, "--output", str(tmp_path / "check")])
    rows = (tmp_path / "check" / "check.csv").read_text().splitlines()
    assert len(rows) == 4
    assert [row.startswith("B") for row in rows if "no such file" in row] == [True]
