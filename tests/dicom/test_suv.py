import copy
import math

import numpy as np
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from isanet_jax.dicom.image import one_series, read_image
from isanet_jax.dicom.series import find_series, lenient
from isanet_jax.dicom.structures import read_region, region_names
from isanet_jax.dicom.suv import suv_factors
from isanet_jax.errors import DataError
from tests.conftest import real_data
from tests.dicom.make_dicom import pet_dataset

HALF_LIFE = 6586.2
NO_CLOCK = {"RadiopharmaceuticalStartTime": None}


def factor(case=None, **changes):
    with lenient():  # as `read_image` does
        return suv_factors([pet_dataset(**changes)], case=case)[0]


def expected(elapsed_s, dose=3.5e8, weight=70.0):
    return weight * 1000 / (dose * 2 ** (-elapsed_s / HALF_LIFE))


def test_activity_is_corrected_from_injection_to_series_time():
    assert factor() == pytest.approx(expected(3600))
    assert factor(DecayCorrection="ADMIN") == pytest.approx(expected(0))
    assert factor(RadionuclideTotalDose=350) == pytest.approx(expected(3600))  # MBq


def test_injection_before_midnight_and_full_times():
    late = {"SeriesTime": "003000", "AcquisitionTime": "003000"}
    assert factor(**late, RadiopharmaceuticalStartTime="233000") == pytest.approx(expected(3600))
    full = {"RadiopharmaceuticalStartDateTime": "20200102093000.00", **NO_CLOCK}
    assert factor(**full) == pytest.approx(expected(1800))
    with pytest.raises(DataError, match=r"\(0018,1078\).*before the scan") as error:
        factor(RadiopharmaceuticalStartDateTime="20200102103000", **NO_CLOCK)
    assert "20200102" not in str(error.value)  # the day is the patient's


def test_a_series_time_after_the_scan_is_not_the_reference():
    """A series that was written later: GE's tag, else the frame's own reference, else the start."""
    later = {"SeriesTime": "150000"}
    assert factor(**later) == pytest.approx(expected(3600))
    frame = {**later, "FrameReferenceTime": 30000.0}
    rate = math.log(2) / HALF_LIFE
    average = math.log(rate * 120 / (1 - math.exp(-rate * 120))) / rate
    assert factor(**frame) == pytest.approx(expected(3600 + average - 30))
    ge = pet_dataset(**later)
    ge.add(DataElement((0x0009, 0x100D), "DT", "20200102095000.00"))
    assert suv_factors([ge])[0] == pytest.approx(expected(3000))


def test_one_reference_for_all_bed_positions():
    """Using each slice's own acquisition time would inflate later beds."""
    beds = [pet_dataset(AcquisitionTime=t) for t in ("100000", "100300", "100600")]
    np.testing.assert_allclose(suv_factors(beds), expected(3600))
    corrected = [
        pet_dataset(AcquisitionTime=t, DecayCorrection="NONE", CorrectedImage=["ATTN"])
        for t in ("100000", "100600")
    ]
    first, second = suv_factors(corrected)
    assert second / first == pytest.approx(2 ** (360 / HALF_LIFE))


def test_other_units():
    assert factor(Units="GML") == 1
    assert factor(Units="GML", SUVType="BW") == 1
    male = {"PatientSize": 1.8, "PatientSex": "M", "PatientWeight": 80.0}
    lean = 1.10 * 80 - 128 * (80 / 180) ** 2
    assert factor(Units="GML", SUVType="LBMJAMES128", **male) == pytest.approx(80 / lean)
    area_cm2 = 1e4 * 0.007184 * 80**0.425 * 180**0.725
    assert factor(Units="CM2ML", **male) == pytest.approx(80000 / area_cm2)
    assert factor(Units="GML", SUVType="IBW", **male) == pytest.approx(80 / (48 + 1.06 * 28))
    philips = pet_dataset(Units="CNTS")
    philips.add(DataElement((0x7053, 0x1000), "DS", "0.0005"))
    assert suv_factors([philips])[0] == pytest.approx(0.0005)
    philips = pet_dataset(Units="CNTS")
    philips.add(DataElement((0x7053, 0x1009), "DS", "2.0"))
    assert suv_factors([philips])[0] == pytest.approx(2 * expected(3600))


