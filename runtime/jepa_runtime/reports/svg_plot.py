"""The area of a chart as SVG: where values lie, grid, ticks, labels. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from jepa_runtime.reports.html import Html


@dataclass(frozen=True)
class Plot:
    """Size and margins in user units. Positions are shares, 0 to 1, of the area between the margins."""

    width: int = 560
    height: int = 260
    left: int = 62
    right: int = 18
    top: int = 26
    bottom: int = 32

    def x(self, share: float) -> float:
        """From the left edge of the area (0) to its right edge (1)."""
        return self.left + share * (self.width - self.left - self.right)

    def y(self, share: float) -> float:
        """From the bottom of the area (0) to its top (1)."""
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def svg(self, parts: Iterable[str], label: str) -> Html:
        """The chart. ``label`` says in words what it shows."""
        return Html(
            f"<svg viewBox='0 0 {self.width} {self.height}' role='img' aria-label='{escape(label)}'>"
            f"{''.join(parts)}</svg>"
        )

    def values(self, top: float, unit: str) -> list[str]:
        """Horizontal lines from 0 to ``top`` with their labels, and the unit above them."""
        parts = [text(self.left - 8, self.top - 10, unit, anchor="end")]
        for step in range(5):
            y = self.y(step / 4)
            parts.append(line("axis", self.left, y, self.width - self.right, y))
            parts.append(text(self.left - 8, y + 4, _number(top * step / 4, 4), anchor="end"))
        return parts

    def ticks(self, ticks: Sequence[tuple[float, str]], *, lines: bool = False) -> list[str]:
        """Labels under the area, at their shares; ``lines``: with a vertical line each."""
        parts = []
        for share, label in ticks:
            x = self.x(share)
            if lines:
                parts.append(line("axis", x, self.y(0), x, self.y(1)))
            anchor = "end" if share > 0.97 else "middle"
            parts.append(
                text(x + (self.right - 2 if anchor == "end" else 0), self.y(0) + 18, label, anchor=anchor)
            )
        return parts

    def quarters(self, right: float, unit: str, *, lines: bool = False) -> list[str]:
        """Five labels under the area, from 0 to ``right``; ``lines``: with a vertical line each."""
        labels = [_number(right * step / 4, 3) for step in range(5)]
        labels[-1] += f" {unit}"
        return self.ticks([(step / 4, label) for step, label in enumerate(labels)], lines=lines)

    def deadline(self, share: float, label: str) -> list[str]:
        """A horizontal limit, if it lies within the area."""
        if not 0 <= share <= 1:
            return []
        y = self.y(share)
        return [
            line("limit", self.left, y, self.width - self.right, y),
            text(self.width - self.right, y - 5, label, anchor="end", kind="alert"),
        ]

    def marks(self, rows: Mapping[str, Iterable[float]], *, alert: bool = True) -> list[str]:
        """Marks by name, a row each above the area; ``alert``: they are bad news."""
        parts = []
        for row, (name, shares) in enumerate(rows.items()):
            y = 6.0 + 20 * row
            parts.append(text(self.left - 8, y + 10, name, anchor="end", kind="alert" if alert else ""))
            parts += [rect("late" if alert else "s1 fill", self.x(share), y, 2.4, 12) for share in shares]
        return parts

    def polyline(self, points: Iterable[tuple[float, float]], kind: str) -> str:
        """A line through points given as shares; those that are not finite are left out."""
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points if math.isfinite(y))
        return f"<polyline class='{kind}' points='{path}'/>"


def _number(value: float, digits: int) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.{digits}g}"


def text(x: float, y: float, value: str, *, anchor: str = "start", kind: str = "") -> str:
    """A label; ``kind``: strong or alert."""
    style = f" class='{kind}'" if kind else ""
    return f"<text{style} x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(value)}</text>"


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight line."""
    return f"<line class='{kind}' x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}'/>"


def rect(kind: str, x: float, y: float, width: float, height: float, title: str = "") -> str:
    """A filled rectangle; ``title`` is shown under the pointer. A negative size counts as none."""
    hint = f"<title>{escape(title)}</title>" if title else ""
    size = f"width='{max(width, 0):.1f}' height='{max(height, 0):.1f}'"
    return f"<rect class='{kind}' x='{x:.1f}' y='{y:.1f}' {size}>{hint}</rect>"


def empty() -> Html:
    """In place of a chart that nothing could be drawn into."""
    plot = Plot(height=80)
    return plot.svg([text(plot.width / 2, plot.height / 2, "no samples", anchor="middle")], "no samples")


def nice(value: float) -> float:
    """The next number of the form {1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10} x 10^n: quarters of it are readable.

    Nothing at all (below 10^-9) gives 1.
    """
    if value < 1e-9:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10, 20) if step * scale >= value)
