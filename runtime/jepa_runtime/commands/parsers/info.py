"""The options of ``jepa-runtime info``."""

from __future__ import annotations

import argparse
from typing import Any

from jepa_runtime.commands.arguments import add_bundle_argument, add_json_argument


def add_parser(subparsers: Any) -> None:
    """Add ``info`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "info", description="Check the files of a bundle and show what it contains."
    )
    add_bundle_argument(parser)
    add_json_argument(parser, "the manifest and its hash")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import info

    return info.run(args)
