import numpy as np
import pytest
from scipy import stats

from isanet_jax.comparison.statistics import bootstrap_interval, holm, paired_test


def test_finite_values_are_tested_as_scipy_does(generator):
    a, b = generator.normal(0.3, 1, 25), generator.normal(0, 1, 25)
    result = paired_test(a, b)
    assert result["p"] == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert result["difference"] == pytest.approx((a - b).mean())
    assert (result["n"], result["n_infinite"]) == (25, 0)


def test_an_infinite_distance_ranks_as_the_largest():
    a = np.array([np.inf, 5.0, 6.0, 7.5, 3.0, np.inf, 4.0])
    b = np.array([1.0, 4.0, 7.0, 7.0, np.inf, np.inf, 4.2])
    # Differences: inf, 1, -1, 0.5, -inf, equal, -0.2: large numbers stand for the infinities.
    finite = np.array([1e6, 1, -1, 0.5, -1e6, 0, -0.2])
    result = paired_test(a, b)
    assert result["p"] == pytest.approx(stats.wilcoxon(finite).pvalue)
    assert result["difference"] == pytest.approx((1 - 1 + 0.5 + 0 - 0.2) / 5)
    assert result["n_infinite"] == 2


def test_equal_methods_do_not_differ():
    values = np.array([0.5, np.inf, 0.1])
    result = paired_test(values, values)
    assert (result["p"], result["difference"], result["low"], result["high"]) == (1, 0, 0, 0)


def test_nothing_finite_to_average():
    result = paired_test(np.full(6, np.inf), np.arange(6.0))
    assert np.isnan([result["difference"], result["low"], result["high"]]).all()
    assert result["p"] == pytest.approx(stats.wilcoxon(np.full(6, 1e9) - np.arange(6)).pvalue)


def test_the_bootstrap_interval_is_scipys(generator):
    values = generator.gamma(2, 1, 40)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", random_state=1
    ).confidence_interval
    assert bootstrap_interval(values) == pytest.approx(tuple(expected), abs=0.02)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert np.isnan(bootstrap_interval(values[:1])).all()


def test_holms_example():
    # Sorted 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1; then never below an earlier one.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