def test_a_time_that_stands_twice_is_one_time():
    both = {"RadiopharmaceuticalStartDateTime": "20200102090000.0"}
    assert factor(**both) == factor()
    assert factor(**both, RadiopharmaceuticalStartTime="090030") == factor()  # by the minute
    with pytest.raises(DataError, match=r"\(0018,1072\) is 08:30:00 and .*DateTime 09:00:00"):
        factor(**both, RadiopharmaceuticalStartTime="083000")
    assert factor(AcquisitionDateTime="20200102100000") == factor()
    with pytest.raises(DataError, match="AcquisitionTime is 10:00:00 and .* 11:00:00"):
        factor(AcquisitionDateTime="20200102110000")


def test_a_time_with_another_offset_from_utc_is_the_series_own():
    """A workstation that notes the injection in UTC: the dose was an hour off, or refused."""
    zone = {"TimezoneOffsetFromUTC": "+0100"}
    for text in ("20200102080000+0000", "20200102030000.5-0500", "20200102090000+0100"):
        full = {"RadiopharmaceuticalStartDateTime": text}
        assert factor(**zone, **full) == pytest.approx(factor(), rel=1e-4)  # and its clock agrees
        assert factor(**zone, **full, **NO_CLOCK) == pytest.approx(factor(), rel=1e-4)
    without = factor(RadiopharmaceuticalStartDateTime="20200102090000+0000", **NO_CLOCK)
    assert without == pytest.approx(factor())
    with pytest.raises(DataError, match=r"\(0018,1078\) cannot be read as date and time"):
        factor(**zone, RadiopharmaceuticalStartDateTime="20200102090000+1", **NO_CLOCK)


def philips(*slices):
    """Datasets in counts with Philips' private factors (SUV, activity); None leaves one out."""
    made = []
    for factors in slices:
        made.append(pet_dataset(Units="CNTS"))
        for element, value in zip((0x1000, 0x1009), factors, strict=True):
            if value is not None:
                made[-1].add(DataElement((0x7053, element), "DS", value))
    return made


def test_philips_factors_contradict_neither_each_other_nor_the_dose():
    right = 2 * expected(3600)
    agreeing = philips((f"{1.1 * right:.9g}", "2.0"))
    assert suv_factors(agreeing)[0] == pytest.approx(1.1 * right)
    for wrong, message in (
        (philips((f"{1000 * right:.9g}", "2.0")), r"\(7053,1000\).*\(7053,1009\)"),
        (philips(("0.0005", None), ("0.0006", None)), r"\(7053,1000\) is 0.0005 to 0.0006"),
        (philips(("0.0005", None), (None, None)), r"\(7053,1000\) is 0 to 0.0005"),
        (philips(("-1", "-2")), r"7053,1000"),
    ):
        with pytest.raises(DataError, match=message):
            suv_factors(wrong)
    # Without a dose, there is nothing to compare the SUV factor with.
    del agreeing[0].RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose
    assert suv_factors(agreeing)[0] == pytest.approx(1.1 * right)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CorrectedImage": ["DECY"]}, r"CorrectedImage \(0028,0051\).*DECY.*ATTN"),
        ({"CorrectedImage": ["ATTN"]}, r"CorrectedImage \(0028,0051\).*DECY among them"),
        ({"Units": "PROPCNTS"}, r"Units \(0054,1001\) is 'PROPCNTS'"),
        ({"Units": "CNTS"}, r"Units \(0054,1001\) is 'CNTS'.*7053,1000"),
        ({"Units": None}, r"Units \(0054,1001\) is missing"),
        ({"PatientWeight": None}, r"PatientWeight \(0010,1030\) is missing"),
        ({"PatientWeight": 0.0}, r"PatientWeight \(0010,1030\) is '0"),
        ({"RadionuclideTotalDose": None}, r"RadionuclideTotalDose \(0018,1074\) is missing"),
        ({"RadionuclideHalfLife": 0.0}, r"RadionuclideHalfLife \(0018,1075\)"),
        ({"RadiopharmaceuticalStartTime": None}, r"\(0018,1072\) is missing"),
        ({"DecayCorrection": "OTHER"}, r"DecayCorrection \(0054,1102\) is 'OTHER'"),
        ({"AcquisitionTime": None}, r"AcquisitionTime \(0008,0032\) is missing"),
        ({"Units": "GML", "SUVType": "LBM"}, r"PatientSize \(0010,1020\) is missing"),
        ({"Units": "GML", "SUVType": "X", "PatientSize": 1.8, "PatientSex": "M"}, "SUVType.*'X'"),
        ({"Units": "CM2ML", "PatientSize": 0.0}, r"PatientSize \(0010,1020\)"),
        ({"SeriesTime": "ten"}, "SeriesDate and SeriesTime cannot be read"),
        # Minutes, grams, centimetres, kBq: each gives SUVs that look like some.
        ({"RadionuclideHalfLife": 109.77}, r"RadionuclideHalfLife \(0018,1075\) is '109.77'.*F-18"),
        ({"PatientWeight": 70000.0}, r"PatientWeight \(0010,1030\) is '70000.0'.*500 kg"),
        ({"Units": "CM2ML", "PatientSize": 180.0}, r"PatientSize \(0010,1020\) is '180.0'"),
        ({"RadionuclideTotalDose": 350000.0}, r"RadionuclideTotalDose \(0018,1074\) is '350000.0'"),
        ({"RadionuclideTotalDose": 3.5e11}, r"RadionuclideTotalDose \(0018,1074\)"),
    ],
)
def test_what_gives_no_suv_is_refused_by_tag_and_value(changes, message):
    with pytest.raises(DataError, match=message):
        factor(case="A", **changes)


