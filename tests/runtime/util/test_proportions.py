"""Proportions: exact probabilities, and intervals as published."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from jepa_runtime.util.proportions import binomial_tail, wilson


def test_binomial_tail_is_exact() -> None:
    assert binomial_tail(0, 10, 0.3) == 1
    assert binomial_tail(1, 1, 0.01) == pytest.approx(0.01)
    assert binomial_tail(2, 3, 0.5) == pytest.approx(0.5)
    assert binomial_tail(10, 10, 0.5) == pytest.approx(2**-10)
    for count, of, share in ((1, 80_000, 0.01), (150, 3000, 0.6), (30_000, 30_000_000, 0.01)):
        assert binomial_tail(count, of, share) == pytest.approx(1), "far below the mean"
    assert binomial_tail(3000, 30_000, 0.01) < 1e-300, "far above it"
    exact = sum(math.comb(500, count) * Fraction(999, 1000) ** count * Fraction(1, 1000) ** (500 - count)
                for count in range(499, 501))  # fmt: skip
    assert binomial_tail(499, 500, 0.999) == pytest.approx(float(exact))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
        (291, 300, 0.9440, 0.9841),
    ],
)
def test_wilson_interval_equals_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("successes", "trials"), [(1, 7), (30, 100), (299, 300)])
def test_wilson_interval_ends_are_196_standard_deviations_from_the_proportion(
    successes: int, trials: int
) -> None:
    for end in wilson(successes, trials):
        deviation = math.sqrt(end * (1 - end) / trials)
        assert abs(successes / trials - end) / deviation == pytest.approx(1.96, abs=1e-3)
