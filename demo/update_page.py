"""The page of the update demo: what became of each release, and of the stream meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from jepa_runtime.reports.html import Html, block, card, facts, figure, numbers, page, section
from jepa_runtime.reports.latency_charts import timeline
from jepa_runtime.reports.svg_plot import Plot, empty, nice, rect, text
from jepa_runtime.util.statistics import format_ms, summarize

_ROW = 30
_GROUPS = {
    "fetch and verify": ("check", "resolve", "download", "verify", "stage"),
    "probe": ("probe",),
    "compare on live images": ("shadow",),
    "switch": ("armed", "switch"),
    "observe": ("observe",),
    "settle": ("commit", "rollback", "rejected", "report", "gc"),
}
_COLOURS = {state: index for index, states in enumerate(_GROUPS.values()) for state in states}


@dataclass(frozen=True)
class Entered:
    """A state of an update, when it was entered [s], and why."""

    time_s: float
    state: str
    reason: str


@dataclass(frozen=True)
class Compared:
    """What was known after so many frames: the candidate's mean score over that of what serves, the most that
    is allowed, and the confidence sequence of the candidate's score less ``most`` times the other."""

    frames: int
    ratio: float
    most: float
    low: float
    high: float

    @property
    def band(self) -> tuple[float, float]:
        """The confidence sequence as ratios."""
        middle = (self.low + self.high) / 2
        # The middle is (ratio - most) times the score of what serves.
        scale = (self.ratio - self.most) / middle if middle else 0.0
        return self.ratio + (self.low - middle) * scale, self.ratio + (self.high - middle) * scale


@dataclass
class Update:
    """One release and what became of it; ``wanted``: how it had to end."""

    version: str
    what: str
    wanted: str
    result: str = ""
    reason: str = ""
    states: list[Entered] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)


@dataclass(frozen=True)
class Story:
    """A run of the demo; moments in s since its start.

    Attributes:
        updates: in order.
        times_s, e2e_ms: of every image that was answered, from its stamp to its futures in the planner.
        exchanges_s: when another model began to serve.
        summary: see :func:`results.summarise`.
    """

    updates: Sequence[Update]
    times_s: Sequence[float]
    e2e_ms: Sequence[float]
    exchanges_s: Sequence[float]
    summary: Mapping[str, object]


def render(story: Story) -> str:
    """The page."""
    summary, updates = story.summary, story.updates
    live = [update.version for update in updates if update.result == "updated"]
    sections = [
        block("cards", _cards(story, live)),
        section(
            "What became of each release",
            figure(
                states(updates), "From the request to its end, in seconds since the start.",
                legend=list(_GROUPS), wide=True,
            ),
            numbers(
                ["release", "what it is", "ended as", "why"],
                [[one.version, one.what, one.result, one.reason or "-"] for one in updates],
                text_columns=4,
            ),
        ),
        section(
            "The stream meanwhile",
            figure(
                timeline(
                    story.times_s, story.e2e_ms, _number(summary["deadline_ms"]),
                    {"exchanged": story.exchanges_s},
                ),
                "From each image's stamp to its futures in the planner. Marked above: another model serves.",
                wide=True,
            ),
        ),
        section("Beside what serves, on the robot's live images", *_comparisons(updates)),
        section("Every state", *map(_table, updates)),
        section("Measured on", facts(_facts(summary))),
    ]  # fmt: skip
    subtitle = "Signed releases over HTTP, to a robot that drives by the model that they replace."
    return page("Three releases over the air", subtitle, sections)


