"""Charts of a profile besides latencies: stages, rates, cold start, idle gaps, sensor readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from jepa_runtime.profiling.profile import ColdStart, IdleGap, Sweep
from jepa_runtime.reports.html import Html, ms, with_unit
from jepa_runtime.reports.svg_plot import Plot, empty, line, nice, rect, text, usual_gap
from jepa_runtime.telemetry.measurements import Reading

_ROW = 26
_SPARK_COLUMNS = 120
# Columns without a reading that interrupt a line.
_SPARK_GAP = 4

CACHES = {"none": "no cache", "miss": "cache miss", "hit": "cache hit"}


@dataclass(frozen=True)
class Bar:
    """One row of a waterfall [ms]: its start, and its percentiles relative to it."""

    name: str
    start: float
    p50: float | None
    p99: float | None
    color: int


def waterfall(bars: Sequence[Bar]) -> Html:
    """Draw one row per stage: p50 as a bar, with a whisker to p99, labeled with both."""
    if not bars:
        return empty()
    plot = Plot(width=1120, height=44 + _ROW * len(bars), left=130, right=130, top=8, bottom=36)
    upper = nice(max(bar.start + (bar.p99 or bar.p50 or 0.0) for bar in bars) * 1.02)
    parts = plot.round_ticks(upper, "ms", lines=True)
    for row, bar in enumerate(bars):
        y = plot.top + _ROW * row
        parts.append(text(plot.left - 10, y + 16, bar.name, anchor="end", kind="strong"))
        if bar.p50 is None:
            parts.append(text(plot.x(bar.start / upper) + 4, y + 16, "-"))
            continue
        x, end = plot.x(bar.start / upper), plot.x((bar.start + bar.p50) / upper)
        last = end
        label = ms(bar.p50) if bar.p99 is None else f"{ms(bar.p50)}, p99 {ms(bar.p99)}"
        parts.append(
            rect(f"s{bar.color} fill", x, y + 4, max(end - x, 1.0), _ROW - 10, f"{bar.name}: {label} ms")
        )
        if bar.p99 is not None:
            last = max(plot.x((bar.start + bar.p99) / upper), end)
            middle = y + _ROW / 2 - 1
            parts.append(line("whisker", end, middle, last, middle))
            parts.append(line("whisker", last, middle - 4, last, middle + 4))
        parts.append(text(last + 6, y + 16, label))
    summary = ", ".join(f"{bar.name} {with_unit(bar.p50)}" for bar in bars)
    return plot.svg(parts, f"Stages of a frame: {summary}")


def sweep(measured: Sweep) -> Html:
    """Draw p50 and p99 [ms] over the rate [Hz], with the period as a limit, and the knee."""
    series = [
        [(point.rate_hz, point.p50_ms) for point in measured.points if point.p50_ms is not None],
        [(point.rate_hz, point.p99_ms) for point in measured.points if point.p99_ms is not None],
    ]
    values = [value for points in series for _, value in points]
    if not values:
        return empty()
    plot = Plot()
    right = nice(max(point.rate_hz for point in measured.points) * 1.02)
    upper = nice(max(values) * 1.25)
    parts = [*plot.values(upper, "ms"), *plot.round_ticks(right, "Hz")]
    periods = [(rate, 1000 / rate) for rate in np.linspace(right / 200, right, 200) if 1000 / rate <= upper]
    if periods:
        parts.append(plot.polyline([(rate / right, period / upper) for rate, period in periods], "limit"))
        share, y = periods[0][0] / right, plot.y(periods[0][1] / upper) + 14
        anchor, shift = ("start", 10) if share < 0.25 else ("end", -2)
        parts.append(text(plot.x(share) + shift, y, "one period", anchor=anchor, kind="alert"))
    for index, points in enumerate(series):
        shares = [(rate / right, value / upper) for rate, value in points]
        parts.append(plot.polyline(shares, f"s{index} stroke"))
        for (rate, value), (x, y) in zip(points, shares, strict=True):
            hint = f"{rate:g} Hz: {ms(value)} ms"
            parts.append(rect(f"s{index} fill", plot.x(x) - 3, plot.y(y) - 3, 6, 6, hint))
    if measured.knee_hz is not None:
        x = plot.x(measured.knee_hz / right)
        parts.append(line("whisker", x, plot.y(0), x, plot.y(1)))
        parts.append(text(x, plot.y(1) - 6, f"knee {measured.knee_hz:g} Hz", anchor="middle", kind="strong"))
    return plot.svg(parts, f"Latency over rate, {len(measured.points)} rates")


def cold_start(starts: Sequence[ColdStart], phases: Sequence[str]) -> Html:
    """Draw one bar per cache state, with the medians [ms] of ``phases`` in sequence."""
    rows = [(start, [median(start.phases_ms.get(phase) or [0.0]) for phase in phases]) for start in starts]
    upper = nice(max((sum(times) for _, times in rows), default=0.0) * 1.02)
    plot = Plot(height=44 + 2 * _ROW * len(rows), left=104, right=64, top=8, bottom=36)
    parts = plot.round_ticks(upper, "ms", lines=True)
    for row, (start, times) in enumerate(rows):
        y, begin = plot.top + 2 * _ROW * row, 0.0
        parts.append(text(plot.left - 10, y + _ROW + 3, CACHES[start.cache], anchor="end", kind="strong"))
        for index, (phase, duration) in enumerate(zip(phases, times, strict=True)):
            x, end = plot.x(begin / upper), plot.x((begin + duration) / upper)
            hint = f"{phase}: {ms(duration)} ms"
            parts.append(rect(f"s{index % 6} fill", x, y + 10, end - x, 2 * _ROW - 20, hint))
            begin += duration
        parts.append(text(plot.x(begin / upper) + 6, y + _ROW + 3, ms(_total(start))))
    summary = ", ".join(f"{CACHES[start.cache]} {with_unit(_total(start))}" for start in starts)
    return plot.svg(parts, f"Phases of a cold start: {summary}")


def _total(start: ColdStart) -> float | None:
    return median(start.total_ms) if start.total_ms else None


def idle_gaps(gaps: Sequence[IdleGap]) -> Html:
    """Draw the latencies [ms] after each idle gap, and their median."""
    shown = [gap for gap in gaps if gap.latency_ms]
    if not shown:
        return empty()
    plot = Plot()
    upper = nice(max(max(gap.latency_ms) for gap in shown) * 1.05)
    places = [(index + 0.5) / len(shown) for index in range(len(shown))]
    parts = plot.values(upper, "ms")
    parts += plot.ticks([(place, f"{gap.gap_s:g} s") for place, gap in zip(places, shown, strict=True)])
    for place, gap in zip(places, shown, strict=True):
        x, middle = plot.x(place), median(gap.latency_ms)
        for value in gap.latency_ms:
            y = plot.y(value / upper)
            parts.append(f"<circle class='s0 fill' fill-opacity='.55' cx='{x:.1f}' cy='{y:.1f}' r='4'/>")
        y = plot.y(middle / upper)
        parts.append(line("whisker", x - 16, y, x + 16, y))
        parts.append(text(x + 22, y + 4, f"{middle:.3g}", kind="strong"))
    summary = ", ".join(f"{median(gap.latency_ms):.3g} ms after {gap.gap_s:g} s" for gap in shown)
    return plot.svg(parts, f"Latency after an idle gap, medians: {summary}")


def reading(measured: Reading) -> Html:
    """Draw a small chart of one quantity over time; percentages span 0 to 100, others their range."""
    times, values = np.asarray(measured.times_s, np.float64), np.asarray(measured.values, np.float64)
    if not len(values):
        return empty()
    plot = Plot(width=280, height=96, left=8, right=8, top=8, bottom=22)
    low, high = (0.0, 100.0) if measured.unit == "%" else (float(values.min()), float(values.max()))
    span = (high - low) or 1.0
    low, high = (low, high) if measured.unit == "%" else (low - span * 0.15, high + span * 0.15)
    begin, length = float(times.min()), float(np.ptp(times)) or 1.0
    parts = [line("axis", plot.left, plot.y(0), plot.width - plot.right, plot.y(0))]
    points = [
        ((times[index] - begin) / length, (values[index] - low) / (high - low))
        for index in _extremes(times - begin, values, length)
    ]
    gap = usual_gap(((times - begin) / length).tolist(), at_least=_SPARK_GAP / _SPARK_COLUMNS)
    parts.append(plot.polyline(points, "s0 stroke", max_gap=gap))
    parts.append(text(plot.left, plot.height - 6, f"{round(begin)} s"))
    parts.append(text(plot.width - plot.right, plot.height - 6, f"{round(begin + length)} s", anchor="end"))
    return plot.svg(
        parts, f"{measured.name} over time, {values.min():.4g} to {values.max():.4g} {measured.unit}"
    )


def _extremes(times: np.ndarray, values: np.ndarray, length: float) -> list[int]:
    """Return the samples to draw: minimum and maximum of each column, so that no peak is lost."""
    columns = np.minimum((times / length * _SPARK_COLUMNS).astype(int), _SPARK_COLUMNS - 1)
    chosen: set[int] = set()
    for column in np.unique(columns):
        indices = np.flatnonzero(columns == column)
        chosen |= {int(indices[np.argmin(values[indices])]), int(indices[np.argmax(values[indices])])}
    return sorted(chosen)
