"""A latency report as one self-contained HTML page: no scripts, nothing external, figures as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.profiling.charts import histogram, timeline
from jepa_runtime.profiling.statistics import METHOD, Summary, format_ms, summarize

_STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #d9dee5; --paper: #ffffff; --card: #f4f6f9;
  --mark: #2463c9; --alert: #c2410c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7ebf0; --soft: #9aa6b5; --line: #333c48; --paper: #14191f; --card: #1d242d;
    --mark: #6ea0f5; --alert: #fb923c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2.5rem 1.5rem 4rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
.subtitle { color: var(--soft); margin: .2rem 0 0; }
.note, figcaption { color: var(--soft); font-size: .85rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .8rem;
  margin: 1.6rem 0; }
.card { background: var(--card); border-radius: .6rem; padding: .8rem 1rem; }
.card b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .85rem; }
figure { margin: 0; }
svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; }
table.numbers td, table.numbers th { text-align: right; font-variant-numeric: tabular-nums; }
table.numbers td:first-child, table.numbers th:first-child { text-align: left; }
table.facts th { width: 12rem; vertical-align: top; }
table.facts td { overflow-wrap: anywhere; }
.bar { fill: var(--mark); }
.late { fill: var(--alert); }
.trace { fill: var(--mark); opacity: .85; }
.axis { stroke: var(--line); }
.limit { stroke: var(--alert); stroke-dasharray: 5 4; }
text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.limit-text { fill: var(--alert); }
"""


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
    deadline_ms: float | None = None
    headline: Sequence[tuple[str, str]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.main not in self.stages:
            raise ValueError(f"main must be one of the stages {', '.join(self.stages)}, got {self.main}")
        if len(self.times_s) != len(self.stages[self.main]):
            raise ValueError(
                f"times_s must have one entry per sample of {self.main} ({len(self.stages[self.main])}), "
                f"got {len(self.times_s)}"
            )


def write_report(report: Report, path: str | Path) -> None:
    """Write ``report`` to ``path``; folders are made.

    Raises:
        JepaRuntimeError: it cannot be written there.
    """
    target = Path(path)
    page = render(report)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise JepaRuntimeError(f"{target}: cannot be written: {error.strerror}") from error


def render(report: Report) -> str:
    """The page."""
    summaries = {name: summarize(samples) for name, samples in report.stages.items()}
    samples, deadline_ms = report.stages[report.main], report.deadline_ms
    what = escape(report.descriptions.get(report.main, report.main))
    sections = [
        f"<h1>{escape(report.title)}</h1><p class='subtitle'>{escape(report.subtitle)}</p>",
        _cards(report.headline),
        "<h2>Distribution</h2>",
        _figure(histogram(samples, deadline_ms), f"Frames by {what}, in milliseconds."),
        "<h2>Over time</h2>",
        _figure(
            timeline(report.times_s, samples, deadline_ms),
            "The same frames in the order they came; where several share a column, it spans from their "
            "least to their greatest, so that no outlier is lost.",
        ),
        "<h2>Stages</h2>",
        _stages(summaries, report.descriptions),
        f"<p class='note'>Milliseconds. Percentiles: {escape(METHOD)}. A dash: too few samples.</p>",
        "<h2>Measured on</h2>",
        _facts(report.facts),
    ]
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def _cards(headline: Sequence[tuple[str, str]]) -> str:
    cards = "".join(
        f"<div class='card'><b>{escape(value)}</b><span>{escape(label)}</span></div>"
        for label, value in headline
    )
    return f"<div class='cards'>{cards}</div>"


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def _stages(summaries: Mapping[str, Summary], descriptions: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><td>{escape(descriptions.get(name, name))}</td><td>{format_ms(summary.p50)}</td>"
        f"<td>{format_ms(summary.p95)}</td><td>{format_ms(summary.p99)}</td><td>{format_ms(summary.max)}</td>"
        f"<td>{summary.n}</td></tr>"
        for name, summary in summaries.items()
    )
    return (
        "<table class='numbers'><tr><th>Stage</th><th>p50</th><th>p95</th><th>p99</th><th>max</th><th>n</th>"
        f"</tr>{rows}</table>"
    )


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items()
    )
    return f"<table class='facts'>{rows}</table>"