def states(updates: Sequence[Update]) -> Html:
    """A row for each update, a bar for each of its states."""
    shown = [update for update in updates if len(update.states) > 1]
    if not shown:
        return empty()
    plot = Plot(width=1120, height=44 + _ROW * len(shown), left=150, right=30, top=8, bottom=36)
    upper = nice(max(update.states[-1].time_s for update in shown))
    parts = plot.quarters(upper, "s", lines=True)
    for row, update in enumerate(shown):
        y = plot.top + _ROW * row
        label = f"{update.version}: {update.result}"
        parts.append(text(plot.left - 10, y + 18, label, anchor="end", kind="strong"))
        for one, following in pairwise(update.states):
            x, end = plot.x(one.time_s / upper), plot.x(following.time_s / upper)
            hint = f"{one.state}: {following.time_s - one.time_s:.1f} s"
            colour = _COLOURS.get(one.state)
            if colour is not None:
                parts.append(rect(f"s{colour} fill", x, y + 5, max(end - x, 1.0), _ROW - 12, hint))
    told = ", ".join(f"{update.version} {update.result}" for update in shown)
    return plot.svg(parts, f"States of each update over time: {told}")


def comparison(compared: Sequence[Compared]) -> Html:
    """The candidate's error over frames, relative to that of what serves, with its confidence sequence."""
    plot, last = Plot(), compared[-1]
    right, most = nice(float(last.frames)), last.most
    upper = nice(1.2 * max(most, *(one.ratio for one in compared)))

    def place(one: Compared, value: float) -> tuple[float, float]:
        return one.frames / right, min(max(value, 0.0), upper) / upper

    above = [place(one, one.band[1]) for one in compared]
    outline = above + [place(one, one.band[0]) for one in reversed(compared)]
    corners = " ".join(f"{plot.x(x):.1f},{plot.y(y):.1f}" for x, y in outline)
    parts = [
        *plot.values(upper, "x"),
        *plot.quarters(right, "images"),
        f"<polygon class='s0 fill' fill-opacity='.18' points='{corners}'/>",
        plot.polyline([(0, 1 / upper), (1, 1 / upper)], "s1 stroke"),
        plot.polyline([place(one, one.ratio) for one in compared], "s0 stroke"),
        *plot.deadline(most / upper, f"at most {most:g} x"),
    ]
    return plot.svg(parts, f"Error of the candidate after {last.frames} images: {last.ratio:.3f} times")


def _cards(story: Story, live: Sequence[str]) -> list[Html]:
    summary, e2e = story.summary, summarize(story.e2e_ms)
    dropped = f"{summary['frames_dropped']} of {summary['frames_published']}"
    return [
        card("releases offered", str(len(story.updates))),
        card("gone live", ", ".join(live) or "none", kind="main"),
        card("refused", str(sum(update.result == "refused" for update in story.updates))),
        card("images dropped", dropped),
        card("end to end, p50", f"{format_ms(e2e.p50)} ms"),
        card("end to end, p99", f"{format_ms(e2e.p99)} ms"),
        card("goals reached", f"{summary['successes']} of {summary['episodes']}"),
    ]


def _comparisons(updates: Sequence[Update]) -> list[Html]:
    shown = [update for update in updates if update.compared]
    charts = [
        figure(
            comparison(update.compared),
            update.reason or "It was shown to be as good.",
            title=f"{update.version}: {update.what}",
            legend=["the candidate, with its confidence sequence", "what serves"],
        )
        for update in shown
    ]
    return [block("columns", charts)] if charts else [Html("<p>None got so far.</p>")]


def _table(update: Update) -> Html:
    rows = [
        [one.state, one.reason or "-", f"{one.time_s:.1f}", f"{following.time_s - one.time_s:.1f}"]
        for one, following in pairwise([*update.states, *update.states[-1:]])
    ]
    title = Html(f"<h3>{update.version}</h3>")
    return Html(title + numbers(["state", "why", "entered [s]", "lasted [s]"], rows, text_columns=2))


def _facts(summary: Mapping[str, object]) -> dict[str, str]:
    cpu, model, versions = summary["cpu"], summary["model"], summary["versions"]
    return {
        "Processor": f"{cpu['model']}, {cpu['cores']} cores",
        "Model at the end": f"{model['id']} {model['version']}, {model['precision']}, {model['sha256'][:16]}",
        "Processes": "simulated robot with camera, world_model, planner, update_manager; one machine",
        "Versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }


def _number(value: object) -> float | None:
    return value if isinstance(value, float) else None
