"""Two figures as inline SVG: a histogram and a time line of latencies. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

_WIDTH, _HEIGHT = 900, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 18, 30
_BINS = 60
_COLUMNS = 400


def histogram(samples: Sequence[float], deadline_ms: float | None) -> str:
    """How often each latency (ms) occurred; bars beyond the deadline are marked."""
    values = np.asarray(samples, np.float64)
    if not len(values):
        return _empty()
    # A single outlier must not squeeze everything else into one bar: it is told in words.
    usual = min(float(values.max()), 2.5 * float(np.quantile(values, 0.99)))
    upper = _nice(max(usual, deadline_ms or 0.0) * 1.02)
    beyond = int((values > upper).sum())
    counts, edges = np.histogram(values, _BINS, (0.0, upper))
    top = _nice(float(counts.max()))
    bars = []
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        if count:
            x, width = _x(left / upper), _x(right / upper) - _x(left / upper)
            late = deadline_ms is not None and left >= deadline_ms
            y = _y(count / top)
            bars.append(
                f"<rect class='{'late' if late else 'bar'}' x='{x:.1f}' y='{y:.1f}' "
                f"width='{max(width - 1, 1):.1f}' height='{_y(0) - y:.1f}'>"
                f"<title>{left:.2f} to {right:.2f} ms: {count}</title></rect>"
            )
    parts = [*_axes(upper, "ms", top, "frames"), *bars]
    if beyond:
        parts.append(
            f"<text class='limit-text' x='{_WIDTH - _RIGHT}' y='{_y(0) - 6:.1f}' text-anchor='end'>"
            f"{beyond} more, up to {values.max():.1f} ms →</text>"
        )
    if deadline_ms is not None:
        x = _x(deadline_ms / upper)
        parts.append(f"<line class='limit' x1='{x:.1f}' x2='{x:.1f}' y1='{_TOP}' y2='{_y(0)}'/>")
        anchor, shift = ("end", -5) if deadline_ms > upper / 2 else ("start", 5)
        parts.append(
            f"<text class='limit-text' x='{x + shift:.1f}' y='{_TOP + 10}' text-anchor='{anchor}'>"
            f"deadline {deadline_ms:g} ms</text>"
        )
    return _svg(parts, f"Histogram of {len(values)} latencies")


def timeline(times_s: Sequence[float], samples: Sequence[float], deadline_ms: float | None) -> str:
    """Latency (ms) over time (s). Samples that share a column are drawn as their span."""
    times, values = np.asarray(times_s, np.float64), np.asarray(samples, np.float64)
    if not len(values):
        return _empty()
    upper = _nice(max(float(values.max()), deadline_ms or 0.0) * 1.02)
    length = _nice(max(float(times.max()), 1e-3))
    columns = np.minimum((times / length * _COLUMNS).astype(int), _COLUMNS - 1)
    marks = []
    for column in np.unique(columns):
        here = values[columns == column]
        high, low = _y(float(here.max()) / upper), _y(float(here.min()) / upper)
        late = deadline_ms is not None and here.max() > deadline_ms
        marks.append(
            f"<rect class='{'late' if late else 'trace'}' x='{_x(column / _COLUMNS):.1f}' y='{high - 1:.1f}' "
            f"width='2.1' height='{low - high + 2:.1f}'/>"
        )
    parts = [*_axes(length, "s", upper, "ms"), *marks]
    if deadline_ms is not None:
        y = _y(deadline_ms / upper)
        parts.append(f"<line class='limit' x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>")
        parts.append(
            f"<text class='limit-text' x='{_WIDTH - _RIGHT}' y='{y - 5:.1f}' text-anchor='end'>"
            f"deadline {deadline_ms:g} ms</text>"
        )
    return _svg(parts, f"Time line of {len(values)} latencies")


def _axes(right: float, right_unit: str, top: float, top_unit: str) -> list[str]:
    parts = []
    for step in range(5):
        share = step / 4
        x, y = _x(share), _y(share)
        parts.append(f"<line class='axis' x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>")
        parts.append(f"<text x='{_LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{_label(top * share)}</text>")
        unit = f" {right_unit}" if step == 4 else ""
        anchor = "end" if step == 4 else "middle"
        parts.append(
            f"<text x='{x:.1f}' y='{_HEIGHT - 10}' text-anchor='{anchor}'>"
            f"{_label(right * share)}{unit}</text>"
        )
    parts.append(f"<text x='{_LEFT - 6}' y='{_TOP - 7}' text-anchor='end'>{escape(top_unit)}</text>")
    return parts


def _svg(parts: Sequence[str], title: str) -> str:
    label = escape(title)
    return f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{label}'>{''.join(parts)}</svg>"


def _empty() -> str:
    return _svg(
        [f"<text x='{_WIDTH / 2}' y='{_HEIGHT / 2}' text-anchor='middle'>no samples</text>"], "no samples"
    )


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _nice(value: float) -> float:
    """The next number of the form {1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10} x 10^n: quarters of it are readable."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10, 20) if step * scale >= value)


def _label(value: float) -> str:
    return f"{value:.4g}"