@pytest.mark.parametrize("meaning", ["^18^Fluorine", "Fluorine F^18^", "F-18", "18F"])
def test_the_half_life_is_that_of_the_named_nuclide(meaning):
    code = Dataset()
    code.CodeMeaning = meaning
    dataset = pet_dataset(RadionuclideHalfLife=1223.4)  # of C-11
    suv_factors([dataset])
    dataset.RadiopharmaceuticalInformationSequence[0].RadionuclideCodeSequence = [code]
    if meaning == "18F":
        code.CodeMeaning = "F 18"
    with pytest.raises(DataError, match=r"\(0018,1075\) is '1223.4'.*6586.2 of F-18"):
        suv_factors([dataset])


@pytest.mark.parametrize(
    ("meaning", "name", "half_life_s"),
    [
        ("Ga-68", "Ga-68", 4062.6), ("^68^Gallium", "Ga-68", 4062.6), ("Zr-89", "Zr-89", 282276.0),
        ("Cu 64", "Cu-64", 45724.0), ("C-11", "C-11", 1223.4), ("I^124^", "I-124", 360806.0),
    ],
)  # fmt: skip
def test_a_short_name_is_a_nuclide_of_one_letter_or_two(meaning, name, half_life_s):
    code = Dataset()
    code.CodeMeaning = meaning
    dataset = pet_dataset(RadionuclideHalfLife=HALF_LIFE)  # of F-18
    dataset.RadiopharmaceuticalInformationSequence[0].RadionuclideCodeSequence = [code]
    with pytest.raises(DataError, match=f"seconds, {half_life_s:g} of {name}"):
        suv_factors([dataset])
    own = pet_dataset(RadionuclideHalfLife=half_life_s)
    own.RadiopharmaceuticalInformationSequence[0].RadionuclideCodeSequence = [code]
    assert suv_factors([own])


def test_values_that_contradict_each_other_are_refused():
    """In the series' slices, and in its places: which is right cannot be known."""
    with pytest.raises(DataError, match="PatientWeight.*the same value wherever it stands"):
        suv_factors([pet_dataset(), pet_dataset(PatientWeight=71.0)])
    twice = pet_dataset()
    item = copy.deepcopy(twice.RadiopharmaceuticalInformationSequence[0])
    item.RadionuclideTotalDose = 3.4e8
    twice.RadiopharmaceuticalInformationSequence.append(item)
    with pytest.raises(DataError, match="RadionuclideTotalDose.*the same value wherever"):
        suv_factors([twice])
    item.RadionuclideTotalDose = 3.5e8 * (1 + 1e-5)  # another rounding
    assert suv_factors([twice])[0] == pytest.approx(expected(3600), rel=1e-4)


def test_a_dose_that_is_taken_as_mbq_is_said():
    notes = []
    suv_factors([pet_dataset(RadionuclideTotalDose=350)], notes=notes)
    assert notes == ["RadionuclideTotalDose (0018,1074) was taken as MBq: it is below 1e5"]
    suv_factors([pet_dataset()], notes=notes)
    assert len(notes) == 1


def test_a_scan_days_after_the_injection_of_a_long_lived_nuclide():
    zirconium = {"RadionuclideHalfLife": 282276.0}
    three_days = {"RadiopharmaceuticalStartDateTime": "20191230100000", **NO_CLOCK}
    found = factor(**zirconium, **three_days)
    assert found == pytest.approx(70e3 / (3.5e8 * 2 ** (-3 * 86400 / 282276.0)))
    with pytest.raises(DataError, match=r"\(0018,1078\).*at most 18.3 h .*, not 72.0 h"):
        factor(**three_days)  # of F-18 nothing would be left
    notes = []
    suv_factors([pet_dataset(**zirconium)], notes=notes)
    assert notes == [
        "RadiopharmaceuticalStartDateTime (0018,1078) is missing: the injection was taken as 1.0 h "
        "before the scan, and may be days earlier"
    ]


