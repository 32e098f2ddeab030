"""The options of ``jepa-runtime doctor``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jepa_runtime.commands.arguments import add_bundle_argument, add_json_argument, text_output


def add_parser(subparsers: Any) -> None:
    """Add ``doctor`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "doctor",
        description="Check whether this machine can run a model in real time: drivers, firmware, devices, "
        "libraries, power mode, clock rates, temperature, DDS buffers, limits, disk space, system time. "
        "Each finding has its evidence and the command that fixes it; nothing is changed. What cannot be "
        "determined is reported as unknown. Run it as the account that will run the model.",
        epilog="Exit status: 0 no problem, 1 the checks could not run, 3 there is an error or a warning.",
    )
    add_bundle_argument(parser, "the bundle that will run on this machine", required=False)
    add_json_argument(parser, "the findings")
    parser.add_argument(
        "--fix-script",
        type=text_output,
        metavar="FILE",
        help="write a shell script with all fixes to FILE (- for standard output), to review and run",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="check another machine whose files are below DIR, such as a mounted disk; DIR.json may provide "
        "what is not in files (docs/doctor.md) (default: /)",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import doctor

    return doctor.run(args)
