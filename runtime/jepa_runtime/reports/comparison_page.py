"""A comparison of latency profiles as a page: verdicts, changes with their intervals, and distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jepa_runtime.profiling.comparison import Change, Measure
from jepa_runtime.profiling.comparison_table import Entry, as_dict, cells, remarks
from jepa_runtime.reports.html import Html, Section, block, bullets, card, figure, numbers, page, section
from jepa_runtime.reports.latency_charts import tail
from jepa_runtime.reports.svg_plot import Plot, line, rect, text, tick_step
from jepa_runtime.util.percentiles import label
from jepa_runtime.visualization.palette import SERIES

_ROW = 26


def render_comparison(entries: Sequence[Entry], measure: Measure, *, max_regression: float) -> str:
    """Return the page.

    Args:
        entries: The baseline and the profiles compared with it.
        measure: What is compared.
        max_regression: Largest accepted rise of a percentile, as a proportion.
    """
    baseline, *others = entries
    parts = [
        block("cards", map(_card, entries)),
        _changes(others, max_regression),
        _distributions(entries, measure),
        section("Profiles", _table(entries, measure)),
        section("Remarks", bullets(remarks(entries, measure))),
    ]
    data = {
        "report": "comparison",
        **as_dict(entries, measure, max_regression),
        "samples_ms": {entry.name: np.round(entry.samples(measure), 4) for entry in entries},
    }
    subtitle = f"{', '.join(entry.name for entry in others)} against {baseline.name}"
    return page("Comparison of latency profiles", subtitle, [part for part in parts if part], data)


def _card(entry: Entry) -> Html:
    if entry.comparison is None:
        return card(entry.name, "baseline", kind="main")
    verdict = entry.comparison.verdict
    return card(entry.name, verdict, kind="" if verdict in ("better", "same") else "alert")


def _changes(others: Sequence[Entry], max_regression: float) -> Section | None:
    rows = {
        f"{entry.name}, {label(name)}": change
        for entry in others
        if entry.comparison is not None
        for name, change in entry.comparison.times.items()
    }
    if not rows:
        return None
    about = (
        "Change of each percentile relative to the baseline; lines: 95 % intervals; dashed: the largest "
        f"accepted rise, {max_regression:.1%}. A percentile is worse if it lies beyond the dashed line and "
        "its interval above zero."
    )
    return section("Changes", figure(changes(rows, max_regression), about, wide=True))


def changes(rows: dict[str, Change], max_regression: float) -> Html:
    """Draw one row per change [%]: its point and its interval, next to zero and the largest accepted rise."""
    percentages = {
        name: [100 * value for value in (change.low, change.point, change.high)]
        for name, change in rows.items()
    }
    limit = 100 * max_regression
    ends = [0.0, limit, *(value for values in percentages.values() for value in values)]
    step = tick_step(max(ends) - min(ends) or 1.0)
    first, last = math.floor(min(ends) / step), math.ceil(max(ends) / step)

    plot = Plot(width=1120, height=44 + _ROW * len(rows), left=230, right=80, top=8, bottom=36)

    def x(value: float) -> float:
        return plot.x((value / step - first) / (last - first))

    places = [(index - first) / (last - first) for index in range(first, last + 1)]
    labels = [f"{index * step:+g} %" if index else "0" for index in range(first, last + 1)]
    parts = plot.ticks(list(zip(places, labels, strict=True)), lines=True)
    parts.append(line("whisker", x(0), plot.y(0), x(0), plot.y(1)))
    parts.append(line("limit", x(limit), plot.y(0), x(limit), plot.y(1)))
    for row, (name, (low, point, high)) in enumerate(percentages.items()):
        y = plot.top + _ROW * row + _ROW / 2
        worse = point > limit and low > 0
        parts.append(text(plot.left - 10, y + 4, name, anchor="end", kind="strong"))
        parts.append(line("whisker", x(low), y, x(high), y))
        parts += [line("whisker", x(end), y - 4, x(end), y + 4) for end in (low, high)]
        hint = f"{name}: {point:+.1f} %, 95 %: {low:+.1f} % to {high:+.1f} %"
        parts.append(rect("late" if worse else "s0 fill", x(point) - 4, y - 4, 8, 8, hint))
        parts.append(text(x(high) + 8, y + 4, f"{point:+.1f} %", kind="alert" if worse else ""))
    summary = ", ".join(f"{name} {values[1]:+.1f} %" for name, values in percentages.items())
    return plot.svg(parts, f"Changes relative to the baseline: {summary}")


def _distributions(entries: Sequence[Entry], measure: Measure) -> Section | None:
    drawn = {entry.name: entry.samples(measure) for entry in entries[: len(SERIES)]}
    series = {name: samples.tolist() for name, samples in drawn.items() if len(samples)}
    if not series:
        return None
    deadlines = {entry.profile.run.deadline_ms for entry in entries}
    chart = tail(series, deadlines.pop() if len(deadlines) == 1 else None, wide=True)
    hidden = len(entries) - len(drawn)
    about = (
        f"{measure.capitalize()} in ms by the proportion of faster frames; the last 1 % is as wide as the "
        "last 10 %." + (f" {hidden} more profiles are not drawn." if hidden else "")
    )
    return section("Distributions", figure(chart, about, legend=list(series), wide=True))


def _table(entries: Sequence[Entry], measure: Measure) -> Html:
    """Return one column per profile, as in the terminal."""
    columns = [cells(entry, measure) for entry in entries]
    head, *names = columns[0]
    rows = [[name, *(column[name] for column in columns)] for name in names]
    return numbers(["", *(column[head] for column in columns)], rows, text_columns=len(columns) + 1)
