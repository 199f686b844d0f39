import numpy as np
import pytest

from isanet_jax.errors import DataError
from isanet_jax.scans import sources

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
    scans = sources.read_hecktor(tmp_path)
    assert [s.case for s in scans] == ["CHGJ007", "CHUS001"]
    assert [s.centre for s in scans] == ["CHGJ", "CHUS"]
    # LPS to RAS: x and y change their sign.
    np.testing.assert_allclose(scans[0].box_mm, [[-134, -164, -30], [10, -20, 114]])


def test_hecktor_without_data_says_how_to_get_it(tmp_path):
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(DataError, match="hecktor.grand-challenge.org.*make demo"):
            sources.read_hecktor(folder)


def test_hecktor_names_missing_files_and_boxes(tmp_path):
    folder = tmp_path / "hecktor_nii"
    touch(folder / "CHGJ007_ct.nii.gz", folder / "CHGJ007_gtvt.nii.gz")
    with pytest.raises(DataError, match="CHGJ007.*no bounding-box CSV"):
        sources.read_hecktor(tmp_path)
    (tmp_path / "bbox.csv").write_text(BOXES)
    with pytest.raises(DataError, match="case CHGJ007: no PET: .*CHGJ007_pt.nii.gz"):
        sources.read_hecktor(tmp_path)
    (tmp_path / "bbox.csv").write_text(BOXES.replace("-10,134", "134,134"))
    with pytest.raises(DataError, match="CHGJ007.*empty box"):
        sources.read_hecktor(tmp_path)


def test_sts_layout_lists_every_missing_file(tmp_path):
    touch(*(tmp_path / "STS_001" / f"{n}.nii.gz" for n in ("CT_image", "PET_image", "CT_mask")))
    assert [s.case for s in sources.read_sts(tmp_path)] == ["STS_001"]
    touch(tmp_path / "STS_002" / "PET_image.nii.gz")
    with pytest.raises(DataError, match="STS_002: no CT.*STS_002: no label"):
        sources.read_sts(tmp_path)


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
    (scan,) = sources.read_table(path)
    assert (scan.patient, scan.centre, scan.fold) == ("P1", "Basel", 3)
    assert scan.ct == tmp_path / "a" / "ct.nii.gz"
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
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    touch(tmp_path / "f")
    with pytest.raises(DataError, match=message):
        sources.read_table(table(tmp_path, text))
