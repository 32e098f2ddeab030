"""The latency report of a run: headline, distribution, timeline and stages on a self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jepa_runtime.reports.html import Html, Section, block, card, facts, figure, note, numbers, page, section
from jepa_runtime.reports.latency_charts import histogram, timeline
from jepa_runtime.util.statistics import PERCENTILE_METHOD, summarize


@dataclass(frozen=True)
class LatencyReport:
    """The content of a report.

    Attributes:
        title: The heading.
        subtitle: The line below the heading.
        stages: Samples in ms by stage, in the order of the table.
        main: The stage that histogram and timeline show.
        times_s: Time of each sample of ``main`` in seconds since the start.
        deadline_ms: The deadline in both figures, or None.
        headline: Key figures as (label, value).
        facts: Model and environment by name.
        descriptions: Descriptions of stages by name.
    """

    title: str
    subtitle: str
    stages: Mapping[str, Sequence[float]]
    main: str
    times_s: Sequence[float]
    deadline_ms: float | None
    headline: Sequence[tuple[str, str]]
    facts: Mapping[str, str]
    descriptions: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.main not in self.stages:
            raise ValueError(f"main must be one of the stages {', '.join(self.stages)}, got {self.main}")
        if len(self.times_s) != len(self.stages[self.main]):
            raise ValueError(
                f"times_s must have one entry per sample of {self.main} ({len(self.stages[self.main])}), "
                f"got {len(self.times_s)}"
            )


def render_latency(report: LatencyReport) -> str:
    """Return the page."""
    samples, deadline_ms = report.stages[report.main], report.deadline_ms
    rows = [
        [report.descriptions.get(name, name), *summarize(values).cells()]
        for name, values in report.stages.items()
    ]
    sections: list[Html | Section] = [
        block("cards", (card(label, value) for label, value in report.headline)),
        section(
            "Distribution",
            block(
                "columns",
                [figure(histogram(samples, deadline_ms), _distribution_caption(report))],
            ),
        ),
        section(
            "Over time",
            figure(
                timeline(report.times_s, samples, deadline_ms),
                "The same frames over time. A column with several frames extends from their minimum to their "
                "maximum, so every outlier is visible.",
                wide=True,
            ),
        ),
        section(
            "Stages",
            numbers(["Stage", "p50", "p95", "p99", "max", "n"], rows),
            note(f"Times in ms. Percentiles: {PERCENTILE_METHOD}. A dash stands for too few samples."),
        ),
        section("Model and environment", facts(report.facts)),
    ]
    data = {
        "report": "latency",
        "title": report.title,
        "main": report.main,
        "deadline_ms": deadline_ms,
        "times_s": [round(moment, 4) for moment in report.times_s],
        "samples_ms": [round(sample, 4) for sample in samples],
        "stages_ms": {name: summarize(values).as_dict() for name, values in report.stages.items()},
        "headline": dict(report.headline),
        "facts": report.facts,
    }
    return page(report.title, report.subtitle, sections, data)


def _distribution_caption(report: LatencyReport) -> str:
    samples, deadline_ms = report.stages[report.main], report.deadline_ms
    description = report.descriptions.get(report.main, report.main)
    caption = f"Number of frames by latency in ms: {description}."
    if deadline_ms is None:
        return caption
    late = sum(sample > deadline_ms for sample in samples)
    return f"{caption} {late} of {len(samples)} were later than the deadline of {deadline_ms:.4g} ms."
