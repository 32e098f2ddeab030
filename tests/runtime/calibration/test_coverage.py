"""Coverage: proportions of errors within their bounds, overall and recent."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jepa_runtime.calibration import Coverage
from jepa_runtime.util.proportions import wilson

ONE = np.ones(1)


def test_coverage_counts_errors_in_total_and_per_window() -> None:
    coverage = Coverage(1, window=4)
    for error in [0.5, 0.5, 0.5, 0.5, 2.0, 2.0]:
        coverage.update(error * ONE, ONE)
    (overall,), (recent,) = coverage.overall(), coverage.recent()
    assert (overall.within, overall.errors, overall.value) == (4, 6, pytest.approx(4 / 6))
    assert (recent.within, recent.errors) == (2, 4)
    assert overall.interval() == wilson(4, 6)


def test_error_on_the_bound_is_covered() -> None:
    coverage = Coverage(1, window=1)
    coverage.update(ONE, ONE)
    assert coverage.overall()[0].within == 1


def test_coverage_counts_each_horizon_only_where_it_has_an_error() -> None:
    coverage = Coverage(2, window=2)
    coverage.update(np.array([math.nan, 0.5]), np.array([math.nan, 1.0]))
    assert [share.errors for share in coverage.overall()] == [0, 1]
    assert [share.errors for share in coverage.recent()] == [0, 1]


def test_coverage_before_the_first_error_is_unknown() -> None:
    (share,) = Coverage(1, window=2).overall()
    assert share.value is None
    assert share.interval() == (0.0, 1.0)


@pytest.mark.parametrize(("horizons", "window"), [(0, 1), (1, 0)])
def test_arguments_out_of_range_are_rejected(horizons: int, window: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Coverage(horizons, window=window)
