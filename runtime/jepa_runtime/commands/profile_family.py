"""``jepa-runtime profile`` of several bundles: recommend the largest that keeps the deadline."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jepa_runtime.commands.arguments import message_console, open_model
from jepa_runtime.commands.exit_status import ExitStatus, UsageError, print_error
from jepa_runtime.commands.profile_view import Steps
from jepa_runtime.commands.signals import stop_on_signals
from jepa_runtime.errors import JepaRuntimeError, ProfileError
from jepa_runtime.profiling.family import Family, Member, open_family
from jepa_runtime.profiling.load_generator import LoadGenerator, Workload, default_rate_hz
from jepa_runtime.profiling.recommendation import Timing, Verdict, count_turns, measure_in_turns
from jepa_runtime.recording import check_outputs
from jepa_runtime.sources.factory import split_spec
from jepa_runtime.telemetry import Monitor
from jepa_runtime.telemetry.cpu import busy_by_others
from jepa_runtime.telemetry.environment import read_environment
from jepa_runtime.util.output_files import file_paths, write_json
from jepa_runtime.util.statistics import format_ms, summarize

# Options for the profile of one model.
_OF_ONE = ("html", "trace", "skip", "ros", "attach", "ros_param", "topic")
# Cores that other programs may use without a highlight.
_BUSY = 0.2
_STYLES: dict[Verdict, str] = {
    "keeps the deadline": "green",
    "misses the deadline": "red",
    "too few frames": "yellow",
    "cannot run": "red",
}


@dataclass(frozen=True)
class _Row:
    """One bundle. ``variant``: precision, engine and device; ``failure``: why it cannot run."""

    member: Member
    variant: str
    timing: Timing
    failure: str = ""


def run(args: argparse.Namespace, paths: Sequence[Path]) -> int:
    """Measure the bundles ``paths`` in turns, and recommend one.

    Raises:
        UsageError: An option is for the profile of one model.
        ProfileError: The bundles are not of one family, or no frame of a model was processed.
        JepaRuntimeError: An input is invalid, no bundle can run here, or the file cannot be written.
    """
    if given := [f"--{name.replace('_', '-')}" for name in _OF_ONE if getattr(args, name)]:
        raise UsageError(f"{', '.join(given)}: not with several bundles: profile the recommended one alone")
    console = message_console(args, "json")
    check_outputs(file_paths(args.json), Path(split_spec(args.source)[0]), *paths)
    family = open_family(paths)
    # Members have the same interface, and thus the same step.
    args.rate = args.rate or default_rate_hz(family.members[0].bundle.manifest)
    deadline_ms = args.deadline_ms or 1e3 / args.rate
    with stop_on_signals() as stopping, Steps(console) as steps, Monitor() as monitor:
        rows = _measure(args, family, deadline_ms, stopping, steps)
    others = busy_by_others(monitor.readings())
    kept = [row for row in rows if row.timing.verdict == "keeps the deadline"]
    recommended = kept[-1] if kept else None
    try:
        if args.json is not None:
            write_json(args.json, _as_dict(args, family, rows, recommended, deadline_ms, others))
    finally:
        _show(args, rows, recommended, deadline_ms, others, console)
    if recommended is not None:
        return ExitStatus.OK
    if any(row.timing.verdict == "too few frames" for row in rows):
        print_error("jepa-runtime", _too_few())
        return ExitStatus.INCONCLUSIVE
    print_error("jepa-runtime", _none_kept(args, deadline_ms))
    return ExitStatus.NEGATIVE


def _measure(
    args: argparse.Namespace, family: Family, deadline_ms: float, stopping: Event, steps: Steps
) -> list[_Row]:
    workload = Workload.read(args.source, rate_hz=args.rate, size=args.size)
    loads: dict[int, LoadGenerator] = {}
    failures: dict[int, JepaRuntimeError] = {}
    with ExitStack() as opened:
        for index, member in enumerate(family.members):
            steps.say(f"opening {member.bundle.path}")
            opener = partial(open_model, args, member.bundle)
            load = LoadGenerator(opener, workload, stopping=stopping, with_goal=True)
            try:
                loads[index] = opened.enter_context(load)
            except JepaRuntimeError as error:
                failures[index] = error
        if not loads:
            raise failures[0]
        variants = {index: _variant(load) for index, load in loads.items()}
        timings = measure_in_turns(
            loads,
            rate_hz=args.rate,
            duration_s=args.duration,
            deadline_ms=deadline_ms,
            stopping=stopping,
            tick=steps.counter("turns", count_turns(args.duration) * len(loads)),
        )
    not_run = Timing(summarize([]), 0, "cannot run")
    return [
        _Row(member, "", not_run, f"{failures[index]} [{failures[index].code}]")
        if index in failures
        else _Row(member, variants[index], timings[index])
        for index, member in enumerate(family.members)
    ]


def _variant(load: LoadGenerator) -> str:
    return f"{load.model.precision} on {load.model.engine}:{load.model.device}"


def _show(
    args: argparse.Namespace,
    rows: Sequence[_Row],
    recommended: _Row | None,
    deadline_ms: float,
    others: float | None,
    console: Console,
) -> None:
    table = Table()
    table.add_column("bundle", overflow="fold")
    table.add_column("multiply-adds", justify="right")
    table.add_column("MB", justify="right")
    table.add_column("variant")
    for column in ("p50 ms", "p99 ms", "late"):
        table.add_column(column, justify="right")
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        count, timing = row.member.multiply_adds, row.timing
        table.add_row(
            Text(str(row.member.bundle.path)),
            "-" if count is None else f"{count / 1e6:,.0f} M",
            f"{row.member.graph_bytes / 1e6:.2f}",
            row.variant or "-",
            format_ms(timing.response.p50),
            format_ms(timing.response.p99),
            f"{timing.late} of {timing.response.n}",
            Text(timing.verdict, style=_STYLES[timing.verdict]),
        )
    console.print(table)
    for row in rows:
        if row.failure:
            console.print(Text(f"{row.member.bundle.path} cannot run: {row.failure}"), soft_wrap=True)
    if recommended is not None:
        console.print(
            Text(
                f"recommended: {recommended.member.bundle.path}, the largest whose p99 is within "
                f"{deadline_ms:.5g} ms at {args.rate:g} Hz with a goal",
                style="bold",
            ),
            soft_wrap=True,
        )
    environment = read_environment()
    console.print(Text(f"{environment.cpu}, {environment.cores} cores", style="dim"))
    if others is not None:
        used = f"other programs used {others:.1f} of {environment.cores} cores meanwhile"
        console.print(Text(used, style="yellow" if others > _BUSY else "dim"))


def _as_dict(
    args: argparse.Namespace,
    family: Family,
    rows: Sequence[_Row],
    recommended: _Row | None,
    deadline_ms: float,
    others: float | None,
) -> dict[str, Any]:
    environment = read_environment()
    return {
        "schema": 1,
        "cpu": environment.cpu,
        "cores": environment.cores,
        "cores_used_by_others": None if others is None else round(others, 2),
        "rate_hz": args.rate,
        "deadline_ms": deadline_ms,
        "ordered_by": family.ordered_by,
        "recommended": None if recommended is None else str(recommended.member.bundle.path),
        "bundles": [_row_dict(row) for row in rows],
    }


def _row_dict(row: _Row) -> dict[str, Any]:
    manifest, timing = row.member.bundle.manifest, row.timing
    return {
        "path": str(row.member.bundle.path),
        "sha256": row.member.bundle.sha256,
        "model_id": manifest.model_id,
        "version": manifest.version,
        "multiply_adds": row.member.multiply_adds,
        "graph_bytes": row.member.graph_bytes,
        "variant": row.variant or None,
        "response_ms": timing.response.as_dict(4),
        "late": timing.late,
        "verdict": timing.verdict,
        "failure": row.failure or None,
    }


def _too_few() -> ProfileError:
    return ProfileError(
        "fewer than 100 frames of a bundle were measured, too few for a p99: measure longer (--duration)",
        code="profile.too_few_frames",
    )


def _none_kept(args: argparse.Namespace, deadline_ms: float) -> ProfileError:
    return ProfileError(
        f"no bundle keeps the deadline of {deadline_ms:.5g} ms at {args.rate:g} Hz on this machine: use a "
        "smaller size, fewer futures (--num-samples), an accelerator (--engine), more threads (--threads), "
        "or a lower rate of the camera (--rate); `jepa-runtime doctor` shows whether the machine is set up",
        code="profile.deadline_not_kept",
    )
