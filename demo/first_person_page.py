"""HTML pages of the first-person demo: what happened, and place and confidence of both drives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from first_person_run import Run, trace
from results import coverage
from route_operator import Repetition

from jepa_runtime.imaging import data_uri
from jepa_runtime.reports import (
    Html,
    block,
    card,
    escape,
    facts,
    figure,
    numbers,
    page,
    render_route,
    section,
)
from jepa_runtime.routes import Route
from jepa_runtime.util import format_ms


def render(out: Path, run: Run, summary: dict[str, Any]) -> dict[str, str]:
    """Return the pages by file name."""
    route = Route.open(out / "routes" / run.route)
    return {
        "demo.html": _overview(out, run, summary),
        "repeated.html": render_route(route, trace(run.repeated), name=f"{run.route}, repeated"),
        "door_closed.html": render_route(route, trace(run.blocked), name=f"{run.route}, with a closed door"),
    }


def _overview(out: Path, run: Run, summary: dict[str, Any]) -> str:
    animation = data_uri((out / "demo.webp").read_bytes(), "webp")
    picture = Html(f"<img src='{animation}' alt='{escape(_ANIMATION)}' style='max-width:100%'>")
    taught = ["saved", f"{run.taught.distance_m:.1f}", "", "", run.taught.reason]
    rows = [
        ["taught by a scripted driver with the true pose", *taught],
        ["repeated from a displaced start", *_row(run.repeated)],
        ["repeated, and a door is closed meanwhile", *_row(run.blocked)],
    ]
    parts = [
        block("cards", _cards(run, summary)),
        section("The drives", figure(picture, _ANIMATION, wide=True)),
        section(
            "What happened",
            numbers(
                ["drive", "outcome", "distance m", "time s", "off the end", "reason"], rows, text_columns=2
            ),
        ),
        section("Environment", facts(_facts(summary))),
    ]  # fmt: skip
    subtitle = (
        "A house and a route that the model has never seen; five ROS 2 processes at 30 images per second."
    )
    return page(
        "Taught once, repeated by itself", subtitle, parts, {"report": "first_person_demo", **summary}
    )


_ANIMATION = (
    "Camera, map, key frame ahead, surprise and predicted futures, four times as fast as the robot drove."
)


def _cards(run: Run, summary: dict[str, Any]) -> list[Html]:
    good, blocked, e2e = run.repeated, run.blocked, summary["e2e_ms"]
    return [
        card(
            "route repeated", good.outcome, _off_the_end(good),
            kind="main" if good.is_there else "alert",
        ),
        card("with a closed door", blocked.outcome, blocked.reason),
        card("end to end, median", f"{format_ms(e2e['p50'])} ms", f"p99 {format_ms(e2e['p99'])} ms"),
        card(
            "images dropped", f"{summary['frames_dropped']} of {summary['frames_published']}",
            f"{summary['rate_hz']:.1f} Hz",
        ),
        card("warnings while it repeated", str(len(good.warnings))),
        card("error bounds", coverage(summary["error_bounds"])),
    ]  # fmt: skip


def _row(done: Repetition) -> list[str]:
    return [
        done.outcome,
        f"{done.distance_m:.1f}",
        f"{done.duration_s:.0f}",
        _off_the_end(done),
        done.reason,
    ]


def _off_the_end(done: Repetition) -> str:
    return f"{done.error_m:.2f} m and {done.error_deg:.0f} degrees"


def _facts(summary: dict[str, Any]) -> dict[str, str]:
    model = summary["model"]
    return {
        "processor": f"{summary['cpu']['model']}, {summary['cpu']['cores']} cores",
        "model": f"{model['id']} {model['version']}, {model['precision']}, {model['sha256'][:16]}",
        "house": f"seed {summary['seed']}, textures that training never shows",
        "versions": ", ".join(f"{name} {number}" for name, number in summary["versions"].items()),
    }
