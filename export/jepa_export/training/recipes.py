"""The registry of recipes: how models are trained from scratch.

A package adds a recipe to ``jepa-export train`` by an entry point that refers to a
:class:`TrainingRecipe`::

    [project.entry-points."jepa_export.recipes"]
    maze = "maze_recipe:RECIPE"

Then ``jepa-export train maze`` runs it. The module should import torch only when the recipe runs, so that
``--help`` is fast.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points

ENTRY_POINTS = "jepa_export.recipes"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """A sub-command of ``jepa-export train``.

    Attributes:
        summary: Line for its help, an imperative without a period.
        add_arguments: Adds its options to a parser that has ``--output`` (``out``) and ``--seed``.
        train: Trains as the parsed arguments request, writes the bundle and returns the exit status.
    """

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    train: Callable[[argparse.Namespace], int]


def find_recipes() -> dict[str, TrainingRecipe]:
    """Return the recipes of all installed packages by name. Broken ones are logged."""
    found: dict[str, TrainingRecipe] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        package = entry.dist.name if entry.dist is not None else entry.value
        try:
            recipe = entry.load()
            if not isinstance(recipe, TrainingRecipe):
                raise TypeError(f"{entry.value} is not a TrainingRecipe")
        # A package can raise anything while it is imported.
        except Exception as error:
            _LOG.warning(
                "recipe %s of the package %s cannot be loaded: %s: update or remove the package",
                entry.name,
                package,
                error,
            )
        else:
            found.setdefault(entry.name, recipe)
    return found
