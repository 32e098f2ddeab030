"""jepa-export evaluate: measure the variants of a bundle."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_runtime.commands import UsageError, add_bundle_argument, add_json_argument, text_output

if TYPE_CHECKING:
    from rich.table import Table

    from jepa_export.evaluation.figure_tables import ResultTable


def add_parser(subparsers: Any) -> None:
    """Add ``evaluate`` to the commands of jepa-export."""
    parser = subparsers.add_parser(
        "evaluate",
        description="Measure every variant of a bundle that this machine can run: agreement with the fp32 "
        "variant, prediction errors, how well surprise detects impossible events, success rate in closed "
        "loop, size and multiply-adds.",
    )
    add_bundle_argument(parser)
    parser.add_argument(
        "--data",
        action="append",
        metavar="DATA",
        help="frames to compare on, like those of the robot: data as for distill (a video, a folder of "
        "videos or bags, BAG.mcap?action=/cmd_vel:linear.x,angular.z, a LeRobot data set), without the "
        "recordings that the model was trained on; a folder of images, or a camera; repeatable (default: "
        "two_rooms, held-out layouts)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        help="cache folder for the decoded frames of up to N recordings, such as OUTPUT/frames of distill "
        "(default: a temporary folder)",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="skip recordings that cannot be used, with a warning for each",
    )
    parser.add_argument(
        "--clips",
        type=int,
        default=128,
        metavar="N",
        help="number of clips, and of scenes of Two Rooms (default: %(default)s)",
    )
    parser.add_argument(
        "--episodes",
        type=int,
        metavar="N",
        help="closed-loop episodes for each of three seeds; 0: none (default: 100 for a trained Two Rooms "
        "model)",
    )
    parser.add_argument(
        "--layout",
        choices=["fixed", "random"],
        default="random",
        help="layouts of Two Rooms (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument(
        "--html",
        type=text_output,
        metavar="FILE",
        help="write a page with charts to FILE (- for standard output)",
    )
    add_json_argument(parser, "all results")
    parser.add_argument(
        "--write", action="store_true", help="add the results to the report of the bundle, and seal it again"
    )
    parser.set_defaults(
        run=_run, needs=(), stopped="interrupted: every file is complete, in its old or its new version"
    )


def _run(arguments: argparse.Namespace) -> int:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from jepa_export.bundling.task_progress import show_on
    from jepa_export.errors import JepaExportError
    from jepa_export.evaluation.bundle_report import add_to_report
    from jepa_export.evaluation.evaluate import DEFAULT_DATA, EvaluationPlan, evaluate
    from jepa_export.evaluation.evaluation_page import render
    from jepa_export.evaluation.figure_tables import missing, tables
    from jepa_runtime.bundle import Bundle
    from jepa_runtime.commands import message_console
    from jepa_runtime.recording import check_outputs
    from jepa_runtime.sources import split_spec
    from jepa_runtime.util import file_paths, write_each, write_json, write_text

    names = ("clips", "cache", "skip_bad", "episodes", "layout", "seed")
    data = tuple(arguments.data or DEFAULT_DATA)
    plan = EvaluationPlan(data=data, **{name: getattr(arguments, name) for name in names})
    if arguments.write and arguments.downloaded:
        raise UsageError(
            f"--write: cannot add results to {arguments.downloaded[0]}, a bundle on the Hugging Face Hub: "
            f"copy {arguments.bundle} to another folder, and evaluate the copy"
        )
    bundle = Bundle.open(arguments.bundle)
    console = message_console(arguments, "json", "html")
    outs = file_paths(arguments.json, arguments.html)
    check_outputs(outs, bundle.path, *(Path(split_spec(spec)[0]) for spec in data))
    if arguments.write and not os.access(parent := bundle.path.resolve().parent, os.W_OK):
        raise JepaExportError(
            f"{parent}: cannot be written: --write needs write access to the folder that contains the bundle",
            code="export.write_failed",
        )
    columns = TextColumn("{task.description:>34}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:

        def reading(text: str) -> None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

        found = evaluate(bundle, plan, begin=show_on(progress), reading=reading)
    # Files are written first: printing fails if the terminal was closed.
    try:
        write_each(
            (arguments.json, lambda: write_json(arguments.json, found.as_dict())),
            (arguments.html, lambda: write_text(arguments.html, render(found))),
            (arguments.write, lambda: add_to_report(bundle, {"evaluation": found.as_dict(samples=False)})),
        )
    finally:
        summary = f"measured on {found.clips} clips of {found.data}"
        console.print(summary, markup=False, highlight=False, soft_wrap=True)
        for result in tables(found):
            console.print(_table(result))
        for line in missing(found):
            console.print(f"not measured: {line}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _table(result: ResultTable) -> Table:
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(result.title), title_justify="left", box=SIMPLE, padding=0)
    for column, name in enumerate(result.head):
        words = column < result.text_columns
        table.add_column(name, justify="left" if words else "right", no_wrap=words)
    for row in result.rows:
        table.add_row(*map(escape, row))
    return table
