"""Body-weight SUV of a PET series from its DICOM attributes.

The rules are the vendor-neutral ones of QIBA's FDG-PET/CT profile (SUV computation, "happy path"
and its vendor branches). Every case that they do not cover is refused with the attribute and its
value: a wrong SUV looks like a right one.
"""

import datetime
import functools
import math
import re

import numpy as np

from isanet_jax.errors import DataError

_MEGA = 1e6
_LEAST_DOSE_BQ = 1e5  # below: the dose was written in MBq
# What the attributes can be of a patient, in their units; grams, minutes and centimetres are not.
_WEIGHT_KG, _HEIGHT_M, _DOSE_BQ = (0.3, 500.0), (0.2, 2.6), (1e6, 2e10)
# Half-lives of nuclides that PET is made with, s (ENSDF).
_HALF_LIVES_S = {
    "O-15": 122.24, "Rb-82": 76.38, "Cu-62": 580.0, "N-13": 597.9, "C-11": 1223.4, "Cu-60": 1422.0,
    "Ga-68": 4062.6, "F-18": 6586.2, "Cu-61": 12020.0, "Sc-44": 14292.0, "Cu-64": 45724.0,
    "Y-86": 53064.0, "Br-76": 58320.0, "Zr-89": 282276.0, "Y-90": 230760.0, "I-124": 360806.0,
    "Mn-52": 483062.0, "Ge-68": 2.3414e7, "Na-22": 8.2133e7,
}  # fmt: skip
_ELEMENTS = {
    "oxygen": "O", "rubidium": "Rb", "copper": "Cu", "nitrogen": "N", "carbon": "C", "gallium":
    "Ga", "fluor": "F", "scandium": "Sc", "yttrium": "Y", "bromine": "Br", "zirconium": "Zr",
    "iodine": "I", "manganese": "Mn", "germanium": "Ge", "sodium": "Na",
}  # fmt: skip
_HALF_LIFE_TOLERANCE = 0.03
_AGREEMENT = 1e-3  # of one attribute's values in several places
# Philips' SUV factor has its own decay reference and weight; a wrong unit is off by far more.
_PHILIPS_AGREEMENT = 2.0
_TOLERANCE_S = 1.0
# The longest from injection to scan, without and with its date (long-lived nuclides: days).
_HALF_LIVES, _HALF_LIVES_DATED, _SOON_S = 5, 10, 6 * 3600.0
_SAME_TIME_S = 60.0  # one time in two attributes, one of them by the minute
_PHILIPS_SUV, _PHILIPS_ACTIVITY = (0x7053, 0x1000), (0x7053, 0x1009)
_GE_REFERENCE = (0x0009, 0x100D)


def suv_factors(slices, *, case=None, file=None, notes=None) -> np.ndarray:
    """What each slice's rescaled values are multiplied by to be SUVbw (g/ml).

    Args:
        slices: pydicom datasets of one PET series (pixels are not needed).
        case, file: to name in errors.
        notes: list that gets what was assumed; None: not asked for.

    Returns:
        (len(slices),) float64.

    Raises:
        DataError: an attribute is missing, has a value that gives no SUVbw or that no patient's
            scan has, or has two values in several places; names it.
    """
    attributes = _Attributes(slices, case, file)
    corrections = attributes.words("CorrectedImage")
    decay = attributes.text("DecayCorrection")
    units = attributes.text("Units")
    if "ATTN" not in corrections:
        attributes.refuse("CorrectedImage", "ATTN among them", "Reconstruct with attenuation")
    if units == "GML":
        return np.full(len(slices), _from_suv(attributes, attributes.text("SUVType", "BW")))
    if units == "CM2ML":
        return np.full(len(slices), _from_suv(attributes, "BSA"))
    to_activity = 1.0
    if units == "CNTS":
        to_suv = _philips(attributes, _PHILIPS_SUV)
        to_activity = _philips(attributes, _PHILIPS_ACTIVITY)
        if not to_suv and not to_activity:
            attributes.refuse(
                "Units",
                "with CNTS, Philips' SUV factor (7053,1000) or activity factor (7053,1009) above 0",
            )
        if to_suv:
            factors = np.full(len(slices), to_suv)
            if to_activity:
                _check_philips(attributes, slices, decay, to_suv, to_activity)
            return factors
    elif units != "BQML":
        attributes.refuse("Units", "BQML, GML, CM2ML or CNTS")
    return to_activity * _from_activity(attributes, slices, decay, notes)


