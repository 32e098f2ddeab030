"""The plot area of SVG charts: positions, grid, ticks, labels. Colors come from the style of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.reports.html import Html

_LIMIT_HEADROOM = 3.0


@dataclass(frozen=True)
class Plot:
    """Size and margins in user units. Positions are fractions, 0 to 1, of the area between the margins."""

    width: int = 560
    height: int = 260
    left: int = 62
    right: int = 18
    top: int = 26
    bottom: int = 32

    def x(self, position: float) -> float:
        """Return the coordinate of a position from the left edge (0) to the right edge (1)."""
        return self.left + position * (self.width - self.left - self.right)

    def y(self, position: float) -> float:
        """Return the coordinate of a position from the bottom (0) to the top (1)."""
        return self.height - self.bottom - position * (self.height - self.top - self.bottom)

    def svg(self, parts: Iterable[str], label: str) -> Html:
        """Return the chart; ``label`` describes it for screen readers."""
        return Html(
            f"<svg viewBox='0 0 {self.width} {self.height}' role='img' aria-label='{escape(label)}'>"
            f"{''.join(parts)}</svg>"
        )

    def values(self, top: float, unit: str) -> list[str]:
        """Draw horizontal lines at round values from 0 to ``top`` with labels, and the unit above them."""
        parts = [text(self.left - 8, self.top - 10, unit, anchor="end")]
        for value in _round_values(top):
            y = self.y(value / top)
            parts.append(line("axis", self.left, y, self.width - self.right, y))
            parts.append(text(self.left - 8, y + 4, _number(value), anchor="end"))
        return parts

    def ticks(self, ticks: Sequence[tuple[float, str]], *, lines: bool = False) -> list[str]:
        """Draw labels below the area at their positions, with vertical lines if ``lines``."""
        parts = []
        for position, label in ticks:
            x = self.x(position)
            if lines:
                parts.append(line("axis", x, self.y(0), x, self.y(1)))
            anchor = "end" if position > 0.9 else "middle"
            parts.append(
                text(x + (self.right - 2 if anchor == "end" else 0), self.y(0) + 18, label, anchor=anchor)
            )
        return parts

    def round_ticks(self, right: float, unit: str, *, lines: bool = False) -> list[str]:
        """Draw labels at up to six round values from 0 to ``right``, with vertical lines if ``lines``."""
        if not 0 < right < math.inf:
            return self.ticks([(0.0, f"0 {unit}")], lines=lines)
        values = _round_values(right)
        labels = [_number(value) for value in values]
        labels[-1] += f" {unit}"
        return self.ticks(
            [(value / right, label) for value, label in zip(values, labels, strict=True)], lines=lines
        )

    def deadline(self, position: float, label: str) -> list[str]:
        """Draw a horizontal limit if it is within the area."""
        if not 0 <= position <= 1:
            return []
        y = self.y(position)
        return [
            line("limit", self.left, y, self.width - self.right, y),
            text(self.width - self.right, y - 5, label, anchor="end", kind="alert"),
        ]

    def marks(self, rows: Mapping[str, Iterable[float]], *, alert: bool = True) -> list[str]:
        """Draw one row of marks per name above the area, in the alert color if ``alert``."""
        parts = []
        for row, (name, positions) in enumerate(rows.items()):
            y = 6.0 + 20 * row
            parts.append(text(self.left - 8, y + 10, name, anchor="end", kind="alert" if alert else ""))
            parts += [
                rect("late" if alert else "s1 fill", self.x(position), y, 2.4, 12) for position in positions
            ]
        return parts

    def polyline(self, points: Iterable[tuple[float, float]], kind: str, *, max_gap: float = math.inf) -> str:
        """Draw lines through points given as fractions.

        They are interrupted where a point is not finite, and where two are further apart than ``max_gap``.
        """
        segments: list[list[str]] = []
        previous = -math.inf
        for x, y in points:
            if not math.isfinite(y):
                previous = -math.inf
                continue
            if x - previous > max_gap or previous == -math.inf:
                segments.append([])
            segments[-1].append(f"{self.x(x):.1f},{self.y(y):.1f}")
            previous = x
        # A single point becomes a dot with the round ends of the line.
        paths = (" ".join(each * 2 if len(each) == 1 else each) for each in segments)
        return "".join(f"<polyline class='{kind}' points='{path}'/>" for path in paths)


def usual_gap(positions: Sequence[float], *, at_least: float) -> float:
    """Return the distance from which two neighbors have a gap between them: four times the median."""
    if len(positions) < 3:
        return math.inf
    return max(at_least, 4 * median(after - before for before, after in pairwise(positions)))


def _round_values(end: float) -> list[float]:
    step = tick_step(end)
    return [index * step for index in range(int(end / step * (1 + 1e-9)) + 1)]


def _number(value: float) -> str:
    return f"{value:.6g}" if value < 1e6 else f"{value:.0f}"


def text(x: float, y: float, value: str, *, anchor: str = "start", kind: str = "") -> str:
    """Draw a label; ``kind`` is ``strong``, ``alert`` or empty."""
    style = f" class='{kind}'" if kind else ""
    return f"<text{style} x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(value)}</text>"


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """Draw a straight line."""
    return f"<line class='{kind}' x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}'/>"


def rect(kind: str, x: float, y: float, width: float, height: float, title: str = "") -> str:
    """Draw a filled rectangle with a tooltip ``title``; a negative size counts as 0."""
    hint = f"<title>{escape(title)}</title>" if title else ""
    size = f"width='{max(width, 0):.1f}' height='{max(height, 0):.1f}'"
    return f"<rect class='{kind}' x='{x:.1f}' y='{y:.1f}' {size}>{hint}</rect>"


def top_with_limit(
    series: Iterable[NDArray[np.floating]], limit: NDArray[np.floating]
) -> tuple[float, float | None]:
    """Return the upper end of an axis, and the highest limit if it is not within it.

    The axis has room for a limit up to three times the largest value; a higher one would squeeze the values
    flat.
    """
    highest = max((float(each.max(where=np.isfinite(each), initial=0.0)) for each in series), default=0.0)
    above = float(limit.max(where=np.isfinite(limit), initial=0.0))
    top = nice(1.02 * max(highest, min(above, _LIMIT_HEADROOM * highest)))
    return top, above if above > top else None


def hidden_limit(plot: Plot, hidden: float | None) -> list[str]:
    """Draw a remark about a limit above the area."""
    if hidden is None:
        return []
    remark = f"limit up to {hidden:.3g}, not shown"
    return [text(plot.width - plot.right, plot.y(1) - 5, remark, anchor="end")]


def empty() -> Html:
    """Return a placeholder for a chart without samples."""
    plot = Plot(height=80)
    return plot.svg([text(plot.width / 2, plot.height / 2, "no samples", anchor="middle")], "no samples")


def tick_step(length: float) -> float:
    """Return the smallest of the steps {1, 2, 2.5, 5} x 10^n of which at most five fit into ``length``."""
    scale = 10.0 ** math.floor(math.log10(length / 5))
    return next(each * scale for each in (1, 2, 2.5, 5, 10) if each * scale >= length / 5 * (1 - 1e-9))


def nice(value: float) -> float:
    """Return the next number of the form {1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10} x 10^n.

    Values below 10^-9 give 1.
    """
    if value < 1e-9:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10, 20) if step * scale >= value)
