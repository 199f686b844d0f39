"""Paired comparison of methods over the same cases."""

import numpy as np
from scipy import stats

_RESAMPLES = 10_000
_CONFIDENCE = 0.95


def paired_test(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Whether a differs from b, case by case.

    Two infinite values are equal. The p-value is of the two-sided Wilcoxon signed-rank test, which
    counts ranks only and so takes infinite differences as the largest; 1 where all are equal. The
    mean difference and its interval are over the cases where it is finite.

    Args:
        a, b: (n,) values of the same cases.

    Returns:
        n, p, difference (mean of a - b), low and high (95 % bootstrap percentile interval of that
        mean), n_infinite (cases whose difference is infinite).
    """
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, a - b)
    finite = difference[np.isfinite(difference)]
    low, high = bootstrap_interval(finite)
    p = float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0
    return {
        "n": len(difference),
        "p": p,
        "difference": float(finite.mean()) if finite.size else float("nan"),
        "low": low,
        "high": high,
        "n_infinite": int(difference.size - finite.size),
    }


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the mean over resampled cases; the draws are always the same.

    Args:
        values: (n,) finite; fewer than two give (nan, nan).
    """
    if values.size < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(0)
    picks = generator.integers(values.size, size=(_RESAMPLES, values.size))
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(values[picks].mean(1), (tail, 1 - tail))
    return float(low), float(high)


def holm(p_values) -> list[float]:
    """Holm's (1979) step-down correction for testing several methods: adjusted p-values."""
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return result.tolist()