def _from_activity(attributes, slices, decay, notes):
    """SUVbw per Bq/ml of each slice: weight over the dose that is left of the injected one."""
    corrections = attributes.words("CorrectedImage")
    if decay not in ("NONE", "START", "ADMIN"):
        attributes.refuse("DecayCorrection", "NONE, START or ADMIN")
    if decay != "NONE" and "DECY" not in corrections:
        attributes.refuse("CorrectedImage", f"DECY among them, with DecayCorrection {decay}")
    weight_g = 1000 * attributes.positive("PatientWeight", _WEIGHT_KG, "kg")
    dose_bq = attributes.positive("RadionuclideTotalDose")
    if dose_bq < _LEAST_DOSE_BQ:
        dose_bq *= _MEGA
        if notes is not None:
            notes.append("RadionuclideTotalDose (0018,1074) was taken as MBq: it is below 1e5")
    if not _DOSE_BQ[0] <= dose_bq <= _DOSE_BQ[1]:
        attributes.refuse("RadionuclideTotalDose", "{:g} to {:g} Bq, or MBq".format(*_DOSE_BQ))
    half_life_s = _half_life(attributes)
    elapsed_s = np.array(_elapsed(attributes, slices, decay, math.log(2) / half_life_s))
    is_dated = attributes.get("RadiopharmaceuticalStartDateTime") is not None
    if notes is not None and half_life_s > _SOON_S and not (is_dated or decay == "ADMIN"):
        notes.append(
            "RadiopharmaceuticalStartDateTime (0018,1078) is missing: the injection was taken as "
            f"{elapsed_s[0] / 3600:.1f} h before the scan, and may be days earlier"
        )
    return weight_g / (dose_bq * 2.0 ** (-elapsed_s / half_life_s))


def _half_life(attributes):
    """The half-life, s, if it is that of the nuclide which the series names, or of any of PET."""
    half_life_s = attributes.positive("RadionuclideHalfLife")
    nuclide = attributes.nuclide()
    known = {nuclide: _HALF_LIVES_S[nuclide]} if nuclide else _HALF_LIVES_S
    if not any(abs(half_life_s / s - 1) <= _HALF_LIFE_TOLERANCE for s in known.values()):
        attributes.refuse(
            "RadionuclideHalfLife",
            f"seconds, {known[nuclide]:g} of {nuclide}"
            if nuclide
            else "seconds of a nuclide of PET, such as 6586.2 of F-18",
        )
    return half_life_s


class _Attributes:
    """A series' attributes, wherever they stand and the same in every place; refuses by tag."""

    def __init__(self, slices, case, file):
        self.slices, self.where = slices, {"case": case, "file": file}
        self.places = []
        for dataset in slices:
            self.places += [
                dataset, *(dataset.get("RadiopharmaceuticalInformationSequence") or ())
            ]  # fmt: skip

    def get(self, keyword):
        """The value found, or None where it is missing or empty everywhere.

        Raises:
            DataError: two places contradict each other.
        """
        values = [place.get(keyword) for place in self.places]
        values = [value for value in values if value not in (None, "")]
        for value in values[1:]:
            if not _agree(values[0], value):
                self.refuse(keyword, "the same value wherever it stands", value=values[0])
        return values[0] if values else None

    @functools.cached_property
    def zone(self):
        """The series' offset from UTC, such as +0100, or None; looked for once."""
        return self.get("TimezoneOffsetFromUTC")

    def nuclide(self):
        """The nuclide that the series names, as a key of `_HALF_LIVES_S`; None where it does not.

        From the code's meaning, such as "^18^Fluorine", "Fluorine F^18^" or "F-18".
        """
        for place in self.places:
            for code in place.get("RadionuclideCodeSequence") or ():
                meaning = str(code.get("CodeMeaning") or "").lower()
                mass = re.search(r"\d+", meaning)
                element = next((e for word, e in _ELEMENTS.items() if word in meaning), None)
                if element is None and (short := re.match(r"\W*([a-z]{1,2})\W*\d", meaning)):
                    element = short[1].capitalize()
                name = f"{element}-{mass[0]}" if element and mass else None
                if name in _HALF_LIVES_S:
                    return name
        return None

    def text(self, keyword, default=""):
        return str(self.get(keyword) or default).strip().upper()

    def words(self, keyword):
        value = self.get(keyword)
        return {value} if isinstance(value, str) else set(value or ())

    def positive(self, keyword, limits=(0.0, math.inf), unit=""):
        try:
            value = float(self.get(keyword) or 0)
        except (TypeError, ValueError):
            value = 0.0
        if not (value > 0 and math.isfinite(value)):
            self.refuse(keyword, "a number above 0")
        if not limits[0] <= value <= limits[1]:
            self.refuse(keyword, f"{limits[0]:g} to {limits[1]:g} {unit}")
        return value

    def refuse(self, keyword, wanted, action=None, value=None):
        from pydicom.datadict import tag_for_keyword

        tag = tag_for_keyword(keyword)
        value = self.get(keyword) if value is None else value
        shown = str(value)[:80]
        if "DateTime" in keyword:
            shown = f"...{shown[8:]}"  # the day is the patient's own
        state = "is missing" if value is None else f"is {shown!r}"
        raise DataError(
            f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X}) {state}: no body-weight SUV follows",
            wanted=wanted,
            action=action,
            **self.where,
        )


