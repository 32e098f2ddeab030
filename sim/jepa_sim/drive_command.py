"""``jepa-runtime drive``: closed-loop evaluation in a simulated world."""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any, get_args

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.bundle import Bundle, Precision
from jepa_runtime.commands import (
    add_bundle_argument,
    add_cache_argument,
    add_json_argument,
    add_untrained_argument,
    binary_output,
    count,
    message_console,
    text_output,
)
from jepa_runtime.control import PRESETS, preset
from jepa_runtime.imaging import to_png
from jepa_runtime.recording import check_outputs
from jepa_runtime.util import file_paths, write_each, write_file, write_json, write_text
from jepa_sim.closed_loop.episodes import SEEDS
from jepa_sim.closed_loop.film_strips import captions, sheet
from jepa_sim.closed_loop.results_page import GOALS_HEAD, difference_rows, goals_rows, render
from jepa_sim.closed_loop.run import ClosedLoop, Plan, closed_loop, progress
from jepa_sim.worlds.registry import GROUP, make_world

_FILMS = 3


def add_parser(subparsers: Any) -> None:
    """Add ``drive`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "drive",
        help="evaluate a bundle in a simulated world: goals reached by engine and precision",
        description="Evaluate a bundle in closed loop in a simulated world, with the controller and the "
        "safety checks of the planner node. All engines, precisions and baselines have the same episodes, "
        "whose seeds no training uses. The baselines act at random and, if the world supports it, drive "
        "straight to the goal. An episode counts if the model decides that the goal is reached and the "
        "robot is truly there.",
        epilog="Worlds: two_rooms, two_rooms_fixed, reacher (Gymnasium: pip install 'jepa-edge[worlds]'), "
        f"worlds of installed packages (entry points of the group {GROUP}), and any module:attribute.",
    )
    add_bundle_argument(parser)
    parser.add_argument("--world", default="two_rooms", metavar="W", help="world (default: %(default)s)")
    parser.add_argument(
        "--episodes",
        type=count,
        default=100,
        metavar="N",
        help="episodes for each seed (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=_seed, nargs="+", default=list(SEEDS), metavar="S", help="seeds (default: 0 1 2)"
    )
    parser.add_argument(
        "--engine",
        nargs="+",
        default=[DEFAULT_ENGINE],
        metavar="E",
        help=f"engines (default: {DEFAULT_ENGINE})",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=get_args(Precision),
        help="precisions (default: all that an engine runs)",
    )
    parser.add_argument(
        "--planner",
        choices=sorted(PRESETS),
        default="two_rooms",
        help="planner preset (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=count, default=1, metavar="N", help="threads of each engine (default: %(default)s)"
    )
    parser.add_argument(
        "--no-baselines", dest="baselines", action="store_false", help="leave out the baselines"
    )
    add_cache_argument(parser)
    add_untrained_argument(parser)
    add_json_argument(parser, "all figures")
    parser.add_argument(
        "--html",
        type=text_output,
        metavar="FILE",
        help="write a page with charts and images to FILE (- for standard output)",
    )
    parser.add_argument(
        "--png",
        type=binary_output,
        metavar="FILE",
        help=f"write an image of the first {_FILMS} episodes to FILE",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        JepaRuntimeError: The input is invalid, the model cannot act in this world, or an engine cannot run
            it.
    """
    console = message_console(args, "json", "html")
    check_outputs(file_paths(args.json, args.html, args.png), args.bundle)
    plan = Plan(
        engines=tuple(dict.fromkeys(args.engine)),
        precisions=None if args.precision is None else tuple(dict.fromkeys(args.precision)),
        seeds=tuple(dict.fromkeys(args.seed)),
        episodes=args.episodes,
        planner=preset(args.planner),
        threads=args.threads,
        cache_dir=args.cache_dir,
        baselines=args.baselines,
        films=_FILMS if args.html or args.png else 0,
        allow_untrained=args.allow_untrained,
    )
    bundle = Bundle.open(args.bundle)
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


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 32:
        raise argparse.ArgumentTypeError(f"must be between 0 and {(1 << 32) - 1}, got {text}")
    return value
