"""Agreement of two measurements of the same patients, as clinical papers show it beside DSC."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEAST = 3  # patients, of fewer there is no agreement
# Measure of a patient's row (`isanet_jax.quantify.patients`) -> its heading.
MEASURES = {
    **{"tmtv_ml": "TMTV ml", "tlg_g": "TLG g", "suv_max": "SUVmax", "suv_peak": "SUVpeak"},
    "lesions": "lesions",
}


class Agreement(NamedTuple):
    """Of predictions with references.

    Attributes:
        patients: how many have both.
        bias: mean difference, prediction - reference.
        low, high: limits of agreement, bias ∓ 1.96 SD of the differences (Bland & Altman 1986).
        icc: ICC(2,1), two-way random, absolute agreement, single measurement (Shrout & Fleiss).
        icc_low, icc_high: its 95 % interval (McGraw & Wong 1996).
        spearman: rank correlation; nan where one does not vary.
    """

    patients: int
    bias: float
    low: float
    high: float
    icc: float
    icc_low: float
    icc_high: float
    spearman: float


def agreement(prediction: Sequence[float], reference: Sequence[float]) -> Agreement | None:
    """The agreement of two measurements of each patient; None of fewer than `LEAST`.

    Args:
        prediction, reference: (n,), a patient at each place.
    """
    both = np.array([prediction, reference], float)
    both = both[:, np.isfinite(both).all(0)]
    count = both.shape[1]
    if count < LEAST:
        return None
    difference = both[0] - both[1]
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    varies = (np.ptp(both, axis=1) > 0).all()
    rank = float(stats.spearmanr(*both).statistic) if varies else float("nan")
    return Agreement(count, bias, bias - 1.96 * sd, bias + 1.96 * sd, *icc_2_1(both.T), rank)


def icc_2_1(values: np.ndarray) -> tuple[float, float, float]:
    """ICC(2,1) and its 95 % interval.

    Args:
        values: (n patients, k measurements).

    Returns:
        1, 1, 1 where each patient's measurements are equal; an interval of nan where patients do
        not differ.
    """
    n, k = values.shape
    mean = values.mean()
    rows = k * np.square(values.mean(1) - mean).sum() / (n - 1)
    columns = n * np.square(values.mean(0) - mean).sum() / (k - 1)
    rest = values - values.mean(1, keepdims=True) - values.mean(0) + mean
    error = np.square(rest).sum() / ((n - 1) * (k - 1))
    whole = rows + (k - 1) * error + k * (columns - error) / n
    if whole <= 0 or (error == 0 and columns == 0):
        return 1.0, 1.0, 1.0
    icc = np.float64((rows - error) / whole)
    # McGraw & Wong 1996, table 7, case 2A. Where patients hardly differ, or nothing else does, the
    # F distribution has no end, and the interval none: nan.
    with np.errstate(all="ignore"):
        a = k * icc / (n * (1 - icc))
        b = 1 + k * icc * (n - 1) / (n * (1 - icc))
        freedom = (a * columns + b * error) ** 2 / (
            (a * columns) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
        )
        upper_f = stats.f.ppf(0.975, n - 1, freedom)
        lower_f = stats.f.ppf(0.975, freedom, n - 1)
        spread = k * columns + (k * n - k - n) * error
        low = n * (rows - upper_f * error) / (upper_f * spread + n * rows)
        high = n * (lower_f * rows - error) / (spread + n * lower_f * rows)
    return float(icc), float(low), float(high)
