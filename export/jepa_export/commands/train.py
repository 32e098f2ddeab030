"""jepa-export train: train a model from scratch by a recipe."""

from __future__ import annotations

from typing import Any

from jepa_export.commands import number_types
from jepa_export.commands.options import REQUIRED, RESUMES, add_output_argument
from jepa_export.training.recipes import find_recipes

_RESUMES = "The same command resumes from the last checkpoint."


def add_parser(subparsers: Any) -> None:
    """Add ``train``, with each recipe as a sub-command, to the commands of jepa-export."""
    train = subparsers.add_parser(
        "train",
        description=f"Train a model from scratch by a recipe, and write its bundle. {_RESUMES}",
    )
    commands = train.add_subparsers(required=True, metavar="RECIPE")
    for name, recipe in find_recipes().items():
        summary = recipe.summary
        parser = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {_RESUMES}"
        )
        add_output_argument(parser, "folder for checkpoints, losses and the bundle")
        parser.add_argument(
            "--seed", type=number_types.seed, default=0, help="random seed (default: %(default)s)"
        )
        recipe.add_arguments(parser)
        parser.set_defaults(run=recipe.train, needs=REQUIRED, stopped=RESUMES)
