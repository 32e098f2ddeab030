"""``jepa-runtime drive``: closed-loop evaluation in a simulated world."""

from __future__ import annotations

import argparse
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jepa_runtime.bundle import Bundle
from jepa_runtime.commands import UsageError, message_console
from jepa_runtime.control import preset
from jepa_runtime.errors import BundleError
from jepa_runtime.imaging import to_png
from jepa_runtime.recording import check_outputs
from jepa_runtime.util import file_paths, write_each, write_file, write_json, write_text
from jepa_sim.closed_loop.charged_time import ChargedTime, npu_estimates, profiled_decisions
from jepa_sim.closed_loop.episodes import SEEDS
from jepa_sim.closed_loop.film_strips import captions, sheet
from jepa_sim.closed_loop.results_page import GOALS_HEAD, difference_rows, goals_rows, render
from jepa_sim.closed_loop.run import ClosedLoop, Plan, closed_loop, progress
from jepa_sim.worlds.registry import make_world


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        JepaRuntimeError: The input is invalid, the model cannot act in this world, or an engine cannot run
            it.
    """
    console = message_console(args, "json", "html")
    check_outputs(file_paths(args.json, args.html, args.png), args.bundle)
    bundle = Bundle.open(args.bundle)
    plan = Plan(
        engines=tuple(dict.fromkeys(args.engine)),
        precisions=None if args.precision is None else tuple(dict.fromkeys(args.precision)),
        seeds=SEEDS if args.seed is None else tuple(dict.fromkeys(args.seed)),
        episodes=args.episodes,
        planner=replace(preset(args.planner), compensate_latency=args.compensation),
        threads=args.threads,
        cache_dir=args.cache_dir,
        baselines=args.baselines,
        films=args.films if args.html or args.png else 0,
        allow_untrained=args.allow_untrained,
        charged=_charged_time(args, bundle),
    )
    with closing(make_world(args.world)) as world, progress(len(plan.seeds) * plan.episodes, console) as tick:
        found = closed_loop(bundle, world, plan, tick=tick)
    # The files are written even if the terminal is closed.
    try:
        write_each(
            (args.json, lambda: write_json(args.json, found.as_dict())),
            (args.html, lambda: write_text(args.html, render(found))),
            (args.png, lambda: write_file(args.png, to_png(sheet(captions(found))))),
        )
    finally:
        _show(found, console)
    return 0


def _charged_time(args: argparse.Namespace, bundle: Bundle) -> ChargedTime | None:
    if args.time is None:
        if args.latency_ms:
            raise UsageError("--latency-ms needs --time: use --time measured, for example")
        return None
    decisions_s: tuple[float, ...] = ()
    if isinstance(args.time, Path):
        decisions_s = profiled_decisions(args.time)
    elif isinstance(args.time, tuple):
        decisions_s = (_estimated_decision(bundle, *args.time),)
    elif args.time != "measured":
        decisions_s = (args.time / 1e3,)
    return ChargedTime(decisions_s=decisions_s, transport_s=args.latency_ms / 1e3)


def _estimated_decision(bundle: Bundle, platform: str) -> float:
    estimates = npu_estimates(bundle.report() or {})
    if platform not in estimates:
        known = ", ".join(estimates) or "none"
        raise BundleError(
            f"{bundle.path}: its report has no estimates of Intel's NPU compiler for all graphs on platform "
            f"{platform!r}, only for: {known}: write the bundle where the compiler is installed, or give "
            "milliseconds",
            code="bundle.no_npu_estimate",
        )
    return estimates[platform]


def _show(found: ClosedLoop, console: Console) -> None:
    if not found.trained:
        console.print(f"[yellow]{escape(found.model)}: untrained, the results mean nothing[/]")
    requested, used = found.plan.planner.search, found.planner.search
    if requested != used:
        console.print(
            f"planning horizon reduced from {requested.horizon} to {used.horizon} steps: the model "
            f"predicts no more",
            style="yellow",
        )
    if found.plan.charged is not None:
        console.print(
            f"time is charged: futures_timeout_s is {found.planner.futures_timeout_s:g} s, frozen_after_s "
            f"{found.planner.frozen_after_s:g} s for this latency"
        )
    console.print(
        _table(f"{found.model} in {found.task.name}", GOALS_HEAD, goals_rows(found.goals, found.plan_times))
    )
    first, *others = found.drives
    if others:
        head = ("points", "95 %", "only it reached", f"only {first}")
        console.print(
            _table(
                f"Difference to {first} in the same episodes", ("", *head), difference_rows(found.differences)
            )
        )


def _table(title: str, head: tuple[str, ...], rows: list[list[str]]) -> Table:
    table = Table(title=escape(title), title_justify="left", box=SIMPLE, padding=0)
    for column, name in enumerate(head):
        table.add_column(escape(name), justify="left" if column == 0 else "right", no_wrap=column in (0, 2))
    for row in rows:
        table.add_row(*map(escape, row))
    return table
