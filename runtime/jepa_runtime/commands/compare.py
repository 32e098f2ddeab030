"""``jepa-runtime compare``: is this profile worse than that one? Made to stand in a pipeline of checks."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from jepa_runtime.commands.arguments import add_json_argument, open_console
from jepa_runtime.errors import JepaRuntimeError, ProfileError
from jepa_runtime.profiling.comparison import Measure, Verdict, common_measure, compare, differences, label
from jepa_runtime.profiling.comparison_table import Entry, cells, markdown, remarks
from jepa_runtime.profiling.importers import read_results
from jepa_runtime.profiling.profile import Profile
from jepa_runtime.profiling.run_statistics import describe
from jepa_runtime.recording import check_outputs
from jepa_runtime.util.output_files import STDOUT, file_paths, write_json, write_text
from jepa_runtime.util.statistics import PERCENTILES

_WORSE, _NOT_COMPARABLE = 1, 2
_STYLES: dict[Verdict, str] = {"better": "green", "same": "green", "worse": "red", "not judged": "yellow"}


def add_parser(subparsers: Any) -> None:
    """Add ``compare`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "compare",
        help="compare latency profiles: effect, interval, exit status",
        description="Compare latency profiles with the first one. Worse is a percentile that rose by more "
        "than --max-regression and whose interval lies above zero, a rise of lost frames or missed deadlines "
        "whose interval lies above zero, or a graph that does not reproduce its golden outputs. A percentile "
        "that rose by more and may have done so by chance is not judged. What changed between the runs and "
        "not within them (a neighbour, heat) is in no interval: measure both again, in turns. Also reads "
        "what trtexec --exportTimes and benchmark_app -json_stats write.",
        epilog="Exit status: 0 better or the same, 1 worse, 2 not judged, not comparable or unreadable.",
    )
    parser.add_argument(
        "baseline", type=Path, metavar="BASELINE", help="the profile that others are held against"
    )
    parser.add_argument("others", type=Path, nargs="+", metavar="PROFILE", help="one or more others")
    parser.add_argument(
        "--max-regression",
        type=_percent,
        default=0.05,
        metavar="PERCENT",
        help="by how much a percentile may rise (default: 5%%)",
    )
    parser.add_argument(
        "--quantile",
        choices=[label(name) for name in PERCENTILES],
        default="p99",
        help="judged beside the median (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-different",
        action="store_true",
        help="compare even if machine, settings, engine, precision, load or source differ",
    )
    outputs = parser.add_mutually_exclusive_group()
    outputs.add_argument(
        "--markdown", metavar="FILE", help="write the table as Markdown; - for standard output"
    )
    add_json_argument(parser, "everything")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    try:
        return _run(args)
    except JepaRuntimeError as error:
        print(f"jepa-runtime compare: {error}", file=sys.stderr)
        return _NOT_COMPARABLE


def _run(args: argparse.Namespace) -> int:
    if args.markdown == args.json == STDOUT:
        raise ProfileError("--markdown - and --json - cannot both go to standard output: name a file")
    paths = [args.baseline, *args.others]
    check_outputs(file_paths(args.markdown, args.json), *paths)
    profiles = [read_results(path) for path in paths]
    if not args.allow_different:
        _refuse_unlike(paths, profiles)
    measure = common_measure(profiles)
    entries = _entries(paths, profiles, measure, args)
    if args.markdown:
        write_text(args.markdown, markdown(entries, measure).rstrip("\n"))
    if args.json:
        write_json(args.json, _as_json(entries, measure, args))
    if STDOUT not in (args.markdown, args.json):
        _show(entries, measure)
    verdicts = {entry.comparison.verdict for entry in entries if entry.comparison is not None}
    if "worse" in verdicts:
        return _WORSE
    return _NOT_COMPARABLE if "not judged" in verdicts else 0


def _refuse_unlike(paths: Sequence[Path], profiles: Sequence[Profile]) -> None:
    unlike = [
        f"{path}: {difference}"
        for path, profile in zip(paths[1:], profiles[1:], strict=True)
        for difference in differences(profiles[0], profile)
    ]
    if unlike:
        listed = "\n  ".join(unlike)
        raise ProfileError(
            f"not measured under like conditions ({paths[0]} against the others); measure again under the "
            f"same ones, or compare anyway with --allow-different:\n  {listed}"
        )


def _entries(
    paths: Sequence[Path], profiles: Sequence[Profile], measure: Measure, args: argparse.Namespace
) -> list[Entry]:
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    percentile = next(known for known in PERCENTILES if label(known) == args.quantile)
    return [
        Entry(
            name=name,
            profile=profile,
            statistics=describe(profile.run),
            comparison=None
            if index == 0
            else compare(
                profiles[0],
                profile,
                measure=measure,
                percentile=percentile,
                max_regression=args.max_regression,
            ),
        )
        for index, (name, profile) in enumerate(zip(names, profiles, strict=True))
    ]


def _as_json(entries: Sequence[Entry], measure: Measure, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "measure": measure,
        "quantile": args.quantile,
        "max_regression": args.max_regression,
        "profiles": [
            {
                "file": entry.name,
                "subject": entry.profile.subject.model_dump(),
                "environment": entry.profile.environment.model_dump(),
                "parity": [parity.model_dump() for parity in entry.profile.parity],
                "statistics": asdict(entry.statistics),
                "comparison": None if entry.comparison is None else asdict(entry.comparison),
            }
            for entry in entries
        ],
    }


def _show(entries: Sequence[Entry], measure: Measure) -> None:
    """One column a file: as rows they would not fit a terminal."""
    columns = [cells(entry, measure) for entry in entries]
    table = Table(title=f"{measure} in ms", title_justify="left")
    table.add_column("file")
    for column in columns:
        table.add_column(escape(column["file"]), overflow="fold")
    for name in list(columns[0])[1:]:
        table.add_row(name, *(escape(column[name]) for column in columns))
    console = open_console()
    console.print(table)
    for remark in remarks(entries, measure):
        console.print(f"[dim]{escape(remark)}[/]")
    for entry in entries:
        if entry.comparison is not None:
            verdict = entry.comparison.verdict
            console.print(f"{escape(entry.name)}: [{_STYLES[verdict]}]{verdict}[/]")


def _percent(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a percentage such as 5%, got {text!r}")
    return float(match[1]) / 100
