"""The options of ``jepa-runtime calibrate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jepa_runtime.commands.arguments import (
    add_bundle_argument,
    add_cache_argument,
    add_engine_argument,
    add_precision_argument,
    add_untrained_argument,
    positive,
    rate,
)


def add_parser(subparsers: Any) -> None:
    """Add ``calibrate`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "calibrate",
        description="Run a model on recordings of normal operation, as fast as possible, and write a copy of "
        "its bundle with the error bounds of predictions and the anomaly scores of these recordings. Robots "
        "start with these bounds and derive their alarm thresholds from the scores. For one false alarm in "
        "ten minutes, the recordings must last at least half an hour and contain the commands.",
    )
    add_bundle_argument(parser)
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="S",
        help="a recording, as for `jepa-runtime run`, such as BAG.mcap?action=/cmd_vel:…; repeatable",
    )
    parser.add_argument(
        "--rate", type=rate, metavar="HZ", help="rate of an image folder or a simulated world"
    )
    parser.add_argument(
        "--keep-bounds",
        action="store_true",
        help="keep the error bounds of the bundle and learn the scores only",
    )
    parser.add_argument(
        "--duration",
        type=positive,
        metavar="S",
        help="use the first S seconds of each recording (default: all)",
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FOLDER", help="the new bundle; must not exist"
    )
    add_engine_argument(parser)
    add_precision_argument(parser)
    add_cache_argument(parser)
    add_untrained_argument(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import calibrate

    return calibrate.run(args)
