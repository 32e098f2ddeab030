"""Everything that reports, terminal and comparisons say about a run, computed once from its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.profiling.profile import PASSED_BY, ReportedLatencies, Run
from jepa_runtime.util.bootstrap import MIN_SAMPLES, interval, resampled_quantiles
from jepa_runtime.util.statistics import PERCENTILES, PercentileName, is_supported, percentile, sort_samples

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Quantile:
    """A percentile and its 95 % interval.

    Attributes:
        value: None: too few samples to carry it.
        low, high: the ends of the interval. None: too few samples for it, or they do not bound the
            percentile on this side (the interval would end at the largest sample).
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Distribution:
    """Percentiles with intervals, of ``n`` samples. Units are those of the samples."""

    n: int
    p50: Quantile
    p90: Quantile
    p95: Quantile
    p99: Quantile
    p999: Quantile
    mean: float | None
    max: float | None

    def quantiles(self) -> dict[PercentileName, Quantile]:
        """The percentiles by name: p50, p90, p95, p99, p999."""
        return {"p50": self.p50, "p90": self.p90, "p95": self.p95, "p99": self.p99, "p999": self.p999}


@dataclass(frozen=True)
class RunStatistics:
    """What became of the frames of a run. Times are milliseconds.

    Attributes:
        rate_hz: frames were due at this rate; None: as fast as it went.
        frames: that were due; processed, dropped and failed ones together.
        latency: of the processed frames: from the scheduled moment to the result, which is the age of the
            data when its result was published.
        response: of all frames: see :func:`responses`. It shows a stall that latency, which skips dropped
            frames, does not.
        stages: of the processed frames that went through it, by stage.
        device: of some stages, by the device's own clock.
        residual: of the processed frames: latency less the sum of the stages. Empty without stages.
        residual_share: mean of the residual over the mean latency.
        misses: frames whose result came after the deadline, or never; None: not known, or no deadline.
        longest_miss_run: the most of those in a row, as they were due.
        slack: deadline less latency, by the percentile of the latency: ``p99`` is what 99 % of the processed
            frames had left at least, ``max`` what the slowest had left. None: no deadline.
        period_jitter: absolute deviation of the time between results from the nominal period (period jitter
            of JEDEC JESD65B; a dropped frame counts as one period). Empty without a rate.
        period_jitter_rms: root mean square of that deviation.
        peak_age: age of the newest result's data just before the next replaced it (peak age of information:
            Costa, Codreanu & Ephremides, "On the age of information in status update systems with packet
            management", 2016).
        achieved_hz: results per second between the first and the last.
        over_two_periods: how many peak ages were above two periods; None without a rate.
    """

    rate_hz: float | None
    frames: int
    processed: int
    dropped: int
    failed: int
    latency: Distribution
    response: Distribution
    stages: dict[str, Distribution]
    device: dict[str, Distribution]
    residual: Distribution
    residual_share: float | None
    misses: int | None
    longest_miss_run: int | None
    slack: Distribution | None
    period_jitter: Distribution
    period_jitter_rms: float | None
    peak_age: Distribution
    achieved_hz: float | None
    over_two_periods: int | None


def distribution(samples: Sequence[float] | _Floats) -> Distribution:
    """Percentiles, intervals, mean and maximum of ``samples``, given in the order they were taken.

    Raises:
        ValueError: a sample is NaN.
    """
    values = np.asarray(samples, np.float64)
    ordered = sort_samples(values)
    quantiles = {}
    for name, permille in PERCENTILES.items():
        value = percentile(ordered, permille)
        low: float | None = None
        high: float | None = None
        if value is not None and len(values) >= MIN_SAMPLES:
            low, high = interval(resampled_quantiles(values, permille, seed=0))
            high = None if ordered[0] < high == ordered[-1] else high
        quantiles[name] = Quantile(value, low, high)
    return Distribution(
        n=len(values),
        mean=float(values.mean()) if len(values) else None,
        max=float(ordered[-1]) if len(values) else None,
        **quantiles,
    )


