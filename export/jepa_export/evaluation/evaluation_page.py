"""An evaluation as one self-contained HTML page, in the style of the runtime's reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jepa_export.evaluation import figure_tables
from jepa_export.evaluation.evaluation_charts import cosines, curves, steps
from jepa_export.evaluation.results import Evaluation
from jepa_export.evaluation.surprise_separation import roc
from jepa_runtime.reports import (
    Html,
    Section,
    block,
    bullets,
    card,
    escape,
    facts,
    figure,
    note,
    numbers,
    page,
    section,
)
from jepa_sim.closed_loop.results_page import bars


def render(found: Evaluation) -> str:
    """Return the page."""
    untrained = "Random weights: the cost of precision is meaningful, the accuracy of predictions is not."
    missing = figure_tables.missing(found)
    parts = [
        None if found.trained else note(untrained),
        _headline(found),
        section("Subject and data", facts(_subject(found))),
        _precision(found),
        _predictions(found),
        _surprise(found),
        _goals(found),
        section("Size and compute", _table(figure_tables.costs(found))),
        section("Not measured", bullets(missing)) if missing else None,
    ]
    subtitle = f"{found.data} · {found.machine['cpu']['model']}"
    return page(
        f"Evaluation of {found.model_id} {found.version}",
        subtitle,
        [part for part in parts if part],
        {"report": "evaluation", **found.as_dict()},
    )


def _table(table: figure_tables.ResultTable) -> Html:
    return numbers(table.head, table.rows, text_columns=table.text_columns)


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


def _precision(found: Evaluation) -> Section:
    parts = []
    for index, first in enumerate(found.variants[0].comparisons):
        compared = {variant.name: variant.comparisons[index] for variant in found.variants}
        turned = figure(
            cosines({name: each.histogram for name, each in compared.items()}),
            f"Tokens of the encoder by their deviation from those of {first.reference}. The first bin "
            "includes "
            "all smaller deviations.",
            title="1 - cosine of tokens",
            legend=list(compared),
        )
        drifted = figure(
            steps({name: each.drift for name, each in compared.items()}),
            f"Distance of the futures from those of {first.reference}, relative to their norm; mean over "
            "clips "
            "and candidates.",
            title="Drift of the futures",
            legend=list(compared),
        )
        parts.append(block("columns", [turned, drifted]))
        for table in (figure_tables.fidelity(found, index), figure_tables.drift(found, index)):
            parts += [Html(f"<h3>{escape(table.title)}</h3>"), _table(table)]
    return section("Cost of precision", *parts)


def _predictions(found: Evaluation) -> Section | None:
    measured = [
        (variant.name, variant.prediction_accuracy)
        for variant in found.variants
        if variant.prediction_accuracy is not None
    ]
    if not measured:
        return None
    series = {name: each.drift for name, each in measured}
    with_baseline = series | {figure_tables.NO_MOTION: measured[0][1].standing_still}
    charts = [
        figure(
            steps(each),
            "Distance of predicted latents from those of the frames that followed, relative to their norm.",
            title=title,
            legend=list(each),
        )
        for title, each in (("Variants", series), ("Compared with no motion", with_baseline))
    ]
    return section("Prediction accuracy", block("columns", charts), _table(figure_tables.predictions(found)))


def _surprise(found: Evaluation) -> Section | None:
    measured = [
        (variant.name, variant.surprise) for variant in found.variants if variant.surprise is not None
    ]
    if not measured:
        return None
    first = measured[0][1]
    charts = [
        figure(
            curves({name: roc(*_scores(each.scores, event)) for name, each in measured}),
            "Detected events (vertical) over false alarms (horizontal), for every threshold.",
            title=event.capitalize(),
            legend=[name for name, _ in measured],
        )
        for event in first.events
    ]
    return section(
        "Surprise",
        block("columns", charts),
        _table(figure_tables.surprise(found)),
        note(
            f"{len(first.scores['normal'])} scenes of Two Rooms, each with a normal and with impossible "
            "outcomes. "
            "Detected, false alarms: events and normal frames above the bundle's threshold, "
            f"{first.threshold:.4g}. Intervals: bootstrap over scenes; their width is zero where the "
            "distributions do not overlap."
        ),
    )


def _scores(scores: dict[str, list[float]], event: str) -> Sequence[np.ndarray]:
    return np.array(scores["normal"]), np.array(scores[event])


def _goals(found: Evaluation) -> Section | None:
    driven = figure_tables.drives(found)
    if not driven:
        return None
    chart = figure(
        bars(driven),
        "Two Rooms, start and goal in different rooms. The model stops by its own energy, the baselines by "
        "the "
        "true distance. Whiskers: 95 % (Wilson).",
        wide=True,
    )
    return section("Goals reached", chart, _table(figure_tables.goals(found)))
