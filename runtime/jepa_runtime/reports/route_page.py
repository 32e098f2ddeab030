"""A repeated route as a page: its places as images, and where the robot was sure of its place."""

from __future__ import annotations

import math

import numpy as np

from jepa_runtime.imaging.conversion import data_uri
from jepa_runtime.reports.html import Html, Section, block, bullets, card, facts, figure, page, section
from jepa_runtime.reports.run_charts import film_strip
from jepa_runtime.reports.svg_plot import Plot, nice
from jepa_runtime.routes.follower import RouteOutcome
from jepa_runtime.routes.route import Route
from jepa_runtime.routes.trace import Trace

_SHOWN = 9
# Places of the route whose confidence is shown as one value.
_COLUMNS = 200


def render_route(route: Route, trace: Trace, *, name: str) -> str:
    """Return the page.

    Args:
        route: The route, in the direction of the drive.
        trace: What happened; at least one image.
        name: Name of the route.
    """
    result, points = trace.ended, trace.points
    kind = "main" if result.outcome is RouteOutcome.REACHED else "alert"
    confidences = [point.confidence for point in points]
    cards = [
        card("outcome", str(result.outcome), result.reason, kind=kind),
        card(
            "furthest place", f"{max(point.progress for point in points):.0%}", f"of {len(route)} key frames"
        ),
        card("duration", f"{points[-1].time_s:.1f} s", f"the route takes {route.duration_s:.1f} s"),
        card("median confidence", f"{np.median(confidences):.2f}"),
        card("stops on the way", str(len(trace.stops))),
    ]
    stops = bullets(f"at {progress:.0%} of the route: {reason}" for progress, reason in trace.stops)
    parts: list[Html | Section] = [
        block("cards", cards),
        section("The route", _film(route, trace), figure(_confidence(trace), _CONFIDENCE_TEXT, wide=True)),
        section("The drive", block("columns", [_places(trace), _energies(route, trace)])),
        *([section("Stops", stops)] if trace.stops else []),
        section("Configuration", facts(_subject(route))),
    ]
    subtitle = f"{route.source} · {route.model.model_id} {route.model.version}"
    return page(f"Route {name}", subtitle, parts, {"report": "route", **trace.as_dict()})


_CONFIDENCE_TEXT = (
    "Lowest confidence at each place of the route. Marks above: places where the robot stopped. "
    "Gaps: places that "
    "it has not passed."
)


def _film(route: Route, trace: Trace) -> Html:
    """Draw key frames along the route with the lowest confidence near each."""
    chosen = np.unique(np.linspace(0, len(route) - 1, _SHOWN).round().astype(int))
    lowest = _lowest_confidence(trace, len(route))
    images = [data_uri(route.key_frames[index].image, "png") for index in chosen]
    remarks = ["not passed" if math.isnan(lowest[index]) else f"{lowest[index]:.2f}" for index in chosen]
    heads = [f"{route.key_frames[index].time_s:.1f} s" for index in chosen]
    return film_strip(heads, [("key frames;\nconfidence\nat the place", images, remarks)])


def _lowest_confidence(trace: Trace, columns: int) -> list[float]:
    """Return the lowest confidence in each part of the route; NaN: the robot was not there."""
    lowest = [math.nan] * columns
    for point in trace.points:
        column = min(round(point.progress * (columns - 1)), columns - 1)
        lowest[column] = float(np.fmin(point.confidence, lowest[column]))
    return lowest


def _confidence(trace: Trace) -> Html:
    plot = Plot(width=1120, height=220, top=44)
    lowest = _lowest_confidence(trace, _COLUMNS)
    known = [(index / (_COLUMNS - 1), value) for index, value in enumerate(lowest) if not math.isnan(value)]
    return plot.svg(
        [
            *plot.values(1.0, "confidence"),
            *plot.round_ticks(100.0, "%"),
            *plot.marks({"stops": [progress for progress, _ in trace.stops]}),
            plot.polyline(known, "stroke s0", max_gap=0.1),
        ],
        "Confidence along the route",
    )


def _places(trace: Trace) -> Html:
    plot, end_s = Plot(), max(trace.points[-1].time_s, 1e-3)
    line = [(point.time_s / end_s, point.progress) for point in trace.points]
    parts = [*plot.values(1.0, "place"), *plot.round_ticks(end_s, "s"), plot.polyline(line, "stroke s0")]
    return figure(plot.svg(parts, "Place over time"), "Place on the route over time: 0 start, 1 end.")


def _energies(route: Route, trace: Trace) -> Html:
    plot, end_s = Plot(), max(trace.points[-1].time_s, 1e-3)
    top = nice(max(2 * route.lost_energy, *(point.energy for point in trace.points)))
    line = [(point.time_s / end_s, point.energy / top) for point in trace.points]
    parts = [
        *plot.values(top, "energy"),
        *plot.round_ticks(end_s, "s"),
        *plot.deadline(route.lost_energy / top, "off the route"),
        plot.polyline(line, "stroke s1"),
    ]
    return figure(
        plot.svg(parts, "Energy over time"), "Energy between the image and the key frames around it."
    )


def _subject(route: Route) -> dict[str, str]:
    return {
        "source": route.source,
        "model": f"{route.model.model_id} {route.model.version}",
        "key frames": str(len(route)),
        "energy between neighbors": f"{route.near_energy:.3g}",
        "energy between other places": f"{route.far_energy:.3g}",
        "energy off the route": f"{route.lost_energy:.3g}",
    }
