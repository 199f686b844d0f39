import json

import numpy as np
import pytest

from isanet_jax.datasets import read, recognise
from isanet_jax.datasets.hecktor import read_hecktor
from isanet_jax.datasets.layout import check_files
from isanet_jax.datasets.nnunet import nnunet_classes, read_nnunet
from isanet_jax.datasets.sts import read_sts
from isanet_jax.datasets.table import read_table
from isanet_jax.errors import DataError

BOXES = "PatientID,x1,x2,y1,y2,z1,z2\nCHGJ007,-10,134,20,164,-30,114\nCHUS001,0,144,0,144,0,144\n"


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.mark.parametrize("year", [2020, 2021])
def test_hecktor_layouts(tmp_path, year):
    folder = tmp_path / "hecktor_nii"
    for case in ("CHGJ007", "CHUS001"):
        at = folder / case if year == 2020 else folder
        label = "ct_gtvt" if year == 2020 else "gtvt"
        touch(*(at / f"{case}_{kind}.nii.gz" for kind in ("ct", "pt", label)))
    (tmp_path / ("bbox.csv" if year == 2020 else "hecktor2021_bbox_training.csv")).write_text(BOXES)
    scans = read_hecktor(tmp_path)
    assert [s.case for s in scans] == ["CHGJ007", "CHUS001"]
    assert [s.centre for s in scans] == ["CHGJ", "CHUS"]
    # LPS to RAS: x and y change their sign.
    np.testing.assert_allclose(scans[0].box_mm, [[-134, -164, -30], [10, -20, 114]])


def test_hecktor_without_data_says_how_to_get_it(tmp_path):
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(DataError, match="hecktor.grand-challenge.org.*make demo"):
            read_hecktor(folder)


def test_hecktor_names_missing_files_and_boxes(tmp_path):
    folder = tmp_path / "hecktor_nii"
    touch(folder / "CHGJ007_ct.nii.gz", folder / "CHGJ007_gtvt.nii.gz")
    with pytest.raises(DataError, match="CHGJ007.*no bounding-box CSV"):
        read_hecktor(tmp_path)
    (tmp_path / "bbox.csv").write_text(BOXES)
    with pytest.raises(DataError, match="case CHGJ007: no PET: .*CHGJ007_pt.nii.gz"):
        check_files(read_hecktor(tmp_path))
    (tmp_path / "bbox.csv").write_text(BOXES.replace("-10,134", "134,134"))
    with pytest.raises(DataError, match="CHGJ007.*the box .* is empty"):
        read_hecktor(tmp_path)


def test_sts_layout_lists_every_missing_file(tmp_path):
    touch(*(tmp_path / "STS_001" / f"{n}.nii.gz" for n in ("CT_image", "PET_image", "CT_mask")))
    assert [s.case for s in read_sts(tmp_path)] == ["STS_001"]
    touch(tmp_path / "STS_002" / "PET_image.nii.gz")
    with pytest.raises(DataError, match="STS_002: no CT.*STS_002: no label"):
        check_files(read_sts(tmp_path))


def table(folder, text):
    path = folder / "cases.csv"
    path.write_text(text)
    return path


