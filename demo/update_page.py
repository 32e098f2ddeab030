"""HTML page of the update demo: the result of each release, and the latency of the stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

from jepa_runtime.reports import (
    Html,
    Plot,
    block,
    card,
    empty,
    facts,
    figure,
    nice,
    numbers,
    page,
    rect,
    section,
    text,
    timeline,
)
from jepa_runtime.util import format_ms, summarize

_ROW = 30
_GROUPS = {
    "fetch and verify": ("check", "resolve", "download", "verify", "stage"),
    "probe": ("probe",),
    "compare on live images": ("shadow",),
    "switch": ("armed", "switch"),
    "observe": ("observe",),
    "complete": ("commit", "rollback", "rejected", "report", "gc"),
}
_COLORS = {state: index for index, states in enumerate(_GROUPS.values()) for state in states}


@dataclass(frozen=True)
class Entered:
    """Represent a state of an update, when it was entered [s], and why."""

    time_s: float
    state: str
    reason: str


@dataclass(frozen=True)
class Compared:
    """Represent the comparison after a number of frames.

    Attributes:
        frames: Number of frames.
        ratio: Mean score of the candidate relative to the active model.
        most: Upper limit of the ratio.
        low: Lower end of the confidence sequence of the candidate's score minus ``most`` times the other.
        high: Its upper end.
    """

    frames: int
    ratio: float
    most: float
    low: float
    high: float

    @property
    def band(self) -> tuple[float, float]:
        """Confidence sequence as ratios."""
        middle = (self.low + self.high) / 2
        # The middle is (ratio - most) times the score of the active model.
        scale = (self.ratio - self.most) / middle if middle else 0.0
        return self.ratio + (self.low - middle) * scale, self.ratio + (self.high - middle) * scale


@dataclass
class Update:
    """Represent a release, its expected result and what happened."""

    version: str
    description: str
    expected: str
    result: str = ""
    reason: str = ""
    states: list[Entered] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)


@dataclass(frozen=True)
class Story:
    """Represent a run of the demo, with times since its start [s].

    Attributes:
        updates: Updates in order.
        times_s: Time of each image with futures.
        e2e_ms: Latency of each of them, from the image stamp to the futures in the planner.
        swaps_s: When another model became active.
        summary: See :func:`results.summarize_run`.
    """

    updates: Sequence[Update]
    times_s: Sequence[float]
    e2e_ms: Sequence[float]
    swaps_s: Sequence[float]
    summary: Mapping[str, object]


def render(story: Story) -> str:
    """Return the page."""
    summary, updates = story.summary, story.updates
    live = [update.version for update in updates if update.result == "updated"]
    sections = [
        block("cards", _cards(story, live)),
        section(
            "Result of each release",
            figure(
                states(updates), "From the request to its end, in seconds since the start.",
                legend=list(_GROUPS), wide=True,
            ),
            numbers(
                ["release", "characteristic", "result", "reason"],
                [[one.version, one.description, one.result, one.reason or "-"] for one in updates],
                text_columns=4,
            ),
        ),
        section(
            "Latency during the updates",
            figure(
                timeline(
                    story.times_s, story.e2e_ms, _number(summary["deadline_ms"]),
                    {"swapped": story.swaps_s},
                ),
                "From each image stamp to its futures in the planner. Marks at the top: a model swap.",
                wide=True,
            ),
        ),
        section("Comparison with the active model on the robot's live images", *_comparisons(updates)),
        section("All states", *map(_table, updates)),
        section("Environment", facts(_facts(summary))),
    ]  # fmt: skip
    subtitle = "Signed releases over HTTP, to a robot that drives with the model to be replaced."
    return page("Three releases over the air", subtitle, sections, {"report": "update_demo", **asdict(story)})


def states(updates: Sequence[Update]) -> Html:
    """Draw a row per update with a bar per state."""
    shown = [update for update in updates if len(update.states) > 1]
    if not shown:
        return empty()
    plot = Plot(width=1120, height=44 + _ROW * len(shown), left=150, right=30, top=8, bottom=36)
    upper = nice(max(update.states[-1].time_s for update in shown))
    parts = plot.round_ticks(upper, "s", lines=True)
    for row, update in enumerate(shown):
        y = plot.top + _ROW * row
        label = f"{update.version}: {update.result}"
        parts.append(text(plot.left - 10, y + 18, label, anchor="end", kind="strong"))
        for one, following in pairwise(update.states):
            x, end = plot.x(one.time_s / upper), plot.x(following.time_s / upper)
            hint = f"{one.state}: {following.time_s - one.time_s:.1f} s"
            color = _COLORS.get(one.state)
            if color is not None:
                parts.append(rect(f"s{color} fill", x, y + 5, max(end - x, 1.0), _ROW - 12, hint))
    results = ", ".join(f"{update.version} {update.result}" for update in shown)
    return plot.svg(parts, f"States of each update over time: {results}")


def comparison(compared: Sequence[Compared]) -> Html:
    """Draw the error of the candidate relative to the active model, with its confidence sequence."""
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
        *plot.round_ticks(right, "images"),
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
        card("rejected", str(sum(update.result == "rejected" for update in story.updates))),
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
            update.reason or "It is as good as the active model.",
            title=f"{update.version}: {update.description}",
            legend=["candidate, with its confidence sequence", "active model"],
        )
        for update in shown
    ]
    return [block("columns", charts)] if charts else [Html("<p>No release was compared.</p>")]


def _table(update: Update) -> Html:
    rows = [
        [one.state, one.reason or "-", f"{one.time_s:.1f}", f"{following.time_s - one.time_s:.1f}"]
        for one, following in pairwise([*update.states, *update.states[-1:]])
    ]
    title = Html(f"<h3>{update.version}</h3>")
    return Html(title + numbers(["state", "reason", "entered [s]", "duration [s]"], rows, text_columns=2))


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
