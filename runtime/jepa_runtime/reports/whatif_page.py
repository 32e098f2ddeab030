"""A what-if branch of a recording as a page: each future as recorded frames, next to the observed ones."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from jepa_runtime.imaging.conversion import data_uri, to_jpeg
from jepa_runtime.replay.names import EXECUTED
from jepa_runtime.replay.whatif import Branch, WhatIf
from jepa_runtime.reports.html import Html, Section, block, card, escape, figure, note, numbers, page, section
from jepa_runtime.reports.run_charts import colors_of, over_steps
from jepa_runtime.sources.base import Image

# The number of colors of a page.
_MAX_SHOWN = 6


@dataclass(frozen=True)
class Row:
    """A row of the table: a branch, and the number of branches that are shown the same way."""

    branch: Branch
    count: int

    @property
    def label(self) -> str:
        """The label of the branch, and the number of identical ones."""
        return self.branch.label + (f" ({self.count} identical futures)" if self.count > 1 else "")


def rows_of(branches: Sequence[Branch]) -> list[Row]:
    """Return the ranked branches; those with the same pictures and printed numbers are one row."""
    merged: dict[Hashable, list[Branch]] = {}
    for branch in ranked(branches):
        energies = None if branch.energies is None else tuple(f"{value:.3g}" for value in branch.energies)
        pictures = tuple(image.tobytes() for image in branch.similar)
        distances = tuple(f"{distance:.3g}" for distance in branch.distances)
        is_executed = branch.label == EXECUTED
        merged.setdefault((is_executed, energies, pictures, distances), []).append(branch)
    return [Row(alike[0], len(alike)) for alike in merged.values()]


def ranked(branches: Sequence[Branch]) -> list[Branch]:
    """Sort branches: the executed one first, the others by final energy if there is a goal."""
    others = [branch for branch in branches if branch.label != EXECUTED]
    if others and others[0].energies is not None:
        others.sort(key=lambda branch: 0.0 if branch.energies is None else float(branch.energies[-1]))
    return [branch for branch in branches if branch.label == EXECUTED] + others


def render_whatif(found: WhatIf, *, title: str, subtitle: str) -> str:
    """Return the page."""
    shown = rows_of(found.branches)[:_MAX_SHOWN]
    hidden = len(found.branches) - sum(row.count for row in shown)
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


def _strip(found: WhatIf, shown: Sequence[Row]) -> Html:
    ahead = [f"+{(step + 1) * found.step_s:g} s" for step in range(len(found.arrived))]
    start = _picture(found.image, "the image at the moment")
    goal = Html("") if found.goal is None else _captioned(_picture(found.goal, "the goal"), "the goal")
    rows: list[list[str]] = [["observed", start, *(_observed(image) for image in found.arrived)]]
    for index, row in enumerate(shown):
        branch = row.branch
        cells = [
            _captioned(_picture(image, f"{branch.label}, step {step + 1}"), f"{distance:.3g}")
            for step, (image, distance) in enumerate(zip(branch.similar, branch.distances, strict=True))
        ]
        rows.append([row.label, goal if index == 0 else Html(""), *cells])
    return numbers(["", "at the moment", *ahead], rows)


def _observed(image: Image | None) -> Html:
    return Html("no image") if image is None else _picture(image, "the observed frame")


def _captioned(picture: Html, caption: str) -> Html:
    return Html(f"{picture}<small>{escape(caption)}</small>")


def _picture(image: Image, description: str) -> Html:
    height, width = image.shape[:2]
    uri = data_uri(to_jpeg(image))
    return Html(f"<img src='{uri}' width='{width}' height='{height}' alt='{escape(description)}'/>")


def _charts(found: WhatIf, rows: Sequence[Row]) -> list[Html]:
    charts: list[Html] = []
    ahead_s = found.step_s * np.arange(1, len(found.moment.step_images) + 1)
    energies = {row.label: row.branch.energies for row in rows if row.branch.energies is not None}
    if energies:
        charts.append(
            figure(
                over_steps(ahead_s, energies, "energy"),
                "Energy to the goal, step by step.",
                title="Energy",
                legend=list(energies),
                colors=colors_of(energies),
            )
        )
    for row in rows:
        if row.branch.errors is not None:
            errors = {EXECUTED: row.branch.errors}
            charts.append(
                figure(
                    over_steps(ahead_s, errors, "norm", limit=found.error_bounds),
                    "Error of the prediction for the executed actions against the observed frames; dashed: "
                    "its bound, with a target coverage of 90 %.",
                    title="Error of the prediction",
                )
            )
    return charts
