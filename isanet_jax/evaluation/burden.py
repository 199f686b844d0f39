"""Tumour burden of predictions beside that of references: what clinical papers show beside DSC."""

from collections.abc import Mapping

import numpy as np

from isanet_jax.quantify.agreement import LEAST, MEASURES, Agreement, agreement
from isanet_jax.quantify.lesions import lesions
from isanet_jax.quantify.patients import patient
from isanet_jax.volume import Volume

_SIDES = ("prediction", "reference")


def burden(mask: np.ndarray, affine: np.ndarray, pet: Volume) -> dict[str, float]:
    """Measure (`isanet_jax.quantify.agreement.MEASURES`) -> value of a patient.

    Args:
        mask: bool, of all classes together.
        affine: (4, 4) of its grid.
        pet: SUV, on any grid.

    Returns:
        of a patient without a lesion, SUVmax and SUVpeak are 0.
    """
    row = patient(lesions(Volume(mask, affine), pet))
    return {name: float(row.get(name, 0.0)) for name in MEASURES}


def burdens(prediction: Mapping, reference: Mapping, affine, pet: Volume) -> dict[str, dict]:
    """`prediction` and `reference` -> burden, of masks by class on one grid."""
    both = zip(_SIDES, (prediction, reference), strict=True)
    return {side: burden(np.logical_or.reduce([*of.values()]), affine, pet) for side, of in both}


def agreements(of_cases: Mapping[str, Mapping]) -> dict[str, Agreement]:
    """Measure -> agreement, of cases' `burdens`; {} of too few."""
    found = {
        name: agreement(*([of[side][name] for of in of_cases.values()] for side in _SIDES))
        for name in MEASURES
    }
    return {name: one for name, one in found.items() if one is not None}


def as_rows(found: Mapping[str, Agreement]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows of text) of a table."""
    heads = ["measure", "patients", "bias", "limits of agreement", "ICC(2,1)", "95 %", "Spearman"]
    rows = [
        [
            MEASURES[name],
            str(one.patients),
            f"{one.bias:+.3g}",
            f"{one.low:.3g} to {one.high:.3g}",
            f"{one.icc:.3f}",
            f"{one.icc_low:.3f} to {one.icc_high:.3f}",
            f"{one.spearman:.3f}",
        ]
        for name, one in found.items()
    ]
    return heads, rows


def as_markdown(of_cases: Mapping[str, Mapping]) -> str:
    """A section of report.md."""
    found = agreements(of_cases)
    if not found:
        return f"Of fewer than {LEAST} patients there is no agreement."
    heads, rows = as_rows(found)
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines) + (
        "\n\nPrediction minus reference, all classes together: bias, bias ∓ 1.96 SD (Bland & "
        "Altman), ICC(2,1) with interval, rank correlation."
    )


def differences(of_cases: Mapping[str, Mapping]) -> dict:
    """Bland–Altman plots for a page: viewer/charts.js."""
    panels = [
        {
            "name": MEASURES[name],
            "bias": one.bias,
            "limits": [one.low, one.high],
            "cases": [
                [case, (p + r) / 2, p - r]
                for case, of in of_cases.items()
                for p, r in [[of[side][name] for side in _SIDES]]
            ],
        }
        for name, one in agreements(of_cases).items()
    ]
    heading = "Agreement of the tumour burden (Bland–Altman)"
    return {"kind": "differences", "heading": heading, "panels": panels}
