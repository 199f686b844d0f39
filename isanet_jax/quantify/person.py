"""The patient's body, by which uptake and distances are put in proportion."""

from typing import NamedTuple

_HEIGHT_M, _WEIGHT_KG = (0.4, 2.5), (1.0, 400.0)  # of people
# Lean body mass, 9270 W / (a + b BMI): Janmahasatian 2005.
_LEAN = {"M": (6680.0, 216.0), "F": (8780.0, 244.0)}


class Person(NamedTuple):
    """What is known of a patient's body; None: it is not.

    Attributes:
        weight_kg, height_m: as measured for the scan.
        sex: M or F.
    """

    weight_kg: float | None = None
    height_m: float | None = None
    sex: str | None = None

    @property
    def surface_m2(self) -> float | None:
        """Body surface (Mosteller), √(weight kg · height cm / 3600)."""
        if self.weight_kg is None or self.height_m is None:
            return None
        return (self.weight_kg * self.height_m * 100 / 3600) ** 0.5

    @property
    def lean_share(self) -> float | None:
        """Lean body mass over weight, by which SUVbw becomes SUL (Janmahasatian 2005)."""
        if self.weight_kg is None or self.height_m is None or self.sex not in _LEAN:
            return None
        a, b = _LEAN[self.sex]
        return 9270 / (a + b * self.weight_kg / self.height_m**2)


def person_of(header) -> Person:
    """What a DICOM dataset says of the patient's body; what no person has is not known."""

    def number(name, bounds):
        try:
            value = float(header.get(name) or 0)
        except (TypeError, ValueError):
            return None
        return value if bounds[0] <= value <= bounds[1] else None

    sex = str(header.get("PatientSex") or "").strip().upper()
    return Person(
        number("PatientWeight", _WEIGHT_KG),
        number("PatientSize", _HEIGHT_M),
        sex if sex in _LEAN else None,
    )
