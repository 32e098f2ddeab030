"""Commands that the optional package :mod:`jepa_sim` implements."""

from __future__ import annotations

import argparse
from typing import Any

from jepa_runtime.errors import SourceError
from jepa_runtime.util.simulation import import_simulation


def add_simulated_parser(subparsers: Any, name: str) -> None:
    """Add the command ``name`` with the parser of ``jepa_sim.<name>_parser``.

    Without that package the command takes any arguments, and fails with the error that it is missing.
    """
    try:
        import_simulation(f"{name}_parser").add_parser(subparsers)
    except SourceError:
        parser = subparsers.add_parser(name, prefix_chars="\0", add_help=False)
        parser.add_argument("arguments", nargs="*")
        parser.set_defaults(run=_not_installed, module=f"{name}_command")


def _not_installed(args: argparse.Namespace) -> int:
    import_simulation(args.module)
    return 0
