"""Body-weight SUV of a PET series from its DICOM attributes.

The rules are the vendor-neutral ones of QIBA's FDG-PET/CT profile (SUV computation, "happy path"
and its vendor branches). Every case that they do not cover is refused with the attribute and its
value: a wrong SUV looks like a right one.
"""

import datetime
import math

import numpy as np

from isanet_jax.errors import DataError

_MEGA = 1e6
_LEAST_DOSE_BQ = 1e5  # below: the dose was written in MBq
_TOLERANCE_S = 1.0
_PHILIPS_SUV, _PHILIPS_ACTIVITY = (0x7053, 0x1000), (0x7053, 0x1009)
_GE_REFERENCE = (0x0009, 0x100D)


def suv_factors(slices, *, case=None, file=None) -> np.ndarray:
    """What each slice's rescaled values are multiplied by to be SUVbw (g/ml).

    Args:
        slices: pydicom datasets of one PET series (pixels are not needed).
        case, file: to name in errors.

    Returns:
        (len(slices),) float64.

    Raises:
        DataError: an attribute is missing or has a value that gives no SUVbw; names both.
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
    to_activity = np.ones(len(slices))
    if units == "CNTS":
        factors = np.array([_private(s, _PHILIPS_SUV) for s in slices])
        if (factors > 0).all():
            return factors
        to_activity = np.array([_private(s, _PHILIPS_ACTIVITY) for s in slices])
        if not (to_activity > 0).all():
            attributes.refuse(
                "Units",
                "with CNTS, Philips' SUV factor (7053,1000) or activity factor (7053,1009) above 0",
            )
    elif units != "BQML":
        attributes.refuse("Units", "BQML, GML, CM2ML or CNTS")
    if decay not in ("NONE", "START", "ADMIN"):
        attributes.refuse("DecayCorrection", "NONE, START or ADMIN")
    if decay != "NONE" and "DECY" not in corrections:
        attributes.refuse("CorrectedImage", f"DECY among them, with DecayCorrection {decay}")
    weight_g = 1000 * attributes.positive("PatientWeight")
    dose_bq = attributes.positive("RadionuclideTotalDose")
    if dose_bq < _LEAST_DOSE_BQ:
        dose_bq *= _MEGA
    half_life_s = attributes.positive("RadionuclideHalfLife")
    elapsed_s = np.array(_elapsed(attributes, slices, decay, math.log(2) / half_life_s))
    return to_activity * weight_g / (dose_bq * 2.0 ** (-elapsed_s / half_life_s))


class _Attributes:
    """A series' attributes, the same in every slice; refuses by tag and value."""

    def __init__(self, slices, case, file):
        self.slices, self.where = slices, {"case": case, "file": file}
        sequence = slices[0].get("RadiopharmaceuticalInformationSequence") or [None]
        self.places = [p for p in (slices[0], sequence[0]) if p is not None]

    def get(self, keyword):
        """The first value found, or None where it is missing or empty."""
        for place in self.places:
            value = place.get(keyword)
            if value not in (None, ""):
                return value
        return None

    def text(self, keyword, default=""):
        return str(self.get(keyword) or default).strip().upper()

    def words(self, keyword):
        value = self.get(keyword)
        return {value} if isinstance(value, str) else set(value or ())

    def positive(self, keyword):
        try:
            value = float(self.get(keyword) or 0)
        except (TypeError, ValueError):
            value = 0.0
        if not (value > 0 and math.isfinite(value)):
            self.refuse(keyword, "a number above 0")
        return value

    def refuse(self, keyword, wanted, action=None):
        from pydicom.datadict import tag_for_keyword

        tag = tag_for_keyword(keyword)
        value = self.get(keyword)
        shown = str(value)[:80]
        if "DateTime" in keyword:
            shown = f"...{shown[8:]}"  # the day is the patient's own
        found = "is missing" if value is None else f"is {shown!r}"
        raise DataError(
            f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X}) {found}: no body-weight SUV follows",
            wanted=wanted,
            action=action,
            **self.where,
        )