def _agree(a, b):
    """Whether two values of an attribute say the same."""
    try:
        first, second = float(a), float(b)
    except (TypeError, ValueError):
        return str(a).strip().upper() == str(b).strip().upper()
    return abs(first - second) <= _AGREEMENT * max(abs(first), abs(second))


def _from_suv(attributes, kind):
    """Factor from SUV of another normalisation to SUVbw: weight over what it normalises by."""
    if kind == "BW":
        return 1.0
    weight = attributes.positive("PatientWeight", _WEIGHT_KG, "kg")
    height_cm = 100 * attributes.positive("PatientSize", _HEIGHT_M, "m")
    if kind == "BSA":  # cm2/ml: Du Bois and Du Bois 1916, in m2
        return 1000 * weight / (1e4 * 0.007184 * weight**0.425 * height_cm**0.725)
    sex = attributes.text("PatientSex")
    if sex not in ("M", "F"):
        attributes.refuse("PatientSex", f"M or F, with SUVType {kind}")
    male = sex == "M"
    body_mass_index = weight / (height_cm / 100) ** 2
    squared = (weight / height_cm) ** 2
    masses = {  # kg; DICOM PS3.16 CID 85 names the formulas
        "LBM": 1.10 * weight - 120 * squared if male else 1.07 * weight - 148 * squared,
        "LBMJAMES128": 1.10 * weight - 128 * squared if male else 1.07 * weight - 148 * squared,
        "LBMJANMA": 9270 * weight / (6680 + 216 * body_mass_index)
        if male
        else 9270 * weight / (8780 + 244 * body_mass_index),
        "IBW": 48.0 + 1.06 * (height_cm - 152) if male else 45.5 + 0.91 * (height_cm - 152),
    }
    if kind not in masses:
        attributes.refuse("SUVType", f"BW, BSA, {', '.join(masses)}")
    if masses[kind] <= 0:
        attributes.refuse("PatientSize", f"a height for which {kind} of {weight:g} kg is above 0")
    return weight / masses[kind]


def _elapsed(attributes, slices, decay, decay_rate):
    """Seconds from the injection to what each slice's values are decay-corrected to."""
    if decay == "ADMIN":
        _check_injection(attributes, slices, decay_rate)
        return [0.0] * len(slices)
    starts = [_time(attributes, s, "Acquisition") for s in slices]
    if decay == "NONE":  # the values are means over the frame: what was there after T_ave
        references = [
            start + _seconds(_average_time(attributes, s, decay_rate))
            for start, s in zip(starts, slices, strict=True)
        ]
    else:
        references = [_reference(attributes, slices, starts, decay_rate)] * len(slices)
    half_life_s = math.log(2) / decay_rate
    # Each looks at every slice: once for all that share a reference.
    since = {
        time: _since_injection(attributes, time, half_life_s) for time in dict.fromkeys(references)
    }
    return [since[reference] for reference in references]