def describe(run: Run) -> RunStatistics:
    """Statistics of ``run``. Samples that do not exist give empty distributions, never zeros."""
    due, latency = np.asarray(run.scheduled_s, np.float64), np.asarray(run.latency_ms, np.float64)
    total = distribution(latency) if run.told is None else _as_told(run.told)
    residual = latency - np.sum(list(run.stages_ms.values()), axis=0) if run.stages_ms else np.empty(0)
    left = distribution(residual)
    share = left.mean / total.mean if left.mean is not None and total.mean else None
    ages = _peak_ages(due, latency)
    between = np.diff(np.sort(due * 1000 + latency))
    jitter = np.abs(between - 1000 / run.rate_hz) if run.rate_hz else np.empty(0)
    late = late_frames(run)
    return RunStatistics(
        rate_hz=run.rate_hz,
        frames=total.n + len(run.dropped_s) + len(run.failed_s),
        processed=total.n,
        dropped=len(run.dropped_s),
        failed=len(run.failed_s),
        latency=total,
        response=distribution(responses(run)),
        stages={name: distribution(gone_through(run, name)) for name in run.stages_ms},
        device={name: distribution(device_times(run, name)) for name in run.device_ms},
        residual=left,
        residual_share=share,
        misses=None if late is None else int(late.sum()),
        longest_miss_run=None if late is None else _longest_run(late),
        slack=None if run.deadline_ms is None else _slack(total, run.deadline_ms),
        period_jitter=distribution(jitter),
        period_jitter_rms=float(np.sqrt(np.mean(jitter**2))) if len(jitter) else None,
        peak_age=distribution(ages),
        achieved_hz=1000 / float(between.mean()) if len(between) and between.sum() > 0 else None,
        over_two_periods=None if run.rate_hz is None else int((ages > 2000 / run.rate_hz).sum()),
    )


def gone_through(run: Run, stage: str) -> _Floats:
    """What a stage took (ms), of the processed frames that went through it."""
    samples = np.asarray(run.stages_ms.get(stage, ()), np.float64)
    return samples[samples > 0] if stage in PASSED_BY else samples


def device_times(run: Run, stage: str) -> _Floats:
    """What a stage took by the device's own clock (ms), of the processed frames of which it told."""
    samples = np.asarray(run.device_ms.get(stage, ()), np.float64)
    return samples[samples > 0]


def due_frames(run: Run) -> _Floats:
    """When each frame was due, in that order [s since the start of the run], whatever became of it."""
    return np.sort(np.concatenate([run.scheduled_s, run.dropped_s, run.failed_s]))


def responses(run: Run) -> _Floats:
    """Time (ms) from the moment each frame was due until the first result of a frame at least as new.

    Every frame that was due has one, in that order, whatever became of it: with a mailbox that keeps only the
    newest frame, a server that stalls answers few frames late and drops the others, so that the latencies of
    its results hide the stall (coordinated omission: Tene, "How not to measure latency", 2013). For frames
    that nothing ever answered, the end of the run counts, at the earliest one period after the last frame
    was due: their response is at least that.
    """
    order = np.argsort(run.scheduled_s, kind="stable")
    answered = np.asarray(run.scheduled_s, np.float64)[order]
    results = answered + np.asarray(run.latency_ms, np.float64)[order] / 1000
    due = due_frames(run)
    period = 1 / run.rate_hz if run.rate_hz else 0.0
    end = max(run.duration_s, due[-1] + period) if len(due) else run.duration_s
    # The first result of frame i or any after it; results may overtake one another.
    first = np.minimum.accumulate(np.append(results, end)[::-1])[::-1]
    return np.asarray((first[np.searchsorted(answered, due)] - due) * 1000, np.float64)


def late_frames(run: Run) -> NDArray[np.bool_] | None:
    """Of every frame, in the order they were due: did its result miss the deadline or never come?

    None: the run has no deadline, or no samples but what a tool told.
    """
    if run.deadline_ms is None or run.told is not None:
        return None
    return _in_order(run, np.asarray(run.latency_ms, np.float64) > run.deadline_ms)


def lost_frames(run: Run) -> NDArray[np.bool_]:
    """Of every frame, in the order they were due: was it dropped, or did it fail?"""
    return _in_order(run, np.zeros(len(run.scheduled_s), bool))


def _in_order(run: Run, processed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    due = np.concatenate([run.scheduled_s, run.dropped_s, run.failed_s])
    lost = np.ones(len(run.dropped_s) + len(run.failed_s), bool)
    return np.asarray(np.concatenate([processed, lost])[np.argsort(due, kind="stable")], bool)


def _longest_run(flags: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _peak_ages(due_s: _Floats, latency_ms: _Floats) -> _Floats:
    results = due_s * 1000 + latency_ms
    order = np.argsort(results, kind="stable")
    due, results = due_s[order] * 1000, results[order]
    newer = np.ones(len(due), bool)
    newer[1:] = due[1:] > np.maximum.accumulate(due)[:-1]
    return np.asarray(results[newer][1:] - due[newer][:-1], np.float64)


def _as_told(told: ReportedLatencies) -> Distribution:
    quantiles = {
        name: Quantile(told.quantiles_ms.get(name) if is_supported(told.n, permille) else None, None, None)
        for name, permille in PERCENTILES.items()
    }
    return Distribution(n=told.n, mean=told.mean_ms, max=told.max_ms, **quantiles)


def _slack(latency: Distribution, deadline_ms: float) -> Distribution:
    def left(value: float | None) -> float | None:
        return None if value is None else deadline_ms - value

    slack = {
        name: Quantile(left(quantile.value), left(quantile.high), left(quantile.low))
        for name, quantile in latency.quantiles().items()
    }
    return Distribution(n=latency.n, mean=left(latency.mean), max=left(latency.max), **slack)
