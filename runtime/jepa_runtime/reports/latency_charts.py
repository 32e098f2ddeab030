"""Charts of latencies: histogram, timeline and tail."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from jepa_runtime.reports.html import Html
from jepa_runtime.reports.svg_plot import Plot, empty, line, nice, rect, text

_BINS = 60
_COLUMNS = 500
_SPARSE = 100
_TAIL_POINTS = 200
_TAIL_TICKS = ((0.0, "0"), (0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99"))


def histogram(samples: Sequence[float], deadline_ms: float | None) -> Html:
    """Draw a histogram of latencies [ms]; frames beyond the deadline are marked."""
    values = np.asarray(samples, np.float64)
    if not len(values):
        return empty()
    plot = Plot()
    # A single outlier must not compress everything else into one bar: it becomes a label.
    usual = min(float(values.max()), 2.5 * float(np.quantile(values, 0.99)))
    upper = nice(max(usual, deadline_ms or 0.0) * 1.02)
    beyond = int((values > upper).sum())
    is_late = np.zeros(len(values), bool) if deadline_ms is None else values > deadline_ms
    counts, edges = np.histogram(values, _BINS, (0.0, upper))
    late, _ = np.histogram(values[is_late], _BINS, (0.0, upper))
    top = nice(float(counts.max()))
    parts = [*plot.values(top, "frames"), *plot.round_ticks(upper, "ms")]
    for count, beyond_deadline, left, right in zip(counts, late, edges, edges[1:], strict=False):
        # In the bin of the deadline, late frames are above those in time.
        for kind, shown in (("late", count if beyond_deadline else 0), ("s0 fill", count - beyond_deadline)):
            if shown:
                x, y = plot.x(left / upper), min(plot.y(shown / top), plot.y(0) - 2)
                width = max(plot.x(right / upper) - x - 1, 1.0)
                hint = f"{left:.2f} to {right:.2f} ms: {count}"
                parts.append(rect(kind, x, y, width, plot.y(0) - y, hint))
    if beyond:
        label = f"{beyond} more, up to {values.max():.1f} ms →"
        parts.append(text(plot.x(1), plot.y(0) - 14, label, anchor="end", kind="alert"))
    if deadline_ms is not None:
        x = plot.x(deadline_ms / upper)
        anchor, shift = ("end", -5) if deadline_ms > upper / 2 else ("start", 5)
        label = f"deadline {deadline_ms:.4g} ms"
        parts.append(line("limit", x, plot.y(1), x, plot.y(0)))
        parts.append(text(x + shift, plot.y(1) + 12, label, anchor=anchor, kind="alert"))
    return plot.svg(parts, f"Histogram of {len(values)} latencies")


def timeline(
    times_s: Sequence[float],
    samples: Sequence[float],
    deadline_ms: float | None,
    lost_s: Mapping[str, Sequence[float]] | None = None,
) -> Html:
    """Draw latency [ms] over time [s]; samples in the same column are drawn as their range.

    Args:
        times_s: Times of the samples.
        samples: Latencies.
        deadline_ms: The deadline, or None.
        lost_s: Times of frames without a result by reason; each reason is a row of marks above the latencies.
    """
    rows = {name: np.asarray(moments, np.float64) for name, moments in (lost_s or {}).items() if len(moments)}
    times, values = np.asarray(times_s, np.float64), np.asarray(samples, np.float64)
    ends = [float(moments.max()) for moments in (times, *rows.values()) if len(moments)]
    if not ends:
        return empty()
    plot = Plot(width=1120, height=260 + 20 * len(rows), left=84, top=26 + 20 * len(rows))
    upper = nice(max(float(values.max(initial=0.0)), deadline_ms or 0.0) * 1.02)
    length = nice(max(*ends, 1e-3))
    columns = _columns(times, length)
    highs, lows = np.full(_COLUMNS, -np.inf), np.full(_COLUMNS, np.inf)
    np.maximum.at(highs, columns, values)
    np.minimum.at(lows, columns, values)
    parts = [*plot.values(upper, "ms"), *plot.round_ticks(length, "s")]
    used = np.unique(columns)
    size = 2.1 if len(used) > _SPARSE else 5.0
    for column in used:
        high, low = plot.y(highs[column] / upper), plot.y(lows[column] / upper)
        late = deadline_ms is not None and highs[column] > deadline_ms
        parts.append(
            rect(
                "late" if late else "s0 fill",
                plot.x(column / _COLUMNS),
                high - size / 2,
                size,
                low - high + size,
            )
        )
    parts += plot.marks(
        {name: np.unique(_columns(moments, length)) / _COLUMNS for name, moments in rows.items()}
    )
    if deadline_ms is not None:
        parts += plot.deadline(deadline_ms / upper, f"deadline {deadline_ms:.4g} ms")
    lost = "".join(f", {len(moments)} {name}" for name, moments in rows.items())
    return plot.svg(parts, f"Timeline of {len(values)} latencies{lost}")


def tail(
    series: Mapping[str, Sequence[float]],
    deadline_ms: float | None,
    intervals: Sequence[tuple[float, float, float]] = (),
    *,
    wide: bool = False,
) -> Html:
    """Draw empirical distributions with a stretched tail: ms over the proportion of faster samples.

    The axis is -log10(1 - proportion): the last 1 % is as wide as the last 10 %, up to the maximum.

    Args:
        series: Samples in ms by name; the first has the first color.
        deadline_ms: The deadline, or None.
        intervals: (proportion, low, high), drawn as whiskers on the first series.
        wide: Draw it for the full width of the page.
    """
    ordered = {
        name: np.sort(np.asarray(samples, np.float64)) for name, samples in series.items() if len(samples)
    }
    if not ordered:
        return empty()
    plot = Plot(width=1120, left=84) if wide else Plot()
    decades = max(math.log10(max(len(values) for values in ordered.values())), 1.0) * 1.02
    largest = max(float(values[-1]) for values in ordered.values())
    upper = nice(max(largest, deadline_ms or 0.0) * 1.02)
    ticks = [(_depth(share) / decades, label) for share, label in _TAIL_TICKS if _depth(share) <= decades]
    parts = [*plot.values(upper, "ms"), *plot.ticks(ticks, lines=True)]
    if deadline_ms is not None:
        parts += plot.deadline(deadline_ms / upper, f"deadline {deadline_ms:.4g} ms")
    for index, (_, values) in reversed(list(enumerate(ordered.items()))):
        count = len(values)
        depths = np.linspace(0.0, math.log10(count), _TAIL_POINTS)
        ranks = np.unique(np.minimum((count * (1 - 10.0**-depths)).round().astype(int), count - 1))
        points = [(_depth(rank / count) / decades, values[rank] / upper) for rank in ranks]
        parts.append(plot.polyline(points, f"s{index} stroke"))
    for share, low, high in intervals:
        x = plot.x(_depth(share) / decades)
        parts.append(line("whisker", x, plot.y(low / upper), x, plot.y(high / upper)))
    shown = " and ".join(f"{name} ({len(values)} samples)" for name, values in ordered.items())
    return plot.svg(parts, f"Distribution with stretched tail: {shown}")


def _columns(times: np.ndarray, length: float) -> np.ndarray:
    return np.clip(times / length * _COLUMNS, 0, _COLUMNS - 1).astype(int)


def _depth(share: float) -> float:
    return -math.log10(1 - share)