def test_table_paths_are_relative_to_it(tmp_path):
    touch(*(tmp_path / "a" / n for n in ("ct.nii.gz", "pet.nii.gz", "m.nii.gz")))
    path = table(
        tmp_path,
        "case,ct,pet,label,patient,centre,fold,x1,x2,y1,y2,z1,z2\n"
        "A1,a/ct.nii.gz,a/pet.nii.gz,a/m.nii.gz,P1,Basel,3,0,1,2,3,4,5\n",
    )
    (scan,) = read_table(path)
    assert (scan.patient, scan.centre, scan.fold) == ("P1", "Basel", 3)
    path.write_text(path.read_text().replace("a/", "a\\"))  # as Windows writes paths
    (of_windows,) = read_table(path)
    assert of_windows.images == scan.images
    assert of_windows.label == scan.label
    assert scan.images["ct"] == tmp_path / "a" / "ct.nii.gz"
    np.testing.assert_allclose(scan.box_mm, [[-1, -3, 4], [0, -2, 5]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,ct,pet\nA,c,p\n", "no column label"),
        ("case,ct,pet,label\n", "no cases"),
        ("case,ct,pet,label\nA,f,,f\n", "case A.*line 2 has no pet"),
        ("case,ct,pet,label\nA,f,f,f\nA,f,f,f\n", "case A.*two cases with this ID"),
        ("case,ct,pet,label\n../A,f,f,f\n", "cannot name a file"),
        ("case,ct,pet,label,fold\nA,f,f,f,x\n", "case A.*fold 'x'"),
        ("case,ct,pet,label\nA,f,g,f\n", "case A: no PET"),
        ("case,ct,pet,label\nP1,f,f,f\np1,f,f,f\n", "case p1.*case P1 in capitals alone"),
        ("case,ct,pet,label,x1,x2\nA,f,f,f,1,2\n", "case A.*line 2 has a box without y1, y2, z1"),
        (
            "case,ct,pet,label,pet\nA,f,f,f,f\n",
            "more than one column pet; expected each column once",
        ),
        ("case,ct,pet,label\n\nA,f,f,a,b\n", "line 3 has 5 cells, and there are 4 columns"),
        ("case,ct,pet,label\n\n,,,\nA,f,,f\n", "line 4 has no pet"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    touch(tmp_path / "f")
    with pytest.raises(DataError, match=message):
        check_files(read_table(table(tmp_path, text)))


@pytest.mark.parametrize("year", [2022, 2025])
def test_later_hecktor_layouts_have_no_boxes(tmp_path, year):
    for case in ("CHUM-001", "MDA-002"):
        at = tmp_path / ("imagesTr" if year == 2022 else case)
        label = tmp_path / "labelsTr" if year == 2022 else at
        touch(at / f"{case}__CT.nii.gz", at / f"{case}__PT.nii.gz", label / f"{case}.nii.gz")
    scans = read_hecktor(tmp_path)
    assert [(s.case, s.centre, s.box_mm) for s in scans] == [
        ("CHUM-001", "CHUM", None),
        ("MDA-002", "MDA", None),
    ]
    assert all(s.label.is_file() for s in scans)
    assert recognise(tmp_path) == "hecktor"
    scans[0].label.unlink()
    with pytest.raises(DataError, match="CHUM-001: no label"):
        check_files(read_hecktor(tmp_path))


def nnunet(folder, channels, labels, cases=("fdg_0a1b2c3d4e_20-01", "fdg_0a1b2c3d4e_21-01", "x")):
    for case in cases:
        touch(*(folder / "imagesTr" / f"{case}_{n:04d}.nii.gz" for n in range(2)))
        touch(folder / "labelsTr" / f"{case}.nii.gz")
    text = json.dumps({"channel_names": channels, "labels": labels, "file_ending": ".nii.gz"})
    (folder / "dataset.json").write_text(text)
    return folder


def test_nnunet_channels_are_named_by_dataset_json(tmp_path):
    folder = nnunet(tmp_path, {"0": "PET", "1": "CT"}, {"background": 0, "tumor": 1, "node": 2})
    scans = read_nnunet(folder)
    assert [s.images["ct"].name for s in scans][-1] == "x_0001.nii.gz"
    assert [s.images["pet"].name for s in scans][-1] == "x_0000.nii.gz"
    # autoPET: two scans of one patient.
    assert [s.patient for s in scans] == ["0a1b2c3d4e", "0a1b2c3d4e", "x"]
    assert recognise(folder) == "nnunet"
    assert nnunet_classes(folder).values == {"tumor": (1,), "node": (2,)}
    nnunet(folder, {"0": "T1", "1": "T2"}, {})
    with pytest.raises(
        DataError, match="channels.*T1.*one channel in channel_names that is the CT"
    ):
        read_nnunet(folder)


def test_files_that_dataset_json_names_elsewhere_are_those(tmp_path):
    """Labels of a second reader in `training` (nnU-Net 1), and every file in `dataset` (2)."""
    folder = nnunet(tmp_path / "a", {"0": "CT", "1": "PET"}, {}, cases=("A", "B"))
    touch(folder / "labelsTr2" / "A.nii.gz", folder / "more" / "c1", folder / "more" / "c2")
    description = json.loads((folder / "dataset.json").read_text())
    description["training"] = [
        {"image": "./imagesTr/A.nii.gz", "label": "./labelsTr2/A.nii.gz"},
        {"image": "./imagesTr/B.nii.gz", "label": "./labelsTr/gone.nii.gz"},
        "imagesTr/D.nii.gz",
    ]
    description["dataset"] = {
        "C": {"images": ["more/c1", "more/c2"], "label": "labelsTr/B.nii.gz"},
        "D": {"images": 1},
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    a, b, c = read_nnunet(folder)
    assert a.label == folder / "labelsTr2" / "A.nii.gz"
    assert a.images["ct"] == folder / "imagesTr" / "A_0000.nii.gz"
    assert b.label == folder / "labelsTr" / "B.nii.gz"
    assert (c.images["pet"], c.label) == (folder / "more" / "c2", b.label)


def test_a_case_of_which_any_file_is_there_is_one(tmp_path, capsys):
    """A copy that broke off is told of, and not trained on without a word."""
    folder = nnunet(tmp_path / "nnunet", {"0": "CT", "1": "PET"}, {}, cases=("A", "B", "C", "D"))
    (folder / "imagesTr" / "A_0000.nii.gz").unlink()
    (folder / "labelsTr" / "B.nii.gz").unlink()
    for path in (folder / "imagesTr").glob("C_*"):
        path.unlink()
    with pytest.raises(DataError, match=r"A: no CT.*B: no label.*C: no CT.*C: no PET"):
        check_files(read_nnunet(folder))
    description = json.loads((folder / "dataset.json").read_text()) | {"numTraining": 5}
    (folder / "dataset.json").write_text(json.dumps(description))
    read(folder)
    assert "dataset.json says numTraining 5, and 4 cases are here" in capsys.readouterr().out

    year_2022, year_2021 = tmp_path / "2022", tmp_path / "2021"
    images, labels = year_2022 / "imagesTr", year_2022 / "labelsTr"
    touch(images / "A__PT.nii.gz", images / "B__CT.nii.gz", labels / "C.nii.gz")
    touch(year_2022 / "imagesTs" / "D__CT.nii.gz", labels / "A.nii.gz")
    with pytest.raises(DataError, match=r"A: no CT: \S+; .*B: no PET.*B: no label.*C: no CT"):
        check_files(read_hecktor(year_2022))
    touch(year_2021 / "hecktor_nii" / "CHGJ007_pt.nii.gz")
    touch(year_2021 / "hecktor_nii" / "CHUS001_gtvt.nii.gz")
    (year_2021 / "bbox.csv").write_text(BOXES)
    with pytest.raises(DataError, match=r"CHGJ007: no CT.*CHGJ007: no label.*CHUS001: no CT"):
        check_files(read_hecktor(year_2021))
    (year_2021 / "hecktor_nii" / "CHUS001_gtvt.nii.gz").unlink()
    read(year_2021, "hecktor")
    assert "boxes of 1 patients without files here: CHUS001" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "values", "ignore"),
    [
        ({"0": "background", "1": "lesion"}, {"tumour": (1,)}, ()),  # nnU-Net 1
        (
            {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
            {"whole": (1, 2), "core": (2,)},
            (3,),
        ),
        ({}, {"tumour": (1,)}, ()),
        # As people write them: numbers of other kinds, other scripts, names that become equal.
        ({"Background": 0, "a": 1.0, "b": "2"}, {"a": (1,), "b": (2,)}, ()),
        ({"background": 0, "原发灶": 1, "淋巴结": 2}, {"label_1": (1,), "label_2": (2,)}, ()),
        ({"background": 0, "PSMA+": 1, "PSMA-": 2}, {"PSMA_1": (1,), "PSMA_2": (2,)}, ()),
        ({"background": 0, "x" * 40: 1, "b": 2}, {"x" * 24: (1,), "b": (2,)}, ()),
        # Regions in an order of their own, as regions_class_order allows.
        ({"background": 0, "core": 2, "whole": [1, 2]}, {"whole": (1, 2), "core": (2,)}, ()),
    ],
)
def test_nnunet_labels(tmp_path, labels, values, ignore):
    classes = nnunet_classes(nnunet(tmp_path, {}, labels))
    assert (classes.values, classes.ignore) == (values, ignore)


def test_regions_that_no_mask_can_show_are_refused_with_what_can_be_done(tmp_path):
    labels = {"background": 0, "tumour": [1, 2], "gtvp": 1, "gtvn": 2}
    with pytest.raises(
        DataError, match=r"dataset.json: labels.*Leave out tumour, which is gtvp, g"
    ):
        nnunet_classes(nnunet(tmp_path, {}, labels))


def test_names_as_autopet_distributes_them_are_cases(tmp_path):
    names = (
        "fdg_04606080a0_02-20-2003-NA-PET-CT Ganzkoerper  primaer mit KM-22538",
        "fdg_04606080a0_05-14-2004-NA-Unspecified CT ABDOMEN-36442",
        "psma_95b833d46f153cd2_2017-11-18",
    )
    folder = nnunet(tmp_path, {"0": "CT", "1": "PET"}, {"background": 0, "tumor": 1}, cases=names)
    notes = []
    scans = read_nnunet(folder, notes=notes)
    assert check_files(scans) == scans
    assert [scan.case for scan in scans] == [
        "fdg_04606080a0_02-20-2003-NA-PET-CT_Ganzkoerper_primaer_mit_KM-22538",
        "fdg_04606080a0_05-14-2004-NA-Unspecified_CT_ABDOMEN-36442",
        "psma_95b833d46f153cd2_2017-11-18",
    ]
    patients = [scan.patient for scan in scans]
    assert patients == ["04606080a0", "04606080a0", "95b833d46f153cd2"]
    assert "2 cases have names with other signs than IDs may have" in notes[0]


def test_nnunet_channels_are_taken_by_name_or_as_the_only_ones_of_their_kind(tmp_path):
    folder = nnunet(tmp_path, {"0": "T1", "1": "SUV"}, {})
    scans = read_nnunet(folder, {"pet": "pet", "t1": "mr"})
    assert [path.name for path in scans[-1].images.values()] == ["x_0001.nii.gz", "x_0000.nii.gz"]
    with pytest.raises(DataError, match=r"one channel in channel_names that is the MR \(mr\)"):
        read_nnunet(nnunet(tmp_path, {"0": "T1", "1": "T2"}, {}), {"mr": "mr"})
    both = read_nnunet(tmp_path, {"mr_t1": "mr", "mr_t2": "mr"})
    assert [path.name for path in both[-1].images.values()] == ["x_0000.nii.gz", "x_0001.nii.gz"]
    # Two of one name: the second was taken for the CT.
    with pytest.raises(DataError, match="one channel in channel_names that is the CT"):
        read_nnunet(nnunet(tmp_path, {"0": "CT", "1": "CT"}, {}), {"ct": "ct"})


def test_layouts_are_recognised(tmp_path):
    touch(tmp_path / "sts" / "STS_001" / "CT_image.nii.gz", tmp_path / "h" / "A_ct.nii.gz")
    assert recognise(tmp_path / "sts") == "sts"
    assert recognise(tmp_path / "h") == "hecktor"
    assert recognise(tmp_path / "cases.csv") == "table"
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "deep" / "IM0").write_bytes(b"\0" * 128 + b"DICM")
    assert recognise(tmp_path / "d") == "dicom"
    touch(tmp_path / "z" / "a.zip")
    assert recognise(tmp_path / "z") == "dicom"
    touch(tmp_path / "other" / "a.txt")
    with pytest.raises(DataError, match="no layout that is known"):
        recognise(tmp_path / "other")


def test_files_that_macos_puts_beside_others_are_passed_over(tmp_path):
    for case in ("CHUM-001", "CHUM-002"):
        for name in (f"imagesTr/{case}__CT", f"imagesTr/{case}__PT", f"labelsTr/{case}"):
            path = tmp_path / "h" / f"{name}.nii.gz"
            touch(path, path.with_name(f"._{path.name}"))
    touch(tmp_path / "h" / "imagesTs" / "MDA-201__CT.nii.gz")  # test images have no labels
    assert [s.case for s in read_hecktor(tmp_path / "h")] == ["CHUM-001", "CHUM-002"]
    folder = nnunet(tmp_path / "n", {"0": "CT", "1": "PET"}, {"background": 0, "tumor": 1})
    for path in list(folder.rglob("*.nii.gz")):
        touch(path.with_name(f"._{path.name}"))
    assert len(read_nnunet(folder)) == 3


@pytest.mark.parametrize(
    "change",
    [{"channel_names": ["CT", "PET"]}, {"labels": ["background", "tumor"]}],
)
def test_a_dataset_json_with_lists_is_read_as_it_is_meant(tmp_path, change):
    folder = nnunet(tmp_path, {"0": "CT", "1": "PET"}, {"background": 0, "tumor": 1})
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert len(read_nnunet(folder)) == 3
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as Windows' editors begin a file
    assert len(read_nnunet(folder)) == 3
    path.write_text(path.read_text(encoding="utf-8-sig"))
    assert nnunet_classes(folder).values == {"tumour": (1,)}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"channel_names": "CT"}))
    with pytest.raises(DataError, match="dataset.json.*channels"):
        read_nnunet(folder)


