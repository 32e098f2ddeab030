"""jepa-export evaluate: what the forms of a bundle are worth."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from jepa_export.evaluation.figure_tables import Sheet


def add_parser(subparsers: Any) -> None:
    """Add ``evaluate`` to the commands of jepa-export."""
    from jepa_runtime.commands.arguments import add_json_argument

    parser = subparsers.add_parser(
        "evaluate",
        help="measure a bundle: fidelity, drift, surprise, goals reached, work",
        description="Measure every form of a bundle that this machine can run: how closely it follows the "
        "fp32 form, what it foresees, whether surprise tells what cannot be, goals reached in closed loop, "
        "size and multiply-adds.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument(
        "--data",
        action="append",
        metavar="DATA",
        help="frames to compare on, such as the model will see: what distill takes (a video, a folder of "
        "videos or bags, BAG.mcap?action=/cmd_vel:linear.x,angular.z, a LeRobot data set), of which "
        "recordings that the model was trained on are left out; a folder of images, or a camera; may be "
        "given again (default: two_rooms, held-out layouts)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        help="folder for decoded frames, all of up to N recordings, such as distill's OUT/frames, which has "
        "them already (default: a temporary one)",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out recordings that cannot be used, with a warning each",
    )
    parser.add_argument(
        "--clips", type=int, default=128, metavar="N", help="and as many scenes of Two Rooms (%(default)s)"
    )
    parser.add_argument(
        "--episodes",
        type=int,
        metavar="N",
        help="in closed loop, for each of three seeds; 0: none (default: 100, of a trained Two Rooms model)",
    )
    parser.add_argument("--layout", choices=["fixed", "random"], default="random", help="of Two Rooms")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (%(default)s)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with charts there")
    add_json_argument(parser, "all figures")
    parser.add_argument(
        "--write", action="store_true", help="put the figures into the bundle's report, and seal it again"
    )
    parser.set_defaults(run=_run, needs=(), stopped="every file is whole: the old one, or the new one")


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from jepa_export.errors import JepaExportError
    from jepa_export.evaluation.bundle_report import add_to_report
    from jepa_export.evaluation.evaluate import DEFAULT_DATA, Plan, evaluate
    from jepa_export.evaluation.evaluation_page import render
    from jepa_export.evaluation.figure_tables import missing, sheets
    from jepa_runtime.bundle import Bundle
    from jepa_runtime.recording import check_outputs
    from jepa_runtime.sources.factory import split_spec
    from jepa_runtime.util.output_files import STDOUT, file_paths, write, write_each, write_json

    names = ("clips", "cache", "skip_bad", "episodes", "layout", "seed")
    data = tuple(arguments.data or DEFAULT_DATA)
    plan = Plan(data=data, **{name: getattr(arguments, name) for name in names})
    bundle = Bundle.open(arguments.bundle)
    outs = file_paths(arguments.json, arguments.html)
    check_outputs(outs, bundle.path, *(Path(split_spec(spec)[0]) for spec in data))
    if arguments.write and not os.access(beside := bundle.path.resolve().parent, os.W_OK):
        raise JepaExportError(f"{beside}: cannot be written: --write makes the bundle anew in there")
    columns = TextColumn("{task.description:>34}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    console = Console(stderr=arguments.json == STDOUT)
    with Progress(*columns, console=console) as progress:

        def begin(what: str, total: int) -> Any:
            task = progress.add_task(what, total=total)
            return lambda: progress.advance(task)

        found = evaluate(bundle, plan, begin=begin)
    # A terminal that is gone takes no table, and must not take the files with it.
    try:
        write_each(
            (arguments.json, lambda: write_json(arguments.json, found.as_dict())),
            (arguments.html, lambda: write(arguments.html, render(found))),
            (arguments.write, lambda: add_to_report(bundle, {"evaluation": found.as_dict(samples=False)})),
        )
    finally:
        on = f"measured on {found.clips} clips of {found.data}"
        console.print(on, markup=False, highlight=False, soft_wrap=True)
        for sheet in sheets(found):
            console.print(_table(sheet))
        for line in missing(found):
            console.print(f"not measured: {line}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _table(sheet: Sheet) -> Table:
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(sheet.title), title_justify="left", box=SIMPLE, padding=0)
    for column, name in enumerate(sheet.head):
        words = column < sheet.words
        table.add_column(name, justify="left" if words else "right", no_wrap=words)
    for row in sheet.rows:
        table.add_row(*map(escape, row))
    return table
