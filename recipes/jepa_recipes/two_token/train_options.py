"""Options of the recipes that train a two-token world model."""

from __future__ import annotations

import argparse

from jepa_export.commands import number_types


def add_episodes_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--episodes``."""
    parser.add_argument(
        "--episodes",
        type=number_types.count,
        default=100,
        metavar="N",
        help="closed-loop episodes for each of three seeds; 0: none (default: %(default)s)",
    )