def _check_injection(attributes, slices, decay_rate):
    """Refuses an injection after the scan, or long before it, also where no time is computed by."""
    names = "RadiopharmaceuticalStartDateTime", "RadiopharmaceuticalStartTime"
    has_time = all(s.get("AcquisitionTime") or s.get("AcquisitionDateTime") for s in slices)
    if has_time and any(attributes.get(name) is not None for name in names):
        start = min(_time(attributes, s, "Acquisition") for s in slices)
        _since_injection(attributes, start, math.log(2) / decay_rate)


def _reference(attributes, slices, starts, decay_rate):
    """The time that a series with DecayCorrection START is corrected to."""
    earliest = min(starts)
    series = _time(attributes, slices[0], "Series")
    if series <= earliest + _seconds(_TOLERANCE_S):
        return series
    # The series was written later: its date and time are not the scan's.
    stated = slices[0].get(_GE_REFERENCE)
    if stated is not None and stated.value:
        value = stated.value.decode() if isinstance(stated.value, bytes) else str(stated.value)
        return _parse(attributes, value, "(0009,100D)")
    frame_s = [_frame_reference_s(attributes, s) for s in slices]
    first = starts.index(earliest)
    if frame_s[first] > 0:
        average = _average_time(attributes, slices[first], decay_rate)
        return earliest + _seconds(average - frame_s[first])
    return earliest


def _frame_reference_s(attributes, dataset):
    """FrameReferenceTime, s; 0 where there is none."""
    try:
        value = float(dataset.get("FrameReferenceTime") or 0) / 1000
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value < math.inf:
        attributes.refuse("FrameReferenceTime", "milliseconds from 0")
    return value


def _average_time(attributes, dataset, decay_rate):
    """T_ave: when, within a frame, the activity equals the frame's mean; seconds."""
    try:
        duration = float(dataset.get("ActualFrameDuration") or 0) / 1000
    except (TypeError, ValueError):
        duration = -1.0
    if duration <= 0:
        attributes.refuse("ActualFrameDuration", "milliseconds above 0")
    exposure = decay_rate * duration
    return math.log(exposure / -math.expm1(-exposure)) / decay_rate


def _since_injection(attributes, reference, half_life_s):
    full = attributes.get("RadiopharmaceuticalStartDateTime")
    clock = attributes.get("RadiopharmaceuticalStartTime")
    if full is not None:
        injection = _parse(attributes, str(full), "RadiopharmaceuticalStartDateTime (0018,1078)")
        if clock is not None:  # the day may have been shifted to hide it, not the time
            name = "RadiopharmaceuticalStartTime (0018,1072)"
            stated = _parse(attributes, f"{injection:%Y%m%d}{_clock(clock)}", name)
            _check_same(attributes, name, "RadiopharmaceuticalStartDateTime", stated, injection)
        if injection > reference:
            attributes.refuse(
                "RadiopharmaceuticalStartDateTime", f"a time before the scan's, {reference:%H:%M}"
            )
    else:
        if clock is None:
            attributes.refuse("RadiopharmaceuticalStartTime", "the time of injection")
        day = f"{attributes.get('SeriesDate') or ''}".strip()
        text = f"{day}{_clock(clock)}"
        injection = _parse(attributes, text, "RadiopharmaceuticalStartTime (0018,1072)")
        if injection > reference:
            injection -= datetime.timedelta(days=1)
    elapsed = (reference - injection).total_seconds()
    # A clock that is half a day off, or an injection after its scan, would be a factor of 100 here.
    half_lives, most = (_HALF_LIVES_DATED, math.inf) if full else (_HALF_LIVES, 86400.0)
    longest = min(max(half_lives * half_life_s, _SOON_S), most)
    if not 0 <= elapsed < longest:
        attributes.refuse(
            "RadiopharmaceuticalStartDateTime" if full else "RadiopharmaceuticalStartTime",
            f"at most {longest / 3600:.1f} h before the scan at {reference:%H:%M}, not "
            f"{elapsed / 3600:.1f} h",
        )
    return elapsed


def _check_same(attributes, name, other_name, stated, other):
    """Raises DataError where two attributes say two times of the day, whatever the day."""
    seconds = abs((stated - other).total_seconds()) % 86400
    if min(seconds, 86400 - seconds) > _SAME_TIME_S:
        raise DataError(
            f"{name} is {stated:%H:%M:%S} and {other_name} {other:%H:%M:%S}: no body-weight SUV "
            "follows",
            wanted="one time in both",
            **attributes.where,
        )