@pytest.mark.parametrize("separator", [", ", ";", "\t", " ; "])
def test_tables_as_spreadsheets_write_them(tmp_path, separator):
    rows = (("case", "ct", "pet", "label"), ("A", "f", "g", "h"), ("B", "f", "g", "h"))
    path = table(tmp_path, "".join(separator.join(row) + "\n" for row in rows))
    scans = read_table(path)
    assert [(s.case, s.images["ct"].name, s.label.name) for s in scans] == [
        ("A", "f", "h"),
        ("B", "f", "h"),
    ]


def test_columns_that_are_not_read_are_told(tmp_path, capsys):
    """A `center` that nobody reads would be no centre, and a `patient_id` no patient."""
    text = "case,ct,pet,label,patient_id,center,fold\nA,f,g,h,P1,Basel,0\n"
    read(table(tmp_path, text))
    shown = capsys.readouterr().out
    assert "columns that are not read: patient_id, center (known: case, ct, pet, label," in shown
    read(table(tmp_path, text.replace("patient_id,center", "patient,centre")))
    assert "not read" not in capsys.readouterr().out


def test_a_missing_column_is_named_with_the_separator(tmp_path):
    with pytest.raises(DataError, match=r"no column pet.*found case, ct, label, separated by ';'"):
        read_table(table(tmp_path, "case;ct;label\nA;f;h\n"))
