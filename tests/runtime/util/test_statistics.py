"""Summaries report real samples, only supported percentiles, and every stall."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jepa_runtime.profiling.profile import ReportedLatencies, Run
from jepa_runtime.profiling.run_statistics import Distribution, describe, distribution, late_frames, responses
from jepa_runtime.util.bootstrap import RESAMPLES, resampled_means, resampled_quantiles
from jepa_runtime.util.percentiles import PERCENTILES
from jepa_runtime.util.statistics import format_ms, summarize
from tests.runtime.profiles import make_run

Floats = NDArray[np.float64]


def test_missing_device_times_are_not_counted_as_zero() -> None:
    run = make_run(frames=2).model_copy(update={"device_ms": {"encode": [0.5, 0.5], "predict": [0.0, 0.25]}})
    device = describe(run).device
    assert (device["predict"].n, device["predict"].max) == (1, 0.25)
    assert device["encode"].n == 2


def run_of(
    scheduled_s: list[float],
    latency_ms: list[float],
    *,
    rate_hz: float | None = 10.0,
    deadline_ms: float | None = 100.0,
    duration_s: float | None = None,
    stages_ms: dict[str, list[float]] | None = None,
    dropped_s: tuple[float, ...] = (),
    failed_s: tuple[float, ...] = (),
) -> Run:
    results = [due + latency / 1000 for due, latency in zip(scheduled_s, latency_ms, strict=True)]
    return Run(
        rate_hz=rate_hz,
        deadline_ms=deadline_ms,
        duration_s=max(results, default=0.0) if duration_s is None else duration_s,
        scheduled_s=scheduled_s,
        latency_ms=latency_ms,
        stages_ms=stages_ms or {},
        dropped_s=list(dropped_s),
        failed_s=list(failed_s),
    )


def run_with_a_stall(*, stall_s: float, rate_hz: float = 30.0, length_s: float = 10.0) -> Run:
    """Simulate a server that takes 10 ms per frame, newest first, and stalls once, at second 5."""
    free_s = 0.0
    waiting: float | None = None
    done: list[float] = []
    latency: list[float] = []
    dropped: list[float] = []

    def serve(due_s: float) -> float:
        begin = max(due_s, free_s)
        end = begin + 0.010 + (stall_s if begin <= 5.0 < begin + 1 / rate_hz else 0.0)
        done.append(due_s)
        latency.append((end - due_s) * 1000)
        return end

    for due_s in np.arange(0, length_s, 1 / rate_hz).tolist():
        if waiting is not None and free_s <= due_s:
            free_s, waiting = serve(waiting), None
        if free_s <= due_s:
            free_s = serve(due_s)
        else:
            dropped += [] if waiting is None else [waiting]
            waiting = due_s
    return run_of(done, latency, rate_hz=rate_hz, deadline_ms=1000 / rate_hz, dropped_s=tuple(dropped))


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
def test_percentile_needs_samples_beyond_it(count: int, given_percentiles: tuple[str, ...]) -> None:
    summary = summarize(float(value) for value in range(count))
    present = tuple(name for name in ("p50", "p95", "p99") if getattr(summary, name) is not None)
    assert present == given_percentiles
    assert summary.n == count


def test_maximum_of_no_samples_is_none() -> None:
    assert summarize([]).as_dict() == {"p50": None, "p95": None, "p99": None, "max": None, "n": 0}


def test_json_values_are_not_rounded() -> None:
    stored = summarize([17.2754]).as_dict()["max"]
    assert format_ms(stored) == format_ms(17.2754) == "17.28"


def test_nan_is_rejected() -> None:
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


def test_missing_times_are_shown_as_dashes() -> None:
    assert (format_ms(1.234), format_ms(None)) == ("1.23", "-")


@pytest.mark.parametrize(
    ("count", "carried"),
    [(1, ()), (10, ("p50", "p90")), (999, ("p50", "p90", "p95", "p99")), (1000, tuple(PERCENTILES))],
)
def test_distribution_has_the_percentiles_its_samples_support(count: int, carried: tuple[str, ...]) -> None:
    result = distribution(np.arange(count, dtype=float))
    assert result.n == count
    assert (
        tuple(name for name, quantile in result.quantiles().items() if quantile.value is not None) == carried
    )


def test_too_few_samples_have_no_intervals() -> None:
    assert [quantile.low for quantile in distribution(list(range(19))).quantiles().values()] == [None] * 5
    assert distribution(list(range(20))).p50.low is not None


def test_interval_ending_at_the_largest_sample_is_open() -> None:
    p99 = distribution(np.random.default_rng(0).exponential(1, 150)).p99
    assert p99.value is not None and p99.low is not None and p99.low <= p99.value
    assert p99.high is None


def test_equal_samples_have_exact_intervals() -> None:
    p99 = distribution([5.0] * 200).p99
    assert (p99.value, p99.low, p99.high) == (5.0, 5.0, 5.0)


def test_intervals_are_reproducible() -> None:
    samples = np.random.default_rng(0).exponential(1, 500)
    assert distribution(samples) == distribution(samples.copy())


def test_distribution_rejects_nan() -> None:
    with pytest.raises(ValueError, match="1 of 30 samples are NaN"):
        distribution([1.0] * 29 + [float("nan")])


def exponential(rng: np.random.Generator, count: int) -> Floats:
    return rng.exponential(1.0, count)


def mixture(rng: np.random.Generator, count: int) -> Floats:
    """Return samples of which one in ten is around 40 instead of 10."""
    slow = rng.random(count) < 0.1
    return np.asarray(np.where(slow, rng.normal(40, 2, count), rng.normal(10, 1, count)))


def correlated(rng: np.random.Generator, count: int, correlation: float = 0.7) -> Floats:
    """Return standard normal samples with a correlation between neighbors."""
    noise = rng.normal(0, np.sqrt(1 - correlation**2), count)
    values = np.empty(count)
    value = rng.normal()
    for index in range(count):
        value = values[index] = correlation * value + noise[index]
    return values


@pytest.mark.parametrize(
    ("draw", "true"),
    [
        (exponential, {"p50": 0.6931, "p90": 2.3026, "p95": 2.9957, "p99": 4.6052}),
        (mixture, {"p50": 10.1397, "p95": 40.0, "p99": 42.5631}),
        (correlated, {"p50": 0.0, "p90": 1.2816, "p95": 1.6449, "p99": 2.3263}),
        (partial(correlated, correlation=0.95), {"p50": 0.0, "p90": 1.2816, "p95": 1.6449, "p99": 2.3263}),
    ],
)
def test_intervals_have_about_the_stated_coverage(
    draw: Callable[[np.random.Generator, int], Floats], true: dict[str, float]
) -> None:
    runs = 120
    covered = dict.fromkeys(true, 0)
    for seed in range(runs):
        result = distribution(draw(np.random.default_rng(seed), 1200)).quantiles()
        for name, value in true.items():
            quantile = result[name]  # type: ignore[index]
            assert quantile.low is not None
            covered[name] += quantile.low <= value <= (np.inf if quantile.high is None else quantile.high)
    assert all(0.85 <= count / runs <= 1.0 for count in covered.values()), covered


def test_intervals_of_frames_taken_as_independent_are_too_narrow() -> None:
    together = np.repeat(np.random.default_rng(0).exponential(1, 100), 20)
    apart = np.random.default_rng(1).permutation(together)

    def width(samples: Floats) -> float:
        p50 = distribution(samples).p50
        assert p50.low is not None and p50.high is not None
        return p50.high - p50.low

    assert width(together) > 2 * width(apart)


@given(st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=80), st.sampled_from(list(PERCENTILES.values())))
def test_drawn_percentiles_are_samples(samples: list[float], permille: int) -> None:
    drawn = resampled_quantiles(np.asarray(samples), permille, seed=0)
    assert len(drawn) == RESAMPLES
    assert set(drawn.tolist()) <= set(samples)


def test_drawn_percentiles_are_distributed_as_for_the_effective_sample_size() -> None:
    """Compare with order statistics of independent runs: groups of ten are worth one sample."""
    samples = np.repeat(np.random.default_rng(0).permutation(400), 10).astype(np.float64)
    drawn = np.sort(resampled_quantiles(samples, 900, seed=0))
    ranks = [np.sort(np.random.default_rng(seed).integers(400, size=400))[359] for seed in range(RESAMPLES)]
    spread = float(np.std(ranks))
    assert drawn.mean() == pytest.approx(np.mean(ranks), abs=0.3 * spread)
    assert drawn.std() == pytest.approx(spread, rel=0.3)


def test_drawn_means_are_those_of_resampled_blocks() -> None:
    """Compare with the definition: ten blocks of four quarters each, in sequence."""
    samples = np.random.default_rng(0).exponential(1, 100)
    starts = np.random.default_rng(3).integers(40, size=(RESAMPLES, 10))
    cells = [samples[np.arange(100) * 40 // 100 == cell] for cell in range(40)]
    plain = [
        np.concatenate([cells[(start + step) % 40] for start in row for step in range(4)]).mean()
        for row in starts
    ]
    assert resampled_means(samples, seed=3).tolist() == pytest.approx(plain)


def test_stall_hidden_from_the_latencies_shows_in_the_response() -> None:
    run = run_with_a_stall(stall_s=1.0)
    result = describe(run)
    assert result.frames == 300 and result.dropped == 29
    latency_p99, response_p99 = result.latency.p99.value, result.response.p99.value
    assert latency_p99 is not None and latency_p99 < 11, "only one result covers the lost second"
    assert response_p99 is not None and 900 < response_p99 <= 1010
    assert (result.misses, result.longest_miss_run) == (30, 30)


def test_response_is_the_time_to_a_result_at_least_as_new() -> None:
    run = run_of([0.0, 0.3, 0.4], [50.0, 20.0, 30.0], dropped_s=(0.1,), failed_s=(0.2,))
    assert responses(run) == pytest.approx([50, 220, 120, 20, 30])


def test_later_frame_with_an_earlier_result_counts_as_an_answer() -> None:
    assert responses(run_of([0.0, 0.1], [500.0, 50.0])) == pytest.approx([150, 50])


def test_unanswered_frames_count_until_the_end() -> None:
    run = run_of([0.0], [50.0], dropped_s=(0.1,), failed_s=(0.2,))
    assert responses(run) == pytest.approx([50, 200, 100]), "one period after the last was due"
    longer = run_of([0.0], [50.0], dropped_s=(0.1,), duration_s=2.0)
    assert responses(longer) == pytest.approx([50, 1900])
    assert responses(run_of([0.0], [50.0], failed_s=(0.2,), rate_hz=None)) == pytest.approx([50, 0])


def test_misses_are_late_dropped_and_failed_frames_with_a_common_longest_run() -> None:
    run = run_of(
        [0.0, 0.1, 0.4, 0.5, 0.6], [100, 150, 10, 150, 10], dropped_s=(0.2,), failed_s=(0.3,), deadline_ms=100
    )
    result = describe(run)
    assert (result.frames, result.processed, result.dropped, result.failed) == (7, 5, 1, 1)
    assert (result.misses, result.longest_miss_run) == (4, 3)
    late = late_frames(run)
    assert late is not None and late.tolist() == [False, True, True, True, False, True, False]
    kept_up = describe(run_of([0.0, 0.1], [100, 10], deadline_ms=100))
    assert (kept_up.misses, kept_up.longest_miss_run) == (0, 0)


def test_run_without_a_deadline_has_no_misses_and_no_slack() -> None:
    result = describe(run_of([0.0, 0.1], [10, 10], deadline_ms=None))
    assert (result.misses, result.longest_miss_run, result.slack) == (None, None, None)


def test_slack_is_the_time_left_at_a_percentile() -> None:
    run = make_run()
    result = describe(run)
    assert result.slack is not None and run.deadline_ms is not None
    p99, slack = result.latency.p99, result.slack.p99
    assert None not in (p99.value, p99.low, p99.high)
    assert slack.value == run.deadline_ms - p99.value  # type: ignore[operator]
    assert slack.low == run.deadline_ms - p99.high  # type: ignore[operator]
    assert result.slack.max == pytest.approx(run.deadline_ms - max(run.latency_ms))


def test_jitter_is_the_deviation_from_the_period_and_a_drop_a_whole_one() -> None:
    result = describe(run_of([0.0, 0.1, 0.3], [10, 16, 16], dropped_s=(0.2,)))
    assert result.period_jitter.n == 2
    assert result.period_jitter.max == pytest.approx(100)
    assert result.period_jitter_rms == pytest.approx(np.sqrt((6**2 + 100**2) / 2))
    without = describe(run_of([0.0, 0.1], [10, 10], rate_hz=None))
    assert (without.period_jitter.n, without.period_jitter_rms, without.over_two_periods) == (0, None, None)


def test_peak_age_is_the_age_of_the_data_just_before_its_replacement() -> None:
    result = describe(run_of([0.0, 0.1, 0.2, 0.5], [50] * 4, dropped_s=(0.3, 0.4)))
    assert result.peak_age.n == 3
    assert result.peak_age.max == pytest.approx(350)
    assert result.over_two_periods == 1
    assert describe(run_of([0.0, 0.125], [125, 125], rate_hz=8.0)).over_two_periods == 0


def test_overtaken_result_does_not_refresh_the_data() -> None:
    assert describe(run_of([0.0, 0.1, 0.2], [50, 500, 50])).peak_age.n == 1


def test_residual_is_the_time_outside_the_stages() -> None:
    result = describe(
        run_of([0.0, 0.1], [10, 12], stages_ms={"encode": [4, 5], "predict": [5, 5]}),
    )
    assert result.residual.mean == pytest.approx(1.5)
    assert result.residual.max == pytest.approx(2)
    assert result.residual_share == pytest.approx(1.5 / 11)
    assert set(result.stages) == {"encode", "predict"}
    assert describe(run_of([0.0], [10])).residual.n == 0, "without stages there is no residual"


def test_frames_that_skip_a_stage_are_no_samples_of_it() -> None:
    stages = {"wait": [0.0] * 3, "predict": [0.25, 0.0, 9.0]}
    reported = describe(run_of([0.0, 0.1, 0.2], [10.0, 2.0, 12.0], stages_ms=stages))
    assert (reported.stages["predict"].n, reported.stages["predict"].p50.value) == (2, 0.25)
    assert (reported.stages["wait"].n, reported.residual.n) == (3, 3)


def test_achieved_rate_is_the_rate_of_results() -> None:
    assert describe(run_of([0.0, 0.1, 0.2], [10, 20, 30])).achieved_hz == pytest.approx(1 / 0.11)
    assert describe(run_of([0.0, 0.0005], [1, 1])).achieved_hz == pytest.approx(2000)
    assert describe(run_of([0.0], [10])).achieved_hz is None
    assert describe(run_of([0.0, 0.125], [125, 0])).achieved_hz is None, "both at once"


def test_empty_run_has_no_values() -> None:
    result = describe(run_of([], [], dropped_s=(0.0,)))
    assert (result.frames, result.processed, result.latency.n, result.response.n) == (1, 0, 0, 1)
    assert (result.latency.mean, result.achieved_hz, result.residual_share) == (None, None, None)


def test_reported_latencies_have_no_intervals_and_only_supported_percentiles() -> None:
    reported = ReportedLatencies(
        n=150, quantiles_ms={"p50": 1.0, "p99": 2.0, "p999": 3.0}, mean_ms=1.1, max_ms=3.0
    )
    run = run_of([], [], rate_hz=None, deadline_ms=None).model_copy(update={"reported": reported})
    latency = describe(run).latency
    assert (latency.n, latency.p50.value, latency.p99.value, latency.p999.value) == (150, 1.0, 2.0, None)
    assert latency.p50.low is None and latency.mean == 1.1


def test_hour_at_30_hz_is_summarized_within_seconds() -> None:
    samples = np.random.default_rng(0).gamma(2, 3, 108_000)
    result: Distribution = distribution(samples)
    assert result.p999.low is not None and result.p999.high is not None
    assert result.p999.low < 27.7 < result.p999.high, "the gamma distribution's own"
