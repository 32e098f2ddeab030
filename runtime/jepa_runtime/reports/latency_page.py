"""The latency report of a run: headline, distribution, time line and stages on one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jepa_runtime.reports.html import block, card, facts, figure, note, numbers, page, section
from jepa_runtime.reports.latency_charts import histogram, timeline
from jepa_runtime.util.statistics import METHOD, summarize


@dataclass(frozen=True)
class Report:
    """What a report shows.

    Attributes:
        title, subtitle: its heading.
        stages: samples in ms by stage, in the order of the table.
        main: the key in ``stages`` that histogram and time line show.
        times_s: when each sample of ``main`` was taken, seconds since the start.
        deadline_ms: drawn into both figures; None: there is none.
        headline: what matters most, as (label, value).
        facts: what was measured, on what: name and value.
        descriptions: what a stage means, by key of ``stages``.
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


def render(report: Report) -> str:
    """The page."""
    samples, deadline_ms = report.stages[report.main], report.deadline_ms
    what = report.descriptions.get(report.main, report.main)
    rows = [
        [report.descriptions.get(name, name), *summarize(values).cells()]
        for name, values in report.stages.items()
    ]
    sections = [
        block("cards", (card(label, value) for label, value in report.headline)),
        section(
            "Distribution",
            block(
                "columns",
                [figure(histogram(samples, deadline_ms), f"Frames by {what}, in milliseconds.")],
            ),
        ),
        section(
            "Over time",
            figure(
                timeline(report.times_s, samples, deadline_ms),
                "The same frames in the order they came; where several share a column, it spans from their "
                "least to their greatest, so that no outlier is lost.",
                wide=True,
            ),
        ),
        section(
            "Stages",
            numbers(["Stage", "p50", "p95", "p99", "max", "n"], rows),
            note(f"Milliseconds. Percentiles: {METHOD}. A dash: too few samples."),
        ),
        section("Measured on", facts(report.facts)),
    ]
    return page(report.title, report.subtitle, sections)
