"""Scores: proportions with intervals, and paired comparison of drivers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.util.proportions import paired_difference, wilson
from jepa_sim.closed_loop.episodes import Episode, Outcome
from jepa_sim.closed_loop.scores import Difference, Goals, PlanTime

counts = st.integers(0, 400)


def episode(outcome: Outcome, *, steps: int = 1, plan_ms: tuple[float, ...] = (1.0,)) -> Episode:
    return Episode(0, outcome, steps, 0.0, plan_ms)


def test_score_counts_outcomes_and_the_steps_of_reached_goals() -> None:
    driven = [episode("reached", steps=4), episode("reached", steps=8), episode("timeout", steps=80)]
    result = Goals.of([*driven, episode("wrong_place", steps=2)])
    assert (result.episodes, result.successes, result.rate) == (4, 2, 0.5)
    assert result.interval == wilson(2, 4) and result.mean_steps == 6
    assert result.outcomes == {"reached": 2, "wrong_place": 1, "timeout": 1}


def test_score_without_reached_goals_has_no_steps() -> None:
    result = Goals.of([episode("timeout")])
    assert result.mean_steps is None and result.rate == 0
    assert result.outcomes == {"reached": 0, "wrong_place": 0, "timeout": 1}


def test_plan_times_are_over_all_decisions_of_all_episodes() -> None:
    spent = tuple(float(ms) for ms in range(101))
    result = PlanTime.of([episode("reached", plan_ms=spent[::2]), episode("timeout", plan_ms=spent[1::2])])
    assert (result.p50, result.p95, result.decisions) == (50.0, 95.0, 101)


def test_paired_difference_counts_episodes_that_only_one_reached() -> None:
    reached, timeout, wrong_place = map(episode, ("reached", "timeout", "wrong_place"))
    one = [*[reached] * 5, timeout, *[timeout] * 4]
    other = [*[reached] * 3, wrong_place, timeout, reached, *[wrong_place] * 4]
    result = Difference.of(one, other)
    assert (result.gained, result.lost, result.rate) == (2, 1, 0.1)
    assert result.interval == paired_difference(3, 2, 1, 4)
    with pytest.raises(ValueError, match="zip"):
        Difference.of(one, other[:-1])


@given(counts, counts, counts, counts)
def test_paired_interval_covers_the_difference_and_changes_sign_with_the_order(
    both: int, first: int, second: int, neither: int
) -> None:
    trials = both + first + second + neither
    if trials == 0:
        return
    low, high = paired_difference(both, first, second, neither)
    assert -1 - 1e-9 <= low <= (first - second) / trials + 1e-12
    assert (first - second) / trials - 1e-12 <= high <= 1 + 1e-9
    assert paired_difference(both, second, first, neither) == pytest.approx((-high, -low), abs=1e-12)


def test_paired_interval_of_many_trials_is_the_normal_one() -> None:
    # Approval of a prime minister at two times by the same 1600 people (Agresti, Categorical Data Analysis).
    low, high = paired_difference(794, 150, 86, 570)
    share = (150 - 86) / 1600
    half = 1.96 * math.sqrt(((150 + 86) / 1600 - share**2) / 1600)
    assert (low, high) == pytest.approx((share - half, share + half), abs=1e-3)


def test_agreement_narrows_the_paired_interval() -> None:
    agreeing, apart = paired_difference(94, 3, 3, 0), paired_difference(90, 4, 4, 2)
    unrelated = 2 * (wilson(97, 100)[1] - wilson(97, 100)[0])
    assert all(high - low < unrelated for low, high in (agreeing, apart))
    low, high = paired_difference(70, 1, 1, 28)
    assert high - low < 0.1 < 2 * (wilson(71, 100)[1] - wilson(71, 100)[0])


def test_paired_interval_covers_about_95_of_100_samples() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for counts in rng.multinomial(100, (0.8, 0.12, 0.05, 0.03), 2000):
        low, high = paired_difference(*map(int, counts))
        covered += low <= 0.07 <= high
    assert 0.93 < covered / 2000 < 0.98
