"""Charts of an evaluation, in the style of the runtime's reports; a series keeps its color."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jepa_export.evaluation.comparison import EDGES
from jepa_runtime.reports import Html, Plot, nice, rect

COLORS = 6
_DECADES = 9


def cosines(histograms: Mapping[str, Sequence[int]]) -> Html:
    """Chart the proportion of tokens (%) by 1 - cosine, on a logarithmic axis."""
    percentages = {
        name: [100 * count / sum(counts) for count in counts] for name, counts in histograms.items()
    }
    plot, bins = Plot(), len(EDGES) - 1
    top = nice(max(map(max, percentages.values())))
    ticks = [(decade / _DECADES, f"1e{decade - _DECADES}") for decade in range(0, _DECADES, 3)]
    parts = [*plot.values(top, "%"), *plot.ticks([*ticks, (1.0, "1")], lines=True)]
    for index, values in enumerate(percentages.values()):
        outline = [
            (place / bins, value / top) for left, value in enumerate(values) for place in (left, left + 1)
        ]
        parts.append(plot.polyline(outline, f"s{index % COLORS} stroke"))
    return plot.svg(parts, f"Deviation of tokens: {', '.join(percentages)}")


def steps(series: Mapping[str, Sequence[float]]) -> Html:
    """Chart a proportion, in %, over the steps of a prediction."""
    plot, horizon = Plot(), len(next(iter(series.values())))
    top = nice(100 * max(map(max, series.values())) * 1.02)
    places = [(step + 0.5) / horizon for step in range(horizon)]
    shown = range(0, horizon, -(-horizon // 12))
    labels = [(places[step], f"step {step + 1}" if step == 0 else str(step + 1)) for step in shown]
    parts = [*plot.values(top, "%"), *plot.ticks(labels)]
    for index, (name, values) in enumerate(series.items()):
        color = index % COLORS
        points = list(zip(places, (100 * value / top for value in values), strict=True))
        parts.append(plot.polyline(points, f"s{color} stroke"))
        for step, (x, y) in enumerate(points, 1):
            hint = f"{name}, step {step}: {y * top:.3g} %"
            parts.append(rect(f"s{color} fill", plot.x(x) - 2.5, plot.y(y) - 2.5, 5, 5, hint))
    return plot.svg(parts, f"Over {horizon} steps: {', '.join(series)}")


def curves(series: Mapping[str, Sequence[tuple[float, float]]]) -> Html:
    """Chart ROC curves: detected events over false alarms, both in %."""
    plot = Plot(width=400, height=340)
    parts = [*plot.values(100, "%"), *plot.round_ticks(100, "%", lines=True)]
    parts.append(plot.polyline([(0, 0), (1, 1)], "axis"))
    for index, points in enumerate(series.values()):
        parts.append(plot.polyline(points, f"s{index % COLORS} stroke"))
    return plot.svg(parts, f"ROC curves: {', '.join(series)}")