@pytest.mark.parametrize(("clock", "hours"), [("103000", "23.5"), ("210000", "13.0")])
def test_an_injection_that_cannot_have_been_then_is_refused(clock, hours):
    """After the scan, and half a day off: neither is the day before's."""
    with pytest.raises(DataError, match=rf"\(0018,1072\).*at most 9.1 h .*10:00, not {hours} h"):
        factor(RadiopharmaceuticalStartTime=clock)


def test_digital_reference_objects_read_their_suv():
    folder = real_data("suv_dro")
    for place in sorted(folder.iterdir()):
        series, _ = find_series(place)
        (pet,) = [s for s in series if s.kind == "PET"]
        (structures,) = [s for s in series if s.kind == "RTSTRUCT"]
        mask, _ = read_region(structures, region_names(structures.first)[0], [pet])
        values = read_image(pet)[0].data[mask.data]
        found = values.min(), np.median(values), values.max()
        np.testing.assert_allclose(found, (0.2, 1.0, 4.0), atol=0.005, err_msg=place.name)


def test_a_raw_series_reads_the_stated_range():
    folder = real_data("sts_raw_pet") / "STS_001"
    pet, _ = read_image(one_series(folder / "image", "PET"))
    series, _ = find_series(folder)
    (structures,) = [s for s in series if s.kind == "RTSTRUCT"]
    mask, on = read_region(structures, "GTV_Mass", [s for s in series if s.kind == "PET"])
    assert on.kind == "PET"
    values = pet.data[mask.data]
    assert values.size == 5095
    assert 7.9 <= values.max() <= 8.0
    assert 0.15 <= values.min() <= 0.20


BAD_TIMES = ("9", "12500", "1", "90000", "9000.5", "0900.5", "noon", "25", "9:00")
GOOD_TIMES = ("09", "0900", "090000", "090000.000000", " 090000 ", "09:00", "09:00:00")


@pytest.mark.parametrize("clock", BAD_TIMES)
@pytest.mark.parametrize("name", ["RadiopharmaceuticalStart", "Acquisition", "Series"])
def test_a_time_that_lost_a_digit_is_none(clock, name):
    """12500 is no time: 01:25:00 without its zero, or 12:50:0?"""
    with pytest.raises(DataError, match="cannot be read as date and time.*with all of their zeros"):
        factor(**{f"{name}Time": clock})


@pytest.mark.parametrize("clock", GOOD_TIMES)
def test_a_time_may_be_written_in_these_ways(clock):
    assert factor(RadiopharmaceuticalStartTime=clock) == pytest.approx(expected(3600))


@pytest.mark.parametrize("decay", ["START", "ADMIN", "NONE"])
@pytest.mark.parametrize(
    "injection",
    [
        {"RadiopharmaceuticalStartTime": "103000"},
        {"RadiopharmaceuticalStartTime": "210000"},
        {"RadiopharmaceuticalStartDateTime": "20200102103000", **NO_CLOCK},
        {"RadiopharmaceuticalStartDateTime": "20240102093000", **NO_CLOCK},
        {"RadiopharmaceuticalStartDateTime": "20191220093000", **NO_CLOCK},
        {"RadiopharmaceuticalStartTime": "93000"},
        {"RadiopharmaceuticalStartDateTime": "2020010", **NO_CLOCK},
    ],
)
def test_whatever_values_are_corrected_to_the_injection_was_before_the_scan(decay, injection):
    more = {"ActualFrameDuration": 120000} if decay == "NONE" else {}
    with pytest.raises(DataError, match="RadiopharmaceuticalStart"):
        factor(DecayCorrection=decay, **injection, **more)


def test_without_a_time_of_injection_values_of_the_administration_are_suv():
    assert factor(DecayCorrection="ADMIN", **NO_CLOCK) == pytest.approx(expected(0))
    assert factor(DecayCorrection="ADMIN", AcquisitionTime=None) == pytest.approx(expected(0))


@pytest.mark.parametrize("value", [-5.0, "1e400"])
def test_a_frame_reference_time_that_is_none_is_refused(value):
    with pytest.raises(DataError, match=r"FrameReferenceTime \(0054,1300\)"):
        factor(SeriesTime="113000", FrameReferenceTime=value)
