"""Surprise detection: false alarms no more frequent than stated, real events detected soon."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jepa_runtime.calibration import (
    ChangeDetector,
    Event,
    EventDetector,
    Score,
    Threshold,
    block_maxima,
    is_correlated,
    score,
    threshold_of,
)
from jepa_runtime.errors import JepaRuntimeError
from tests.errors import code

BLOCK = 60
EVERY = 18_000  # one in 10 minutes at 30 Hz
MEMORY = 30


def normal_scores(count: int, seed: int) -> np.ndarray:
    """Return heavy-tailed scores, each a mean over the last :data:`MEMORY` steps."""
    shocks = np.abs(np.random.default_rng(seed).standard_t(4, count + MEMORY - 1))
    summed = np.cumsum(np.concatenate([[0.0], shocks]))
    return (summed[MEMORY:] - summed[:-MEMORY]) / MEMORY


def normal_threshold(normal: np.ndarray, *, block: int, **request: Any) -> Threshold:
    return threshold_of(block_maxima(normal, block), block=block, **request)


def some_threshold(value: float = 1.0, *, block: int = 3, every: int = 30) -> Threshold:
    return Threshold(value, block, every, confidence=0.95, blocks=100)


def events(scores: list[float | None], threshold: Threshold) -> list[Event]:
    detector = EventDetector(threshold)
    result = [
        detector.update(step, None if value is None else Score(value, step + 1))
        for step, value in enumerate(scores)
    ]
    return [event for event in [*result, detector.close()] if event is not None]


def test_score_is_the_mean_of_errors_relative_to_their_bounds() -> None:
    result = score(np.array([1.0, 8.0, math.nan]), np.array([1.0, 2.0, 1.0]))
    assert result == Score(2.5, horizon=2)


@pytest.mark.parametrize("bound", [0.0, math.inf, math.nan])
def test_horizon_without_a_bound_is_skipped(bound: float) -> None:
    assert score(np.array([9.0, 1.0]), np.array([bound, 2.0])) == Score(0.5, horizon=2)
    assert score(np.array([9.0]), np.array([bound])) is None


def test_false_alarms_over_a_million_normal_scores_are_no_more_frequent_than_stated() -> None:
    threshold = normal_threshold(normal_scores(40 * EVERY, seed=1), block=BLOCK, every=EVERY)
    detector = EventDetector(threshold)
    later = normal_scores(1_200_000, seed=2)
    result = [detector.update(step, Score(value, 1)) for step, value in enumerate(later.tolist())]
    alarms = sum(event is not None for event in result) + (detector.current is not None)
    assert 0 < alarms <= len(later) / EVERY


def test_score_correlation_is_estimated_from_disjoint_blocks() -> None:
    normal = [normal_scores(10_000, seed) for seed in range(3)]
    assert is_correlated(normal, MEMORY // 4)
    assert not is_correlated(normal, MEMORY)
    assert not is_correlated([np.ones(1000)], 1) and not is_correlated([np.arange(3.0)], 1)


def test_independent_scores_are_rarely_reported_as_correlated() -> None:
    rng = np.random.default_rng(4)
    assert sum(is_correlated([rng.exponential(size=1000)], 5) for _ in range(300)) <= 8


def test_stated_rate_has_the_stated_confidence_over_calibrations() -> None:
    """For exponential scores the proportion of blocks above a threshold is known exactly."""
    every, block, trials = 500, 10, 400
    stored = 0
    for seed in range(trials):
        normal = np.random.default_rng(seed).exponential(size=20 * every)
        threshold = normal_threshold(normal, block=block, every=every, confidence=0.9)
        above = 1 - (1 - math.exp(-threshold.value)) ** block
        stored += above <= threshold.rate
    # Three standard deviations of a proportion of 0.9, and an order statistic that cannot meet it exactly.
    assert 0.9 - 3 * math.sqrt(0.9 * 0.1 / trials) <= stored / trials < 0.999


def test_more_normal_data_lower_the_threshold() -> None:
    few, many = (
        np.mean(
            [
                normal_threshold(normal_scores(size * 1000, seed), block=BLOCK, every=1000).value
                for seed in range(20)
            ]
        )
        for size in (4, 100)
    )
    assert many < few


def test_too_few_normal_data_error_states_the_required_number() -> None:
    with pytest.raises(
        JepaRuntimeError, match=r"record at least (\d+)", check=code("calibration.too_few_scores")
    ) as caught:
        normal_threshold(np.ones(1000), block=BLOCK, every=EVERY)
    needed = int(str(caught.value).split("at least ")[1].split(",")[0])
    assert normal_threshold(np.ones(needed), block=BLOCK, every=EVERY).blocks == needed // BLOCK
    with pytest.raises(JepaRuntimeError):
        normal_threshold(np.ones(needed - 1), block=BLOCK, every=EVERY)


@pytest.mark.parametrize(("blocks", "rank"), [(29, 1), (45, 1), (46, 2), (60, 2), (61, 3)])
def test_threshold_is_the_wilks_order_statistic(blocks: int, rank: int) -> None:
    highest = np.arange(float(blocks))
    assert threshold_of(highest, block=1, every=10).value == blocks - rank


@pytest.mark.parametrize(
    ("block", "every", "confidence", "normal"),
    [
        (0, 10, 0.9, np.ones(100)),
        (10, 10, 0.9, np.ones(100)),
        (1, 10, 1.0, np.ones(100)),
        (1, 10, 0.0, np.ones(100)),
        (1, 10, 0.9, np.array([math.nan])),
    ],
)
def test_arguments_out_of_range_are_rejected(
    block: int, every: int, confidence: float, normal: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="must"):
        normal_threshold(normal, block=block, every=every, confidence=confidence)


def test_threshold_of_invalid_blocks_is_rejected() -> None:
    with pytest.raises(ValueError, match="block must be at least 1"):
        threshold_of(np.ones(100), block=0, every=10)


def test_event_has_its_start_peak_and_worst_horizon() -> None:
    assert events([0, 2, 5, 3, 0, 0, 0, 0], some_threshold()) == [Event(1, 2, horizon=3, score=5)]


def test_scores_less_than_a_block_apart_are_one_event() -> None:
    assert len(events([2, 0, 0, 2, 0, 0, 0], some_threshold())) == 1
    assert len(events([2, 0, 0, 0, 2, 0, 0, 0], some_threshold())) == 2


def test_score_on_the_threshold_is_no_event() -> None:
    assert events([1.0, 1.0], some_threshold(1.0)) == []


def test_steps_without_a_score_end_an_event_like_quiet_ones() -> None:
    assert len(events([2, None, None, None, 2], some_threshold())) == 2


def test_active_event_is_visible_before_its_end() -> None:
    detector = EventDetector(some_threshold())
    assert detector.update(7, Score(2.0, 1)) is None
    assert detector.current == Event(7, 7, horizon=1, score=2.0)


def test_false_changes_are_on_average_no_more_frequent_than_stated() -> None:
    """In a million normal scores, of which every tenth block may be high."""
    average_run = 20_000
    threshold = normal_threshold(normal_scores(500_000, seed=3), block=BLOCK, every=10 * BLOCK)
    detector = ChangeDetector(threshold, average_run=average_run)
    later = normal_scores(1_000_000, seed=4).tolist()
    alarms = sum(detector.update(Score(value, 1)) for value in later)
    assert alarms <= len(later) / average_run


def test_change_too_small_for_an_event_is_detected_within_a_minute() -> None:
    normal = normal_scores(40 * EVERY, seed=5)
    rare = normal_threshold(normal, block=BLOCK, every=EVERY)
    threshold = normal_threshold(normal, block=BLOCK, every=10 * BLOCK)
    delays = []
    for seed in range(20):
        detector = ChangeDetector(threshold, average_run=EVERY * 6)
        changed = 1.3 * normal_scores(4000, seed=100 + seed)
        alarms = [detector.update(Score(value, 1)) for value in changed.tolist()]
        delays.append(alarms.index(True))
    assert np.median(1.3 * normal) < threshold.value < rare.value
    assert np.mean(delays) < 30 * 60


def test_every_second_block_is_tested() -> None:
    detector = ChangeDetector(some_threshold(block=1, every=10), average_run=40)
    assert not any(detector.update(Score(value, 1)) for value in [2, 0] * 10)
    assert [detector.update(Score(value, 1)) for value in [0, 2] * 2] == [False, False, False, True]


@pytest.mark.parametrize(
    ("evaluated", "average_run", "noticed"),
    [([2, 2, 2], 120, 2), ([2, 2, 2], 122, 3), ([1, 2, 2], 120, 3), ([1, 2, 2], 172, 3)],
)
def test_change_is_detected_when_the_e_value_reaches_the_average_run_length(
    evaluated: list[int], average_run: int, noticed: int
) -> None:
    # A tenth of normal blocks are high: a high one multiplies the e-value by 5, any other by 5 / 9.
    detector = ChangeDetector(some_threshold(block=2, every=20), average_run=average_run)
    shows = [detector.update(Score(value, 1)) for each in evaluated for value in (0, 0, each, each)]
    assert shows.index(True) + 1 == 4 * noticed


def test_steps_without_a_score_are_ignored_by_change_detection() -> None:
    detector = ChangeDetector(some_threshold(block=1, every=10), average_run=20)
    scores = [None, Score(0, 1), None, Score(2, 1), Score(0, 1), None, Score(2, 1)]
    assert [detector.update(value) for value in scores] == [False] * 6 + [True]


def test_change_detector_with_half_of_the_data_normal_is_rejected() -> None:
    with pytest.raises(ValueError, match="less than 50%"):
        ChangeDetector(some_threshold(block=1, every=2), average_run=100)
    with pytest.raises(ValueError, match="at least two blocks"):
        ChangeDetector(some_threshold(block=10, every=100), average_run=19)
    ChangeDetector(some_threshold(block=10, every=100), average_run=20)
