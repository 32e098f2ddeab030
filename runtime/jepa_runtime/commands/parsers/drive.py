"""``jepa-runtime drive``: closed-loop evaluation, implemented by the optional package :mod:`jepa_sim`."""

from __future__ import annotations

from typing import Any

from jepa_runtime.commands.parsers.simulated import add_simulated_parser


def add_parser(subparsers: Any) -> None:
    """Add ``drive`` to the subcommands of ``jepa-runtime``."""
    add_simulated_parser(subparsers, "drive")
