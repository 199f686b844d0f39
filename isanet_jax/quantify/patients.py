"""What a patient's lesions are together."""

from collections.abc import Mapping

import numpy as np

from isanet_jax.quantify.person import Person
from isanet_jax.quantify.reference import Reference, deauville, percist_threshold

ALL = "all"  # class of a row that is of all classes together
COLUMNS = (
    *("case", "class", "lesions", "tmtv_ml", "tlg_g", "suv_max", "suv_peak", "largest_ml"),
    *("dmax_mm", "sdmax_per_m", "sul_peak", "liver_mean", "liver_sd", "liver_max", "blood_mean"),
    *("blood_sd", "blood_max", "percist_threshold", "percist_measurable", "deauville"),
    *("weight_kg", "height_m", "sex", "seconds", "remark"),
)


def patient(
    rows: list[dict],
    person: Person | None = None,
    references: Mapping[str, Reference] | None = None,
) -> dict:
    """A row of a patient; one without lesions has one, too.

    Args:
        rows: of `isanet_jax.quantify.lesions.lesions`.
        person: the patient's body.
        references: by name, of `isanet_jax.quantify.reference.REGIONS`.

    Returns:
        `COLUMNS` without `case` and `class`, as far as they are known. `tmtv_ml`, `tlg_g`: sums
        over the lesions. `suv_max`, `suv_peak`, `sul_peak`: the highest. `dmax_mm`: the largest
        distance between two lesions' centroids (Cottereau 2020), 0 of one lesion; `sdmax_per_m`:
        Dmax over body surface. `percist_threshold`: of SULpeak where SUL is known, else of SUVpeak.
    """
    person, references = person or Person(), references or {}
    hottest = {
        name: max((row[name] for row in rows if name in row), default=None)
        for name in ("suv_max", "suv_peak", "sul_peak")
    }
    row = {
        "lesions": len(rows),
        "tmtv_ml": float(sum(row["mtv_ml"] for row in rows)),
        "tlg_g": float(sum(row.get("tlg_g", 0.0) for row in rows)),
        "largest_ml": max((row["mtv_ml"] for row in rows), default=0.0),
        "dmax_mm": _dmax(rows),
        **{name: value for name, value in hottest.items() if value is not None},
        **{name: value for name, value in person._asdict().items() if value is not None},
    }
    if surface := person.surface_m2:
        row["sdmax_per_m"] = row["dmax_mm"] / 1000 / surface
    for name, region in references.items():
        row |= {f"{name}_{key}": getattr(region, key) for key in ("mean", "sd", "max")}
    by = "liver" if "liver" in references else next(iter(references), None)
    if by:
        lean = person.lean_share
        row["percist_threshold"] = percist_threshold(by, references[by], lean or 1.0)
        peak = row.get("sul_peak" if lean else "suv_peak", 0.0)
        row["percist_measurable"] = "yes" if peak >= row["percist_threshold"] else "no"
    if {"liver", "blood"} <= references.keys():
        row["deauville"] = deauville(hottest["suv_max"], references["liver"], references["blood"])
    unmeasured = sum("suv_max" not in row for row in rows)
    if unmeasured and "suv_max" in row:
        row["remark"] = f"{unmeasured} lesion(s) without a PET voxel: not in TLG and SUV"
    return row


def _dmax(rows):
    places = np.array([[row[f"{axis}_mm"] for axis in "xyz"] for row in rows]).reshape(-1, 3)
    if len(places) < 2:
        return 0.0
    return float(np.linalg.norm(places[:, None] - places[None], axis=-1).max())
