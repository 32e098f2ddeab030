"""``jepa-runtime drive``: closed-loop evaluation, implemented by the optional package :mod:`jepa_sim`."""

from __future__ import annotations

import argparse
from typing import Any

from jepa_runtime.errors import SourceError
from jepa_runtime.util.simulation import import_simulation


def add_parser(subparsers: Any) -> None:
    """Add ``drive`` to the subcommands of ``jepa-runtime``."""
    try:
        import_simulation("drive_parser").add_parser(subparsers)
    except SourceError:
        # Without a prefix for options, any arguments lead to the error that the package is missing.
        parser = subparsers.add_parser(
            "drive",
            prefix_chars="\0",
            add_help=False,
        )
        parser.add_argument("arguments", nargs="*")
        parser.set_defaults(run=_not_installed)


def _not_installed(_: argparse.Namespace) -> int:
    import_simulation("drive_command")
    return 0
