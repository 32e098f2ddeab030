"""SVG charts of a run: film strips, time series, candidates, and the map of futures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.imaging.conversion import data_uri, to_png
from jepa_runtime.reports.html import Html
from jepa_runtime.reports.svg_plot import (
    Plot,
    empty,
    hidden_limit,
    line,
    nice,
    text,
    top_with_limit,
    usual_gap,
)
from jepa_runtime.visualization import futures_picture
from jepa_runtime.visualization.embedding import Floats, Image
from jepa_runtime.visualization.futures_picture import ErrorCurves, FuturesPicture, MomentPicture
from jepa_runtime.visualization.palette import BASELINE, BEST, EXECUTED, SERIES

Points = NDArray[np.floating]
_COLUMNS = 400
_CELL, _GAP, _LABEL, _HEAD = 112, 6, 150, 26
_LINE = 16
# Columns without data that interrupt a line.
_GAP_COLUMNS = 8
_FAINT = "whisker faint"
# The colors of series, as indices in palette.SERIES.
COLORS = {name: SERIES.index(color) for name, color in futures_picture.COLORS.items()} | {
    "error, median": SERIES.index(EXECUTED),
    "error, 90 % quantile": SERIES.index(BEST),
    "persistence, median": SERIES.index(BASELINE),
}
ERROR_SERIES = ("error, median", "error, 90 % quantile", "persistence, median")


def film_strip(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str | None], Sequence[str]]]) -> Html:
    """Draw rows of images with labels.

    Args:
        heads: Labels above the columns.
        rows: Label (may have several lines), images as URIs (None: an empty cell), and captions below the
            images (or none).
    """
    width = max(1120, _LABEL + len(heads) * (_CELL + _GAP))
    parts = [
        text(_LABEL + column * (_CELL + _GAP) + _CELL / 2, 18, head, anchor="middle")
        for column, head in enumerate(heads)
    ]
    top = _HEAD
    for label, images, remarks in rows:
        for row, words in enumerate(label.split("\n")):
            parts.append(text(0, top + 16 + _LINE * row, words, kind="strong" if row == 0 else ""))
        for column, image in enumerate(images):
            x = _LABEL + column * (_CELL + _GAP)
            if image is not None:
                parts.append(
                    f"<image x='{x}' y='{top}' width='{_CELL}' height='{_CELL}' href='{image}' "
                    "preserveAspectRatio='xMidYMid meet'/>"
                )
        for column, remark in enumerate(remarks):
            middle = _LABEL + column * (_CELL + _GAP) + _CELL / 2
            parts.append(text(middle, top + _CELL + 14, remark, anchor="middle"))
        top += _CELL + (24 if remarks else 8)
    shown = "; ".join(label.replace("\n", " ") for label, _, _ in rows)
    return Html(
        f"<svg viewBox='0 0 {width} {top}' role='img' aria-label='{escape(shown, quote=True)}'>"
        f"{''.join(parts)}</svg>"
    )


def band(colors: Image, label: str, length_s: float) -> Html:
    """Draw colors [n, T, 3] over time, one row per token."""
    columns = np.linspace(0, len(colors) - 1, min(len(colors), 800)).astype(int)
    pixels = colors[columns].transpose(1, 0, 2)
    png = to_png(np.ascontiguousarray(pixels))
    plot = Plot(width=1120, height=44 + max(48, min(8 * pixels.shape[0], 160)), left=100, top=6)
    x, y = plot.x(0), plot.y(1)
    shown = (
        f"<image x='{x:.1f}' y='{y:.1f}' width='{plot.x(1) - x:.1f}' height='{plot.y(0) - y:.1f}' "
        f"href='{data_uri(png, 'png')}' preserveAspectRatio='none' "
        "style='image-rendering:pixelated'/>"
    )
    return plot.svg([shown, *plot.round_ticks(length_s, "s")], label)


def over_time(
    series: Mapping[str, tuple[Points, Points]],
    length_s: float,
    unit: str,
    *,
    limit: tuple[Points, Points] | None = None,
    marks: Mapping[str, Sequence[float]] | None = None,
    alert: bool = True,
) -> Html:
    """Draw lines over time, with the highest value of each column.

    Args:
        series: (times in s, values) by name.
        length_s: Length of the time axis.
        unit: Unit of the values.
        limit: Drawn dashed where it is finite.
        marks: Times by name; each name is a row of marks above the lines.
        alert: Draw the marks in the alert color.
    """
    drawn = {name: points for name, points in series.items() if len(points[0])}
    if not drawn:
        return empty()
    rows = {name: moments for name, moments in (marks or {}).items() if len(moments)}
    plot = Plot(width=1120, height=240 + 20 * len(rows), left=100, top=26 + 20 * len(rows))
    bounds = np.empty(0) if limit is None else limit[1]
    top, hidden = top_with_limit([values for _, values in drawn.values()], bounds)
    parts = [*plot.values(top, unit), *plot.round_ticks(length_s, "s")]
    for index, (times, values) in zip(colors_of(drawn), drawn.values(), strict=True):
        parts.append(_line(plot, _outline(times, values, length_s, top), f"s{index} stroke"))
    if limit is not None and len(limit[0]):
        outline = _outline(*limit, length_s, top)
        parts.append(_line(plot, [(x, y if y <= 1 else math.nan) for x, y in outline], "limit"))
        parts += hidden_limit(plot, hidden)
    shares = {name: [min(moment / length_s, 1.0) for moment in moments] for name, moments in rows.items()}
    parts += plot.marks(shares, alert=alert)
    return plot.svg(parts, f"{', '.join(drawn)} over time")


def _line(plot: Plot, points: Sequence[tuple[float, float]], kind: str) -> str:
    gap = usual_gap([x for x, _ in points], at_least=_GAP_COLUMNS / _COLUMNS)
    return plot.polyline(points, kind, max_gap=gap)


def candidates(picture: FuturesPicture) -> Html:
    """Draw the energy of each candidate over the prediction time, with those that are shown in color."""
    assert picture.energies is not None
    plot, ahead_s, energies = Plot(), picture.ahead_s, picture.energies
    top = nice(1.02 * float(np.nanmax(energies)))

    def curve_line(index: int, kind: str) -> str:
        curve = np.clip(energies[index] / top, 0, 1)
        return plot.polyline(zip(ahead_s / ahead_s[-1], curve, strict=True), kind)

    parts = [*plot.values(top, "energy"), *plot.round_ticks(float(ahead_s[-1]), "s ahead")]
    parts += [curve_line(index, _FAINT) for index in range(len(energies))]
    parts += [curve_line(each.index, f"s{COLORS[each.role]} stroke") for each in picture.candidates]
    names = ", ".join(each.role for each in picture.candidates)
    return plot.svg(parts, f"energy over the time ahead: {names}")


def plane(known: Floats, picture: MomentPicture) -> Html:
    """Draw the map of futures, among the positions [N, 2] of known frames."""
    futures, observed = picture.futures, picture.observed_path
    plot = Plot(height=420, left=10, right=10, top=26, bottom=28)
    every = np.concatenate([known, futures.paths.reshape(-1, 2), observed])
    low, high = every.min(axis=0), every.max(axis=0)
    size = np.array([plot.x(1) - plot.x(0), plot.y(0) - plot.y(1)])
    # One scale for both directions, so that distances are comparable.
    scale = 0.94 * float((size / np.maximum(high - low, 1e-9)).min())
    middle = (low + high) / 2

    def shares(points: Floats) -> Points:
        found: Points = 0.5 + (points - middle) * scale / size
        return found

    def dot(place: Points, look: str, radius: int) -> str:
        return f"<circle {look} cx='{plot.x(place[0]):.1f}' cy='{plot.y(place[1]):.1f}' r='{radius}'/>"

    parts = [dot(place, "fill='currentColor' opacity='.16'", 2)
             for place in shares(known[:: -(-len(known) // 1500)])]  # fmt: skip
    parts += [plot.polyline(shares(futures.path(index)), _FAINT) for index in range(len(futures.paths))]
    drawn = {each.role: futures.path(each.index) for each in futures.candidates} | {"observed": observed}
    for name, path in drawn.items():
        index = COLORS[name]
        parts.append(plot.polyline(shares(path), f"s{index} stroke"))
        parts += [dot(place, f"class='s{index} fill'", 3) for place in shares(path[1:])]
    parts.append(dot(shares(futures.start), "class='whisker' fill='none'", 6))
    left, bottom = plot.x(0), plot.y(0)
    parts += [line("axis", left, bottom, plot.x(1), bottom), line("axis", left, bottom, left, plot.y(1))]
    parts.append(
        text(left, plot.top - 12, f"\u2191 principal axis 2 ({futures.explained[1]:.0%} of the variance)")
    )
    label = f"principal axis 1 ({futures.explained[0]:.0%} of the variance) \u2192"
    parts.append(text(plot.x(1), bottom + 18, label, anchor="end"))
    return plot.svg(parts, f"Map of futures: {', '.join(drawn)}")


def prediction_errors(curves: ErrorCurves) -> Html:
    """Draw prediction errors over the prediction time, against their bounds."""
    shown = dict(zip(ERROR_SERIES, (curves.medians, curves.quantiles, curves.persistence), strict=True))
    return over_steps(curves.ahead_s, shown, "distance", limit=curves.bounds)


def over_steps(
    ahead_s: Points, curves: Mapping[str, Points], unit: str, *, limit: Points | None = None
) -> Html:
    """Draw lines over the time ahead [H], with ``limit`` dashed.

    Args:
        ahead_s: The times ahead.
        curves: Values by name, which determines the color (:data:`COLORS`), else its position.
        unit: The unit of the values.
        limit: Limits of the values.
    """
    plot = Plot(left=84)
    top, hidden = top_with_limit(list(curves.values()), np.empty(0) if limit is None else limit)
    colors = colors_of(curves)
    drawn = [(values, f"s{color} stroke") for values, color in zip(curves.values(), colors, strict=True)]
    if limit is not None:
        drawn.append((np.where(limit <= top, limit, np.nan), "limit"))
    parts = [*plot.values(top, unit), *plot.round_ticks(float(ahead_s[-1]), "s ahead")]
    parts += [
        plot.polyline(zip(ahead_s / ahead_s[-1], values / top, strict=True), kind) for values, kind in drawn
    ]
    return plot.svg([*parts, *hidden_limit(plot, hidden)], f"{unit} over the time ahead: {', '.join(curves)}")


def colors_of(names: Iterable[str]) -> list[int]:
    """Return the index of each color in ``palette.SERIES``: by the meaning of the name, else the next one."""
    names = list(names)
    free = iter(index for index in range(len(SERIES)) if index not in {COLORS.get(name) for name in names})
    return [COLORS[name] if name in COLORS else next(free) for name in names]


def _outline(times: Points, values: Points, length_s: float, top: float) -> list[tuple[float, float]]:
    """Return the highest value of each column of a chart, as fractions."""
    columns = np.clip(times / max(length_s, 1e-9) * _COLUMNS, 0, _COLUMNS - 1).astype(int)
    highest = np.full(_COLUMNS, -np.inf)
    np.maximum.at(highest, columns, values)
    used = np.flatnonzero(np.isfinite(highest))
    return [((column + 0.5) / _COLUMNS, float(highest[column]) / top) for column in used]
