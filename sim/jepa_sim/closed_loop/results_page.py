"""The results of a closed-loop evaluation as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from jepa_runtime.imaging import data_uri, to_png
from jepa_runtime.reports import (
    Html,
    Plot,
    Section,
    block,
    card,
    facts,
    figure,
    line,
    note,
    numbers,
    page,
    rect,
    section,
    text,
    words,
)
from jepa_sim.closed_loop.film_strips import captions, tiles
from jepa_sim.closed_loop.run import ClosedLoop, Film
from jepa_sim.closed_loop.scores import Difference, Goals, PlanTime

_COLORS = 6
_ROW = 30
# Columns of the table in the terminal and on the page.
GOALS_HEAD = (
    "", "reached", "95 %", "episodes", "wrong place", "timeout", "steps", "decision p50 ms", "p95 ms",
)  # fmt: skip


def render(found: ClosedLoop) -> str:
    """Return the page."""
    goals, times = found.goals, found.plan_times
    untrained = "Random weights: the results of an untrained model mean nothing."
    chart = figure(
        bars(goals),
        "The model stops by its own energy, the baselines by the true distance. Whiskers: 95 % (Wilson).",
        wide=True,
    )
    parts = [
        None if found.trained else note(untrained),
        _headline(goals),
        section("Goals reached", chart, numbers(GOALS_HEAD, goals_rows(goals, times))),
        _differences(found),
        _films(found),
        section("Configuration", facts(_subject(found))),
    ]
    episodes = next(iter(goals.values())).episodes
    subtitle = f"{found.task.name} · {episodes} held-out episodes, the same for all drivers"
    data = {"report": "closed_loop", **found.as_dict()}
    return page(f"Closed loop of {found.model}", subtitle, [part for part in parts if part], data)


def goals_rows(goals: Mapping[str, Goals], times: Mapping[str, PlanTime]) -> list[list[str]]:
    """Return the rows of :data:`GOALS_HEAD`; steps are the mean over successful episodes."""
    return [
        [
            words(name),
            f"{each.rate:.1%}",
            "{:.1%} to {:.1%}".format(*each.interval),
            str(each.episodes),
            str(each.outcomes["wrong_place"]),
            str(each.outcomes["timeout"]),
            "-" if each.mean_steps is None else f"{each.mean_steps:.1f}",
            f"{times[name].p50:.1f}",
            f"{times[name].p95:.1f}",
        ]
        for name, each in goals.items()
    ]


def difference_rows(differences: Mapping[str, Difference]) -> list[list[str]]:
    """Return rows of name, difference, interval, and episodes gained and lost."""
    return [
        [
            words(name),
            f"{100 * each.rate:+.1f}",
            "{:+.1f} to {:+.1f}".format(*(100 * end for end in each.interval)),
            str(each.gained),
            str(each.lost),
        ]
        for name, each in differences.items()
    ]


def bars(goals: Mapping[str, Goals]) -> Html:
    """Return a bar chart of goals reached (%), with their intervals as whiskers."""
    goals = {words(name): each for name, each in goals.items()}
    plot = Plot(width=1120, height=44 + _ROW * len(goals), left=190, right=60, top=8, bottom=36)
    parts = plot.round_ticks(100, "%", lines=True)
    for row, (name, each) in enumerate(goals.items()):
        y = plot.top + _ROW * row
        low, high = (plot.x(end) for end in each.interval)
        hint = f"{name}: {each.successes} of {each.episodes}"
        parts.append(text(plot.left - 10, y + 18, name, anchor="end", kind="strong"))
        parts.append(
            rect(f"s{row % _COLORS} fill", plot.x(0), y + 5, plot.x(each.rate) - plot.x(0), 18, hint)
        )
        parts.append(line("whisker", low, y + 14, high, y + 14))
        parts += [line("whisker", end, y + 10, end, y + 18) for end in (low, high)]
        parts.append(text(high + 8, y + 18, f"{each.rate:.1%}"))
    return plot.svg(parts, "Goals reached: " + ", ".join(f"{n} {g.rate:.1%}" for n, g in goals.items()))


def _headline(goals: Mapping[str, Goals]) -> Html:
    return block(
        "cards",
        (
            card(words(name), f"{each.rate:.1%}", f"{each.successes} of {each.episodes}")
            for name, each in goals.items()
        ),
    )


def _differences(found: ClosedLoop) -> Section | None:
    first, *others = found.drives
    if not others:
        return None
    head = ("", f"difference to {first} (points)", "95 %", "only it reached", f"only {first} reached")
    return section(
        "Paired differences",
        numbers(head, difference_rows(found.differences)),
        note("Percentage points in the same episodes; intervals of paired proportions by Newcombe (1998)."),
    )


def _films(found: ClosedLoop) -> Section | None:
    films = captions(found)
    if not films:
        return None
    drawn = (figure(_film(film, caption), caption) for caption, film in films.items())
    return section(
        "Sample episodes", note("The goal on the left, then camera images from start to end."), *drawn
    )


def _film(film: Film, caption: str) -> Html:
    images = (f"<img alt='' src='{data_uri(to_png(tile), 'png')}'/>" for tile in tiles(film))
    return Html(
        f"<div class='film' role='img' aria-label='{escape(caption, quote=True)}'>{''.join(images)}</div>"
    )


def _subject(found: ClosedLoop) -> dict[str, str]:
    task, plan, planner = found.task, found.plan, found.planner
    search, machine = planner.search, found.machine["cpu"]
    return {
        "World": task.name,
        "Reached": f"within {task.tolerance:g} {task.unit} of the goal, in at most {task.max_steps} steps",
        "Episodes": f"{plan.episodes} for each of the seeds {', '.join(map(str, plan.seeds))}",
        "Planner": f"{type(search).__name__.removesuffix('Config')}, {planner.iterations_per_step} "
        f"iterations "
        f"per step of {search.num_samples} candidates of {search.horizon} steps",
        "Engines": ", ".join(f"{name} {version}" for name, version in found.engines.items())
        + f", {plan.threads} thread{'s' * (plan.threads > 1)}",
        "Processor": f"{machine['model']}, {machine['cores']} cores; load average at the start: "
        f"{found.machine['load_average']:.1f}",
        **{name: str(version) for name, version in found.machine["versions"].items()},
    }
