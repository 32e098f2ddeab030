"""Decisions on the latency budget of a candidate, from measurements under load."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from jepa_runtime.ota.gate.latency_budget import (
    CONFIDENCE,
    Comparison,
    Cost,
    Floats,
    _outside,
    compare,
    cost_of,
    is_within,
)

ROUNDS, BLOCKS, FRAMES = 3, 10, 20


def frames(rng: np.random.Generator, typical_ms: float, load: Floats) -> Floats:
    """Return frame costs multiplied by the load of each block."""
    jitter = rng.lognormal(0, 0.1, (ROUNDS, BLOCKS, FRAMES))
    return typical_ms * jitter * load[:, :, None]


def test_cost_is_the_minimum_over_rounds() -> None:
    took = np.full((3, 10, 20), 2.0)
    took[0] = 5.0
    took[1, 0, :3] = 9.0
    took[2, 0, 0] = 1.5
    assert cost_of(took) == Cost(p99_ms=2.0, least_ms=1.5)


@pytest.mark.parametrize("count", [1, 5, 8, 10, 30, 60])
def test_ratio_interval_excludes_outliers_by_its_confidence(count: int) -> None:
    outside = _outside(count)

    def missed(rollout_exclusion: int) -> float:
        return 2 * sum(comb(count, few) for few in range(rollout_exclusion + 1)) / 2**count

    assert outside == 0 or missed(outside) <= 1 - CONFIDENCE
    assert missed(outside + 1) > 1 - CONFIDENCE


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_load_that_doubles_both_costs_keeps_their_ratio(factor: float) -> None:
    """The interval misses the true ratio at most at the stated rate, for any load per block."""
    rng, misses = np.random.default_rng(0), 0
    for _ in range(200):
        load = rng.uniform(1, 2, (ROUNDS, BLOCKS))
        result = compare(frames(rng, factor, load), frames(rng, 1.0, load))
        misses += not result.low <= factor <= result.high
        assert result.high / result.low < 1.1
    assert misses <= 8


def compared(low: float, high: float, *, candidate_ms: float = 30.0, active_ms: float = 30.0) -> Comparison:
    return Comparison(
        candidate=Cost(p99_ms=candidate_ms, least_ms=1.0),
        active=Cost(p99_ms=active_ms, least_ms=1.0),
        ratio=(low + high) / 2,
        low=low,
        high=high,
    )


OVER = Cost(p99_ms=30.0, least_ms=10.0)


@pytest.mark.parametrize(
    ("cost", "others", "comparison", "within"),
    [
        (Cost(p99_ms=20.0, least_ms=10.0), 0.9, None, True),
        (OVER, 0.05, None, False),
        (OVER, 0.05, compared(0.99, 1.01), False),
        (Cost(p99_ms=30.0, least_ms=21.0), 0.9, compared(0.99, 1.01), False),
        (OVER, 0.9, None, None),
        (OVER, None, None, None),
        (OVER, 0.9, compared(0.99, 1.05), True),
        (OVER, 0.9, compared(1.4, 1.6, candidate_ms=19.0), True),
        (OVER, 0.9, compared(1.4, 1.6, active_ms=15.0), False),
        (OVER, 0.9, compared(1.4, 1.6), None),
        (OVER, 0.9, compared(0.9, 1.3, active_ms=15.0), None),
    ],
)
def test_latency_budget_of_20_ms_decides_as_tabulated(
    cost: Cost, others: float | None, comparison: Comparison | None, within: bool | None
) -> None:
    assert is_within(20.0, cost, others=others, comparison=comparison) is within
