"""An evaluation as one self-contained HTML page, in the style of the runtime's reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jepa_export.evaluation import figure_tables
from jepa_export.evaluation.evaluation_charts import cosines, curves, steps
from jepa_export.evaluation.results import Evaluation
from jepa_export.evaluation.surprise_separation import roc
from jepa_runtime.reports.html import (
    Html,
    block,
    bullets,
    card,
    facts,
    figure,
    html,
    note,
    numbers,
    page,
    section,
)
from jepa_sim.closed_loop.results_page import bars


def render(found: Evaluation) -> str:
    """The page."""
    untrained = "Random weights: this shows what precision costs; what such a model foresees means nothing."
    missing = figure_tables.missing(found)
    parts = [
        None if found.trained else note(untrained),
        _headline(found),
        section("What was measured, on what", facts(_subject(found))),
        _precision(found),
        _foresight(found),
        _surprise(found),
        _goals(found),
        section("Size and work", _table(figure_tables.costs(found))),
        section("Not measured", bullets(missing)) if missing else None,
    ]
    subtitle = f"{found.data} · {found.machine['cpu']['model']}"
    return page(f"Evaluation of {found.model_id} {found.version}", subtitle, [part for part in parts if part])


def _table(sheet: figure_tables.Sheet) -> Html:
    return numbers(sheet.head, sheet.rows, text_columns=sheet.words)


def _headline(found: Evaluation) -> Html:
    cards = []
    for variant in found.variants:
        first = variant.comparisons[0]
        remark = f"worst token; mean {first.mean_cosine:.6f}"
        cards.append(card(f"Cosine, {variant.name}", f"{first.worst_cosine:.5f}", remark, kind="main"))
    for variant in found.variants:
        if variant.drive is not None:
            low, high = variant.drive.interval
            interval = f"95 %: {low:.1%} to {high:.1%}"
            cards.append(card(f"Goals, {variant.name}", f"{variant.drive.rate:.1%}", interval))
    return block("cards", cards)


def _subject(found: Evaluation) -> dict[str, str]:
    cpu = found.machine["cpu"]
    return {
        "Model": f"{found.model_id} {found.version}",
        "Compared with": ", ".join(each.reference for each in found.variants[0].comparisons),
        "Clips": f"{found.clips} of {found.data}, {found.frames} frames",
        "Engines": ", ".join(dict.fromkeys(variant.engine for variant in found.variants)),
        "Seed": str(found.seed),
        "Processor": f"{cpu['model']}, {cpu['cores']} cores",
        **{name: str(version) for name, version in found.machine["versions"].items()},
    }


def _precision(found: Evaluation) -> Html:
    parts = []
    for index, first in enumerate(found.variants[0].comparisons):
        compared = {variant.name: variant.comparisons[index] for variant in found.variants}
        turned = figure(
            cosines({name: each.histogram for name, each in compared.items()}),
            f"Tokens of the encoder by how far they turned from those of {first.reference}. The first bin "
            "holds all that turned less.",
            title="1 - cosine of tokens",
            legend=list(compared),
        )
        drifted = figure(
            steps({name: each.drift for name, each in compared.items()}),
            f"Distance of the futures from those of {first.reference}, of their norm; mean over clips and "
            "candidates.",
            title="Drift of the futures",
            legend=list(compared),
        )
        parts.append(block("columns", [turned, drifted]))
        for sheet in (figure_tables.fidelity(found, index), figure_tables.drift(found, index)):
            parts += [Html(f"<h3>{html(sheet.title)}</h3>"), _table(sheet)]
    return section("What precision costs", *parts)


def _foresight(found: Evaluation) -> Html | None:
    told = [(variant.name, variant.foresight) for variant in found.variants if variant.foresight is not None]
    if not told:
        return None
    series = {name: each.drift for name, each in told}
    beside = series | {figure_tables.STILL: told[0][1].standing_still}
    charts = [
        figure(
            steps(each),
            "Distance of predicted latents from those of what the camera then saw, of their norm.",
            title=title,
            legend=list(each),
        )
        for title, each in (("One form beside the other", series), ("Beside standing still", beside))
    ]
    return section("What it foresees", block("columns", charts), _table(figure_tables.foresight(found)))


def _surprise(found: Evaluation) -> Html | None:
    told = [(variant.name, variant.surprise) for variant in found.variants if variant.surprise is not None]
    if not told:
        return None
    first = told[0][1]
    charts = [
        figure(
            curves({name: roc(*_scores(each.scores, event)) for name, each in told}),
            "Upwards the events detected, to the right the false alarms, for every threshold.",
            title=event.capitalize(),
            legend=[name for name, _ in told],
        )
        for event in first.events
    ]
    return section(
        "What surprises it",
        block("columns", charts),
        _table(figure_tables.surprise(found)),
        note(
            f"{len(first.scores['normal'])} scenes of Two Rooms, each with what normally comes and with what "
            "cannot. Detected, false alarms: events and normal frames above the bundle's threshold, "
            f"{first.threshold:.4g}. Intervals: bootstrap over scenes; where nothing overlaps they have no "
            "width."
        ),
    )


def _scores(scores: dict[str, list[float]], event: str) -> Sequence[np.ndarray]:
    return np.array(scores["normal"]), np.array(scores[event])


def _goals(found: Evaluation) -> Html | None:
    driven = figure_tables.drives(found)
    if not driven:
        return None
    chart = figure(
        bars(driven),
        "Two Rooms, start and goal in different rooms. The model stops by its own energy, the baselines by "
        "the true distance. Whiskers: 95 % (Wilson).",
        wide=True,
    )
    return section("Goals reached", chart, _table(figure_tables.goals(found)))
