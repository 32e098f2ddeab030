"""The options of ``jepa-runtime verify``."""

from __future__ import annotations

import argparse
from typing import Any

from jepa_runtime.commands.arguments import (
    add_bundle_argument,
    add_cache_argument,
    add_json_argument,
    add_threads_argument,
)
from jepa_runtime.util.precision import PRECISIONS


def add_parser(subparsers: Any) -> None:
    """Add ``verify`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "verify",
        description="Check the manifest, hashes and formats of a bundle, and whether the graphs of each "
        "variant reproduce the golden outputs on this machine within the bundle's tolerances. A variant "
        "for a device that this machine lacks is reported as not checked; its graphs are opened and run on "
        "the CPU, unless no installed engine is for its target.",
        epilog="Exit status: 0 valid, 1 invalid.",
    )
    add_bundle_argument(parser)
    parser.add_argument(
        "--engine",
        metavar="E",
        help="check only the variants that this engine runs (default: each variant, on a device it is for)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="check only this precision (default: all)",
    )
    add_threads_argument(parser)
    add_cache_argument(parser)
    add_json_argument(parser, "the outcome")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import verify

    return verify.run(args)