def _from_suv(attributes, kind):
    """Factor from SUV of another normalisation to SUVbw: weight over what it normalises by."""
    if kind == "BW":
        return 1.0
    weight = attributes.positive("PatientWeight")  # kg
    height_cm = 100 * attributes.positive("PatientSize")
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
        return [0.0] * len(slices)
    starts = [_time(attributes, s, "Acquisition") for s in slices]
    if decay == "NONE":  # the values are means over the frame: what was there after T_ave
        references = [
            start + _seconds(_average_time(attributes, s, decay_rate))
            for start, s in zip(starts, slices, strict=True)
        ]
    else:
        references = [_reference(attributes, slices, starts, decay_rate)] * len(slices)
    return [_since_injection(attributes, reference) for reference in references]


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
    frame_s = [float(s.get("FrameReferenceTime") or 0) / 1000 for s in slices]
    first = starts.index(earliest)
    if frame_s[first] > 0:
        average = _average_time(attributes, slices[first], decay_rate)
        return earliest + _seconds(average - frame_s[first])
    return earliest


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


def _since_injection(attributes, reference):
    full = attributes.get("RadiopharmaceuticalStartDateTime")
    if full is not None:
        injection = _parse(attributes, str(full), "RadiopharmaceuticalStartDateTime (0018,1078)")
        if injection > reference:
            attributes.refuse(
                "RadiopharmaceuticalStartDateTime", f"a time before the scan's, {reference:%H:%M}"
            )
    else:
        clock = attributes.get("RadiopharmaceuticalStartTime")
        if clock is None:
            attributes.refuse("RadiopharmaceuticalStartTime", "the time of injection")
        day = f"{attributes.get('SeriesDate') or ''}".strip()
        text = f"{day}{str(clock).strip()}"
        injection = _parse(attributes, text, "RadiopharmaceuticalStartTime (0018,1072)")
        if injection > reference:
            injection -= datetime.timedelta(days=1)
    elapsed = (reference - injection).total_seconds()
    if not 0 <= elapsed < 86400:
        attributes.refuse(
            "RadiopharmaceuticalStartTime", f"at most a day before the scan, not {elapsed:.0f} s"
        )
    return elapsed


def _time(attributes, dataset, prefix):
    """A slice's Series or Acquisition date and time."""
    day, clock = dataset.get(f"{prefix}Date"), dataset.get(f"{prefix}Time")
    if prefix == "Acquisition" and not (day and clock) and dataset.get("AcquisitionDateTime"):
        return _parse(attributes, str(dataset.AcquisitionDateTime), "AcquisitionDateTime")
    if not day:
        attributes.refuse(f"{prefix}Date", "a date")
    if not clock:
        attributes.refuse(f"{prefix}Time", "a time")
    return _parse(attributes, f"{day}{clock}", f"{prefix}Date and {prefix}Time")


def _parse(attributes, text, name):
    """YYYYMMDDHHMM[SS[.F]] with an offset from UTC left out: scanner and injection share it."""
    digits = text.strip().split("+")[0].split("-")[0]
    whole, _, fraction = digits.partition(".")
    try:
        parsed = datetime.datetime.strptime(whole.ljust(14, "0")[:14], "%Y%m%d%H%M%S")
        return parsed + _seconds(float(f"0.{fraction or 0}"))
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{name} cannot be read as date and time", wanted="YYYYMMDD and HHMMSS",
            **attributes.where,
        ) from error  # fmt: skip


def _seconds(value):
    return datetime.timedelta(seconds=value)


def _private(dataset, tag):
    element = dataset.get(tag)
    try:
        value = element.value if element is not None else 0
        return float(value.decode() if isinstance(value, bytes) else value or 0)
    except (TypeError, ValueError):
        return 0.0
