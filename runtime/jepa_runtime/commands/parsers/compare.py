"""The options of ``jepa-runtime compare``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from jepa_runtime.commands.arguments import add_json_argument, text_output
from jepa_runtime.util.percentiles import PERCENTILES, label


def add_parser(subparsers: Any) -> None:
    """Add ``compare`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "compare",
        description="Compare latency profiles with a baseline. A profile is worse if a percentile rose by "
        "more than --max-regression and the confidence interval of the difference lies above zero, if the "
        "rate of lost frames or missed deadlines rose and its interval lies above zero, or if a graph does "
        "not reproduce its golden outputs. A percentile that rose by more, but whose interval includes "
        "zero, is not judged. The intervals do not cover differences between runs, such as other load or "
        "heat: measure both repeatedly, in turns. Also reads the output of trtexec --exportTimes and "
        "benchmark_app -json_stats.",
        epilog="Exit status: 0 better or the same, 1 not comparable or another error, 3 worse, 4 not judged.",
    )
    parser.add_argument(
        "baseline", type=Path, metavar="BASELINE", help="the profile that others are compared with"
    )
    parser.add_argument("others", type=Path, nargs="+", metavar="PROFILE", help="the profiles to compare")
    parser.add_argument(
        "--max-regression",
        type=_percent,
        default=0.05,
        metavar="PERCENT",
        help="largest accepted rise of a percentile (default: 5%%)",
    )
    parser.add_argument(
        "--quantile",
        choices=[label(name) for name in PERCENTILES],
        default="p99",
        help="the percentile to judge, in addition to the median (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-different",
        action="store_true",
        help="compare profiles of different machines, settings, engines, precisions, loads or sources",
    )
    parser.add_argument(
        "--markdown",
        type=text_output,
        metavar="FILE",
        help="write the table as Markdown to FILE, or to standard output if FILE is -",
    )
    add_json_argument(parser, "the comparison")
    parser.add_argument(
        "--html",
        type=text_output,
        metavar="FILE",
        help="write a page with charts to FILE (- for standard output)",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import compare

    return compare.run(args)


def _percent(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a percentage such as 5%, got {text!r}")
    return float(match[1]) / 100
