"""SR TID 1500: what is written is what highdicom and dcmtk read."""

import shutil
import subprocess

import highdicom
import numpy as np
import pydicom
import pytest

from isanet_jax.classes import Code
from isanet_jax.dicom import Maker
from isanet_jax.dicom.image import one_series, read_image
from isanet_jax.dicom.report import write_measurements
from isanet_jax.dicom.write import write_segmentation
from isanet_jax.quantify.lesions import lesions
from isanet_jax.quantify.person import Person
from isanet_jax.volume import Volume
from tests.dicom import make_dicom

MAKER = Maker("mine", "ab" * 32, uids=("1.2.3.4", "1.2.3.5"))
SECRETS = (b"DOE", b"JANE", b"MRN-1", b"19610203", b"20200102")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(folder with a.seg.dcm and a.sr.dcm, rows by class, slices of CT and PET)."""
    folder = tmp_path_factory.mktemp("sr")
    shared = make_dicom.study("DOE^JANE", "NO", "MRN-1")
    make_dicom.write_patient(folder / "in", shared)
    ct, slices = read_image(one_series(folder / "in" / "a", "CT"))
    pet, pet_slices = read_image(one_series(folder / "in" / "b", "PET"))
    masks = {"gtvp": np.zeros(ct.data.shape, bool), "gtvn": np.zeros(ct.data.shape, bool)}
    masks["gtvp"][2:12, 2:12, 1:7] = True
    masks["gtvn"][15:18, 15:18, 2:4] = masks["gtvn"][15:18, 2:6, 2:5] = True
    person = Person(80.0, 1.8, "M")
    rows = {n: lesions(Volume(mask, ct.affine), pet, person) for n, mask in masks.items()}
    codes = {"gtvp": Code("SCT", "86049000", "Neoplasm, Primary")}
    seg = MAKER._replace(uids=("1.2.3.6", "1.2.3.7"))
    write_segmentation(folder / "a.seg.dcm", masks, slices, codes=codes, maker=seg)
    write_measurements(
        folder / "a.sr.dcm", rows, slices, segmentation=seg.uids, pet_slices=pet_slices,
        codes=codes, maker=MAKER,
    )  # fmt: skip
    return folder, rows, pet_slices, slices


def test_highdicom_reads_a_group_for_each_lesion(written):
    folder, rows, pet_slices, slices = written
    report = highdicom.sr.srread(folder / "a.sr.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    expected = [(number, row) for number, of in enumerate(rows.values(), 1) for row in of]
    assert len(groups) == len(expected) == 3
    seg = pydicom.dcmread(folder / "a.seg.dcm")
    uids = set()
    for group, (segment, row) in zip(groups, expected, strict=True):
        uids.add(group.tracking_uid)
        assert group.referenced_segment.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert group.referenced_segment.referenced_segment_numbers == [segment]
        found = {}
        for one in group.get_measurements():
            derivation = one.derivation.meaning if one.derivation else ""
            found[one.name.value, derivation] = (one.value, one.unit.value)
        assert found["118565006", ""] == (pytest.approx(row["mtv_ml"], rel=1e-9), "cm3")
        if "suv_max" in row:
            names = {"max": "Maximum", "mean": "Mean", "peak": "Peak Value Within ROI"}
            for key, derivation in names.items():
                value, unit = found["126401", derivation]
                assert value == pytest.approx(row[f"suv_{key}"], rel=1e-9)
                assert unit == "g/ml{SUVbw}"
                value, unit = found["126405", derivation]
                assert value == pytest.approx(row[f"sul_{key}"], rel=1e-9)
            assert found["126033", ""][0] == pytest.approx(row["tlg_g"], rel=1e-9)
    assert len(uids) == 3  # a tracking UID of its own
    # The library has the slices at the lesions; all of the PET is evidence.
    library = str(report.content)
    heights = [float(one.ImagePositionPatient[2]) for one in pet_slices]
    wanted = {int(np.argmin(np.abs(np.array(heights) - row["z_mm"]))) for _, row in expected}
    named = {i for i, one in enumerate(pet_slices) if one.SOPInstanceUID in library}
    assert named == wanted
    everything = str(report)
    # Each instance of the CT is evidence of its own series, and the SEG of its own.
    series = {}
    for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in report.get(name) or ():
            for one in study.ReferencedSeriesSequence:
                uid, count = str(one.SeriesInstanceUID), len(one.ReferencedSOPSequence)
                series[uid] = series.get(uid, 0) + count
    first = slices[0]
    assert series[first.SeriesInstanceUID] == len(slices)
    assert all(one.SOPInstanceUID in everything for one in pet_slices)
    assert groups[0].finding_type.value == "86049000"
    assert (report.SOPInstanceUID, report.SeriesInstanceUID) == ("1.2.3.5", "1.2.3.4")
    assert report.ManufacturerModelName == "mine"
    assert "weights abababababababab" in str(report.SoftwareVersions)
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")


def test_it_carries_no_identity(written):
    folder, *_ = written
    content = (folder / "a.sr.dcm").read_bytes()
    assert not [secret for secret in SECRETS if secret in content]


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="needs dcmtk")
def test_dcmtk_reads_it(written):
    folder, rows, *_ = written
    command = [shutil.which("dsrdump"), folder / "a.sr.dcm"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "E:" not in done.stderr
    assert done.stdout.count("Tracking Unique Identifier") == 3
    assert f"{rows['gtvp'][0]['mtv_ml']:.6g}"[:6] in done.stdout
