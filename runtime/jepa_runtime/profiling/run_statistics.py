"""Statistics of a run, for reports, the terminal and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.profiling.profile import OPTIONAL_STAGES, ReportedLatencies, Run
from jepa_runtime.util.bootstrap import MIN_SAMPLES, confidence_interval, resampled_quantiles
from jepa_runtime.util.percentiles import PERCENTILES, PercentileName
from jepa_runtime.util.statistics import is_supported, percentile, sort_samples

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Quantile:
    """A percentile and its 95 % interval.

    Attributes:
        value: None for too few samples.
        low: The lower end of the interval; None for too few samples.
        high: The upper end; None for too few samples, or if it would be the largest sample, which does not
            bound the percentile.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Distribution:
    """Percentiles with intervals of ``n`` samples, in the unit of the samples."""

    n: int
    p50: Quantile
    p90: Quantile
    p95: Quantile
    p99: Quantile
    p999: Quantile
    mean: float | None
    max: float | None

    def quantiles(self) -> dict[PercentileName, Quantile]:
        """Return the percentiles by name: p50, p90, p95, p99, p999."""
        return {"p50": self.p50, "p90": self.p90, "p95": self.p95, "p99": self.p99, "p999": self.p999}


@dataclass(frozen=True)
class RunStatistics:
    """Statistics of the frames of a run. Times are in ms.

    Attributes:
        rate_hz: Rate of the schedule; None in closed loop.
        frames: Number of scheduled frames: processed, dropped and failed.
        latency: Time of processed frames from the schedule to the result, which is the age of the data when
            its result is published.
        response: Response time of all frames, see :func:`responses`. It shows stalls, which latency hides
            because it skips dropped frames.
        stages: Durations of the processed frames that did not skip the stage, by stage.
        device: Durations of some stages by the device's clock.
        residual: Latency minus the sum of the stages, of processed frames. Empty without stages.
        residual_share: Mean residual divided by the mean latency.
        misses: Number of frames without a result before the deadline; None if unknown or without a deadline.
        longest_miss_run: The longest sequence of those, in the order of the schedule.
        slack: Deadline minus latency, by the percentile of the latency: ``p99`` is the least slack of 99 % of
            the processed frames, ``max`` that of the slowest. None without a deadline.
        period_jitter: Absolute deviation of the time between results from the nominal period (period jitter
            of JEDEC JESD65B; a dropped frame counts as one period). Empty without a rate.
        period_jitter_rms: Root mean square of that deviation.
        peak_age: Age of the newest result's data when the next one replaces it (peak age of information:
            Costa, Codreanu & Ephremides, "On the age of information in status update systems with packet
            management", 2016).
        achieved_hz: Results per second between the first and the last.
        over_two_periods: Number of peak ages above two periods; None without a rate.
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
    """Return percentiles, intervals, mean and maximum of ``samples`` in their order in time.

    Raises:
        ValueError: A sample is NaN.
    """
    values = np.asarray(samples, np.float64)
    ordered = sort_samples(values)
    quantiles = {}
    for name, permille in PERCENTILES.items():
        value = percentile(ordered, permille)
        low: float | None = None
        high: float | None = None
        if value is not None and len(values) >= MIN_SAMPLES:
            low, high = confidence_interval(resampled_quantiles(values, permille, seed=0))
            high = None if ordered[0] < high == ordered[-1] else high
        quantiles[name] = Quantile(value, low, high)
    return Distribution(
        n=len(values),
        mean=float(values.mean()) if len(values) else None,
        max=float(ordered[-1]) if len(values) else None,
        **quantiles,
    )


def describe(run: Run) -> RunStatistics:
    """Return the statistics of ``run``. Missing samples give empty distributions, never zeros."""
    scheduled, latency = np.asarray(run.scheduled_s, np.float64), np.asarray(run.latency_ms, np.float64)
    total = distribution(latency) if run.reported is None else _from_summary(run.reported)
    residual = latency - np.sum(list(run.stages_ms.values()), axis=0) if run.stages_ms else np.empty(0)
    rest = distribution(residual)
    share = rest.mean / total.mean if rest.mean is not None and total.mean else None
    ages = _peak_ages(scheduled, latency)
    intervals = np.diff(np.sort(scheduled * 1000 + latency))
    jitter = np.abs(intervals - 1000 / run.rate_hz) if run.rate_hz else np.empty(0)
    late = late_frames(run)
    return RunStatistics(
        rate_hz=run.rate_hz,
        frames=total.n + len(run.dropped_s) + len(run.failed_s),
        processed=total.n,
        dropped=len(run.dropped_s),
        failed=len(run.failed_s),
        latency=total,
        response=distribution(responses(run)),
        stages={name: distribution(stage_times(run, name)) for name in run.stages_ms},
        device={name: distribution(device_times(run, name)) for name in run.device_ms},
        residual=rest,
        residual_share=share,
        misses=None if late is None else int(late.sum()),
        longest_miss_run=None if late is None else _longest_run(late),
        slack=None if run.deadline_ms is None else _slack(total, run.deadline_ms),
        period_jitter=distribution(jitter),
        period_jitter_rms=float(np.sqrt(np.mean(jitter**2))) if len(jitter) else None,
        peak_age=distribution(ages),
        achieved_hz=1000 / float(intervals.mean()) if len(intervals) and intervals.sum() > 0 else None,
        over_two_periods=None if run.rate_hz is None else int((ages > 2000 / run.rate_hz).sum()),
    )


def stage_times(run: Run, stage: str) -> _Floats:
    """Return the durations [ms] of a stage, of the processed frames that did not skip it."""
    samples = np.asarray(run.stages_ms.get(stage, ()), np.float64)
    return samples[samples > 0] if stage in OPTIONAL_STAGES else samples


def device_times(run: Run, stage: str) -> _Floats:
    """Return the durations [ms] of a stage by the device's clock, where it reported them."""
    samples = np.asarray(run.device_ms.get(stage, ()), np.float64)
    return samples[samples > 0]


