"""Options and defaults that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from jepa_export.targets.registry import default_target_names, target_names

# Packages without which a command cannot run; see jepa_export.cli.
REQUIRED = ("torch", "onnx", "nncf", "scipy")
# What a command prints after Ctrl-C.
NOTHING_WRITTEN = "interrupted: nothing was written"
RESUMES = "interrupted: the same command resumes from the last checkpoint"


def add_output_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the required option ``--output``, stored as ``out``, with the help ``text``."""
    parser.add_argument("-o", "--output", type=Path, required=True, dest="out", metavar="FOLDER", help=text)


def add_variant_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--target`` and ``--only``; see :func:`jepa_export.bundling.variants.select_variants`."""
    group = parser.add_mutually_exclusive_group()
    add_target_argument(group)
    group.add_argument(
        "--only", metavar="TARGET/PRECISION", help="the only variant of the bundle, such as openvino/int8"
    )


def add_target_argument(parser: argparse._ActionsContainer) -> None:
    """Add ``--target`` to a parser or a group; see :func:`targets_of`."""
    defaults = " and ".join(default_target_names())
    parser.add_argument(
        "--target",
        action="append",
        choices=target_names(),
        help=f"target of the bundle; repeatable (default: {defaults})",
    )


def targets_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the selected targets without duplicates; empty: the default."""
    return tuple(dict.fromkeys(arguments.target or ()))
