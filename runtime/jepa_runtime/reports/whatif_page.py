"""A what-if branch of a recording as a page: each future as recorded frames, next to the observed ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.imaging.conversion import data_uri, to_jpeg
from jepa_runtime.replay.action_sequences import EXECUTED
from jepa_runtime.replay.whatif import Branch, WhatIf
from jepa_runtime.reports.html import Html, Section, block, card, escape, figure, note, numbers, page, section
from jepa_runtime.reports.svg_plot import Plot, nice
from jepa_runtime.sources.base import Image

# The number of colors of a page.
_MAX_SHOWN = 6


def ranked(branches: Sequence[Branch]) -> list[Branch]:
    """Sort branches: the executed one first, the others by final energy if there is a goal."""
    others = [branch for branch in branches if branch.label != EXECUTED]
    if others and others[0].energies is not None:
        others.sort(key=lambda branch: 0.0 if branch.energies is None else float(branch.energies[-1]))
    return [branch for branch in branches if branch.label == EXECUTED] + others


def render(found: WhatIf, *, title: str, subtitle: str) -> str:
    """Return the page."""
    shown = ranked(found.branches)[:_MAX_SHOWN]
    hidden = len(found.branches) - len(shown)
    energy = "-" if found.current_energy is None else f"{found.current_energy:.4g}"
    cards = [card("moment", f"{found.moment.time_s:.3f} s", f"stamp {found.moment.stamp_ns} ns", kind="main")]
    cards.append(card("energy to the goal", energy, "" if found.goal is not None else "no goal"))
    cards.append(card("futures", str(len(found.branches)), f"{len(found.moment.step_images)} steps each"))
    parts: list[Html | Section] = [
        block("cards", cards),
        section(
            "Observed and predicted",
            _strip(found, shown),
            note(
                "Latents cannot be decoded. A predicted latent is shown as the most similar of the "
                f"{found.album_size} frames recorded around the moment; the number is the distance (norm) of "
                "their latents, which indicates how well the frame represents it."
                + (f" {hidden} more futures are not shown." if hidden > 0 else "")
            ),
        ),
    ]
    charts = _charts(found, shown)
    if charts:
        parts.append(section("Energies and errors", block("columns", charts)))
    return page(title, subtitle, parts, {"report": "whatif", **found.as_dict()})


def _strip(found: WhatIf, shown: Sequence[Branch]) -> Html:
    ahead = [f"+{(step + 1) * found.step_s:g} s" for step in range(len(found.arrived))]
    start = _picture(found.image, "the image at the moment")
    goal = Html("") if found.goal is None else _captioned(_picture(found.goal, "the goal"), "the goal")
    rows: list[list[str]] = [["observed", start, *(_observed(image) for image in found.arrived)]]
    for index, branch in enumerate(shown):
        cells = [
            _captioned(_picture(image, f"{branch.label}, step {step + 1}"), f"{distance:.3g}")
            for step, (image, distance) in enumerate(zip(branch.similar, branch.distances, strict=True))
        ]
        rows.append([branch.label, goal if index == 0 else Html(""), *cells])
    return numbers(["", "at the moment", *ahead], rows)


def _observed(image: Image | None) -> Html:
    return Html("no image") if image is None else _picture(image, "the observed frame")


def _captioned(picture: Html, caption: str) -> Html:
    return Html(f"{picture}<small>{escape(caption)}</small>")


def _picture(image: Image, description: str) -> Html:
    height, width = image.shape[:2]
    uri = data_uri(to_jpeg(image))
    return Html(f"<img src='{uri}' width='{width}' height='{height}' alt='{escape(description)}'/>")


def _charts(found: WhatIf, shown: Sequence[Branch]) -> list[Html]:
    charts: list[Html] = []
    energies = [(branch.label, branch.energies) for branch in shown if branch.energies is not None]
    if energies:
        chart = _lines([values for _, values in energies], found.step_s, "energy")
        names = [name for name, _ in energies]
        charts.append(figure(chart, "Energy to the goal, step by step.", title="Energy", legend=names))
    for branch in shown:
        if branch.errors is not None:
            lines: list[NDArray[np.floating]] = [branch.errors, found.error_bounds]
            charts.append(
                figure(
                    _lines(lines, found.step_s, "norm"),
                    "Error of the prediction for the executed actions against the observed frames; the "
                    "target coverage of the bound is 90 %.",
                    title="Error of the prediction",
                    legend=["error", "bound"],
                )
            )
    return charts


def _lines(series: Sequence[NDArray[np.floating]], step_s: float, unit: str) -> Html:
    plot = Plot()
    steps = len(series[0])
    top = nice(
        max((float(value) for values in series for value in values if np.isfinite(value)), default=1.0)
    )
    parts = [*plot.values(top, unit), *plot.round_ticks(steps * step_s, "s")]
    for index, values in enumerate(series):
        points = [((step + 1) / steps, float(value) / top) for step, value in enumerate(values)]
        parts.append(plot.polyline(points, f"stroke s{index}"))
    return plot.svg(parts, f"{unit} over {steps} steps")
