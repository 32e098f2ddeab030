"""Coverage: proportions of errors within their bounds, overall and recent."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jepa_runtime.calibration import Coverage
from jepa_runtime.util.proportions import wilson

ONE = np.ones(1)


def test_errors_are_counted_overall_and_over_the_window() -> None:
    coverage = Coverage(1, window=4)
    for error in [0.5, 0.5, 0.5, 0.5, 2.0, 2.0]:
        coverage.update(error * ONE, ONE)
    (overall,), (recent,) = coverage.overall(), coverage.recent()
    assert (overall.within, overall.errors, overall.value) == (4, 6, pytest.approx(4 / 6))
    assert (recent.within, recent.errors) == (2, 4)
    assert overall.interval() == wilson(4, 6)


def test_an_error_on_the_bound_lies_within() -> None:
    coverage = Coverage(1, window=1)
    coverage.update(ONE, ONE)
    assert coverage.overall()[0].within == 1


def test_horizons_are_counted_apart_and_only_where_an_error_arrived() -> None:
    coverage = Coverage(2, window=2)
    coverage.update(np.array([math.nan, 0.5]), np.array([math.nan, 1.0]))
    assert [share.errors for share in coverage.overall()] == [0, 1]
    assert [share.errors for share in coverage.recent()] == [0, 1]


def test_before_the_first_error_nothing_is_claimed() -> None:
    (share,) = Coverage(1, window=2).overall()
    assert share.value is None
    assert share.interval() == (0.0, 1.0)


@pytest.mark.parametrize(("horizons", "window"), [(0, 1), (1, 0)])
def test_arguments_out_of_range_are_refused(horizons: int, window: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Coverage(horizons, window=window)
