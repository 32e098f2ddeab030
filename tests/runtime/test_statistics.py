"""Summaries give real samples, and no percentile that the samples cannot carry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.profiling.statistics import format_ms, summarize


def test_percentiles_by_nearest_rank() -> None:
    summary = summarize(range(1, 101))
    assert (summary.p50, summary.p95, summary.p99, summary.max, summary.n) == (50, 95, 99, 100, 100)


@pytest.mark.parametrize(
    ("count", "given_percentiles"),
    [
        (0, ()),
        (1, ()),
        (2, ("p50",)),
        (19, ("p50",)),
        (20, ("p50", "p95")),
        (99, ("p50", "p95")),
        (100, ("p50", "p95", "p99")),
    ],
)
def test_a_percentile_needs_samples_beyond_it(count: int, given_percentiles: tuple[str, ...]) -> None:
    summary = summarize(float(value) for value in range(count))
    present = tuple(name for name in ("p50", "p95", "p99") if getattr(summary, name) is not None)
    assert present == given_percentiles
    assert summary.n == count


def test_no_samples_have_no_maximum() -> None:
    assert summarize([]).as_dict() == {"p50": None, "p95": None, "p99": None, "max": None, "n": 0}


def test_a_nan_is_refused_rather_than_hidden() -> None:
    with pytest.raises(ValueError, match="1 of 3 samples are NaN"):
        summarize([1.0, float("nan"), 2.0])


@given(st.lists(st.floats(0, 1e6), min_size=100, max_size=400))
def test_percentiles_are_ordered_samples(samples: list[float]) -> None:
    summary = summarize(samples)
    assert (
        summary.p50 is not None
        and summary.p95 is not None
        and summary.p99 is not None
        and summary.max is not None
    )
    assert summary.p50 <= summary.p95 <= summary.p99 <= summary.max
    assert {summary.p50, summary.p95, summary.p99} <= set(samples)
    assert np.mean(np.asarray(samples) <= summary.p95) >= 0.95


def test_times_are_shown_with_a_dash_where_there_is_none() -> None:
    assert (format_ms(1.234), format_ms(None)) == ("1.23", "-")
