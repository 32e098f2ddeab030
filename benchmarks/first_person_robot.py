"""Goals reached in first-person rooms by the code that drives the robot: first_person.py with --bundle.

All precisions have the same episodes, and take turns at each. Results are written on the way: an interrupted
run continues where it was.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from resumable_report import ResumableReport, Summary
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jepa_runtime.backends import DEFAULT_ENGINE, BackendOptions, create_backend
from jepa_runtime.bundle import Bundle
from jepa_runtime.model import WorldModel, runnable_precisions
from jepa_runtime.telemetry import cpu_info

# Goals of the levels, and of a reduced precision compared with fp32.
GOALS = {
    "L0": 0.95,
    "L1": 0.8,
    "L2": 0.6,
    "L2-tour": 0.6,
    "L2-survey": 0.6,
    "L3": 0.6,
    "L3-survey": 0.6,
    "TR": 0.95,
    "TR-back": 0.95,
}
MIN_RATIO = 0.98
REACHED, WRONG_PLACE, TIMEOUT = "reached", "wrong place", "timeout"
# Values of a drive in the report.
COLUMNS = ("outcome", "reached", "stopped", "time_s", "distance_m", "turn_deg", "contacts")


def measure(
    arguments: Namespace,
    simulator: Any,
    versions: dict[str, str],
    *,
    path: Path,
    summarize: Summary,
    console: Console,
) -> dict[str, Any]:
    """Return the report of all levels and precisions.

    Args:
        arguments: Options of first_person.py.
        simulator: Opens the scenes.
        versions: Versions of the packages.
        path: The report, which is continued.
        summarize: See :class:`ResumableReport`.
        console: Where progress is shown.

    Raises:
        JepaRuntimeError: The bundle cannot be run here, or the report belongs to other settings.
    """
    bundle = Bundle.open(arguments.bundle)
    manifest, options = bundle.manifest, BackendOptions(threads=1)
    backend = create_backend(DEFAULT_ENGINE, options)
    precisions = arguments.precision or runnable_precisions(manifest, backend.targets)
    backend.close()
    report = ResumableReport(
        path,
        {
            "model": f"{manifest.model_id} {manifest.version}",
            "settings": {"bundle": bundle.sha256, "world": arguments.world, "seed": arguments.seed},
            "machine": {"cpu": cpu_info(), "versions": versions},
        },
        COLUMNS,
        summarize,
    )
    with ExitStack() as opened:
        models = {
            precision: opened.enter_context(WorldModel.open(bundle, precision=precision, options=options))
            for precision in precisions
        }
        for level in arguments.level:
            _drive_level(level, models, simulator, arguments, report, console)
    return report.as_dict()


def _drive_level(
    name: str,
    models: dict[str, WorldModel],
    simulator: Any,
    arguments: Namespace,
    report: ResumableReport,
    console: Console,
) -> None:
    from jepa_sim.worlds.first_person.levels import LEVELS

    results = {
        precision: report.drives.setdefault(name, {}).setdefault(precision, []) for precision in models
    }
    columns = (
        TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[reached]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=arguments.episodes, reached="")
        for index in range(arguments.episodes):
            for precision, found in results.items():
                if len(found) == index:
                    number = arguments.seed * 1_000_000 + index
                    found.append(_drive(LEVELS[name], models[precision], simulator, number))
                    report.save()
            reached = (f"{name} {sum(one[1] for one in found)} reached" for name, found in results.items())
            progress.update(task, completed=index + 1, reached=", ".join(reached))
    report.save(now=True)


def _drive(level: Any, model: WorldModel, simulator: Any, number: int) -> list[Any]:
    """Return the values of :data:`COLUMNS` of one drive."""
    from jepa_sim.closed_loop.first_person.protocol import drive, mission_of
    from jepa_sim.closed_loop.first_person.robot_driver import robot_driver

    ends: list[str] = []
    driven = drive(
        level, mission_of(level, number, simulator), robot_driver(model, report=ends.append), seed=number
    )
    return [
        outcome(driven.reached, ends), driven.reached, driven.stopped, round(driven.time_s, 2),
        round(driven.distance_m, 3), round(driven.turn_deg, 1), driven.contacts,
    ]  # fmt: skip


def outcome(reached: bool, ends: list[str]) -> str:
    """Return how a drive ended in truth: as the robot reported it, unless it was mistaken."""
    if reached:
        return REACHED
    if not ends:
        return TIMEOUT
    return WRONG_PLACE if ends[0] == REACHED else ends[0]


def missed_goals(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence for each goal that is missed."""
    rates = {(row["level"], row["driver"]): row["rate"] for row in rows}
    failures = []
    for (level, precision), rate in rates.items():
        goal, floor = GOALS[level], MIN_RATIO * rates.get((level, "fp32"), 0.0)
        if rate < goal:
            failures.append(f"{level}: {precision} reaches {rate:.1%}, required {goal:.1%}")
        # The margin is for rounding.
        if rate < floor - 1e-9:
            failures.append(f"{level}: {precision} reaches {rate:.1%}, required {floor:.1%} (fp32)")
    return failures
