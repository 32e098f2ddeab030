"""``jepa-runtime compare``: compare latency profiles, for use in CI."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from jepa_runtime.commands.arguments import open_console, writes_to_stdout
from jepa_runtime.commands.exit_status import ExitStatus
from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling.comparison import Measure, Verdict, common_measure, compare, differences
from jepa_runtime.profiling.comparison_table import Entry, as_dict, cells, markdown, remarks
from jepa_runtime.profiling.importers import read_results
from jepa_runtime.profiling.profile import Profile
from jepa_runtime.profiling.run_statistics import describe
from jepa_runtime.recording import check_outputs
from jepa_runtime.reports.comparison_page import render_comparison
from jepa_runtime.util.output_files import file_paths, write_json, write_text
from jepa_runtime.util.percentiles import PERCENTILES, label

_STYLES: dict[Verdict, str] = {"better": "green", "same": "green", "worse": "red", "not judged": "yellow"}


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        ProfileError: A profile cannot be read, or the profiles are not comparable.
        JepaRuntimeError: A file cannot be written.
    """
    is_quiet = writes_to_stdout(args, "markdown", "json", "html")
    paths = [args.baseline, *args.others]
    check_outputs(file_paths(args.markdown, args.json, args.html), *paths)
    profiles = [read_results(path) for path in paths]
    if not args.allow_different:
        _check_comparable(paths, profiles)
    measure = common_measure(profiles)
    entries = _entries(paths, profiles, measure, args)
    if args.markdown:
        write_text(args.markdown, markdown(entries, measure).rstrip("\n"))
    if args.json:
        data = as_dict(entries, measure, args.max_regression)
        write_json(args.json, {"quantile": args.quantile, **data})
    if args.html:
        write_text(args.html, render_comparison(entries, measure, max_regression=args.max_regression))
    if not is_quiet:
        _show(entries, measure)
    verdicts = {entry.comparison.verdict for entry in entries if entry.comparison is not None}
    if "worse" in verdicts:
        return ExitStatus.NEGATIVE
    return ExitStatus.INCONCLUSIVE if "not judged" in verdicts else ExitStatus.OK


def _check_comparable(paths: Sequence[Path], profiles: Sequence[Profile]) -> None:
    different = [
        f"{path}: {difference}"
        for path, profile in zip(paths[1:], profiles[1:], strict=True)
        for difference in differences(profiles[0], profile)
    ]
    if different:
        listed = "\n  ".join(different)
        raise ProfileError(
            f"{paths[0]} and the others were measured under different conditions; measure them under the "
            f"same ones, or compare anyway with --allow-different:\n  {listed}",
            code="profile.different_conditions",
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


def _show(entries: Sequence[Entry], measure: Measure) -> None:
    """Print a table with one column per profile: as rows they would not fit a terminal."""
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