def _time(attributes, dataset, prefix):
    """A slice's Series or Acquisition date and time."""
    day, clock = dataset.get(f"{prefix}Date"), dataset.get(f"{prefix}Time")
    if prefix == "Acquisition" and dataset.get("AcquisitionDateTime"):
        full = _parse(attributes, str(dataset.AcquisitionDateTime), "AcquisitionDateTime")
        if not (day and clock):
            return full
        stated = _parse(attributes, f"{day}{_clock(clock)}", "AcquisitionDate and AcquisitionTime")
        _check_same(attributes, "AcquisitionTime", "AcquisitionDateTime", stated, full)
    if not day:
        attributes.refuse(f"{prefix}Date", "a date")
    if not clock:
        attributes.refuse(f"{prefix}Time", "a time")
    return _parse(attributes, f"{day}{_clock(clock)}", f"{prefix}Date and {prefix}Time")


def _clock(value):
    """A TM, also as ACR-NEMA wrote it, HH:MM:SS."""
    text = str(value).strip()
    return text.replace(":", "") if re.match(r"\d\d:\d\d(:\d\d|$)", text) else text


def _parse(attributes, text, name):
    """YYYYMMDDHH[MM[SS[.F]]], in the series' own time zone where an offset from UTC is another's.

    Of another length something is lost, as the first zero of 012500, and it may be any time. Where
    the series does not say its zone, scanner and injection are taken to share it.
    """
    digits, sign, offset = re.fullmatch(r"(?s)([^+-]*)([+-]?)(.*)", text.strip()).groups()
    whole, dot, fraction = digits.strip().partition(".")
    try:
        is_date = re.fullmatch(r"\d{8}(\d\d){1,3}", whole)
        if not is_date or (dot and len(whole) < 14 and fraction.strip("0")):
            raise ValueError(whole)
        parsed = datetime.datetime.strptime(whole.ljust(14, "0")[:14], "%Y%m%d%H%M%S")
        if sign and attributes.zone is not None:
            parsed += _offset(str(attributes.zone).strip()) - _offset(sign + offset)
        return parsed + _seconds(float(f"0.{fraction or 0}"))
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{name} cannot be read as date and time",
            wanted="YYYYMMDD and HHMMSS, with all of their zeros",
            **attributes.where,
        ) from error


def _offset(text):
    """The time that a zone, such as +0100, is ahead of UTC."""
    return datetime.datetime.strptime(text, "%z").utcoffset()


def _seconds(value):
    return datetime.timedelta(seconds=value)


def _philips(attributes, tag):
    """The number above 0 of a private attribute, the same in all slices; 0 where none has it."""
    values = [_private(dataset, tag) for dataset in attributes.slices]
    stated = [value for value in values if value > 0 and math.isfinite(value)]
    name = f"({tag[0]:04X},{tag[1]:04X})"
    if not stated:
        return 0.0
    if len(stated) < len(values) or not all(_agree(stated[0], value) for value in stated):
        raise DataError(
            f"Philips' factor {name} is {min(values):g} to {max(values):g} within the series",
            wanted="one number above 0 in all slices",
            **attributes.where,
        )
    return stated[0]


def _check_philips(attributes, slices, decay, to_suv, to_activity):
    """Raises DataError where Philips' two factors and the dose say different SUVs."""
    try:
        computed = to_activity * _from_activity(attributes, slices, decay, None)
    except DataError:
        return  # nothing to compare with: what the SUV factor says counts
    ratio = float(np.median(computed)) / to_suv
    if not 1 / _PHILIPS_AGREEMENT <= ratio <= _PHILIPS_AGREEMENT:
        raise DataError(
            f"Philips' SUV factor (7053,1000) is {to_suv:g} per count, and {ratio * to_suv:g} "
            "follows from its activity factor (7053,1009) with PatientWeight and "
            "RadionuclideTotalDose: one of them is wrong",
            wanted=f"that they agree within a factor of {_PHILIPS_AGREEMENT:g}",
            **attributes.where,
        )


def _private(dataset, tag):
    element = dataset.get(tag)
    try:
        value = element.value if element is not None else 0
        return float(value.decode() if isinstance(value, bytes) else value or 0)
    except (TypeError, ValueError):
        return 0.0