def scheduled_frames(run: Run) -> _Floats:
    """Return the scheduled times of all frames, sorted [s since the start of the run]."""
    return np.sort(np.concatenate([run.scheduled_s, run.dropped_s, run.failed_s]))


def responses(run: Run) -> _Floats:
    """Return the time [ms] from each frame's schedule to the first result of it or a newer frame.

    Every scheduled frame has one, in order, also if it was dropped or failed. With a mailbox that holds only
    the newest frame, a server that stalls processes few frames late and drops the others, so that the
    latencies of its results hide the stall (coordinated omission: Tene, "How not to measure latency", 2013).
    Frames without a later result count up to the end of the run, at the earliest one period after the last
    scheduled frame: their response is at least that.
    """
    order = np.argsort(run.scheduled_s, kind="stable")
    processed = np.asarray(run.scheduled_s, np.float64)[order]
    results = processed + np.asarray(run.latency_ms, np.float64)[order] / 1000
    scheduled = scheduled_frames(run)
    period = 1 / run.rate_hz if run.rate_hz else 0.0
    end = max(run.duration_s, scheduled[-1] + period) if len(scheduled) else run.duration_s
    # The first result of frame i or a later one; results may be out of order.
    first = np.minimum.accumulate(np.append(results, end)[::-1])[::-1]
    return np.asarray((first[np.searchsorted(processed, scheduled)] - scheduled) * 1000, np.float64)


def late_frames(run: Run, deadline_ms: float | None = None) -> NDArray[np.bool_] | None:
    """Return for each frame, in the order of the schedule, whether it had no result before the deadline.

    Args:
        run: The run.
        deadline_ms: The deadline (default: that of the run).

    Returns:
        None if there is no deadline, or a summary instead of samples.
    """
    deadline_ms = run.deadline_ms if deadline_ms is None else deadline_ms
    if deadline_ms is None or run.reported is not None:
        return None
    return _in_order(run, np.asarray(run.latency_ms, np.float64) > deadline_ms)


def lost_frames(run: Run) -> NDArray[np.bool_]:
    """Return for each frame, in the order of the schedule, whether it was dropped or failed."""
    return _in_order(run, np.zeros(len(run.scheduled_s), bool))


def _in_order(run: Run, processed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    scheduled = np.concatenate([run.scheduled_s, run.dropped_s, run.failed_s])
    lost = np.ones(len(run.dropped_s) + len(run.failed_s), bool)
    return np.asarray(np.concatenate([processed, lost])[np.argsort(scheduled, kind="stable")], bool)


def _longest_run(flags: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _peak_ages(scheduled_s: _Floats, latency_ms: _Floats) -> _Floats:
    results = scheduled_s * 1000 + latency_ms
    order = np.argsort(results, kind="stable")
    scheduled, results = scheduled_s[order] * 1000, results[order]
    newer = np.ones(len(scheduled), bool)
    newer[1:] = scheduled[1:] > np.maximum.accumulate(scheduled)[:-1]
    return np.asarray(results[newer][1:] - scheduled[newer][:-1], np.float64)


def _from_summary(summary: ReportedLatencies) -> Distribution:
    quantiles = {
        name: Quantile(
            summary.quantiles_ms.get(name) if is_supported(summary.n, permille) else None, None, None
        )
        for name, permille in PERCENTILES.items()
    }
    return Distribution(n=summary.n, mean=summary.mean_ms, max=summary.max_ms, **quantiles)


def _slack(latency: Distribution, deadline_ms: float) -> Distribution:
    def left(value: float | None) -> float | None:
        return None if value is None else deadline_ms - value

    slack = {
        name: Quantile(left(quantile.value), left(quantile.high), left(quantile.low))
        for name, quantile in latency.quantiles().items()
    }
    return Distribution(n=latency.n, mean=left(latency.mean), max=left(latency.max), **slack)
