"""Recipes are found by entry points, those of this repository and those of other packages."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from jepa_export.cli import main
from jepa_export.training.recipes import find_recipes


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package with three recipes, of which one works."""
    described = tmp_path / "maze_recipes-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: maze-recipes\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(
        "[jepa_export.recipes]\nmaze = maze_recipe:RECIPE\nlost = no.such.module:RECIPE\n"
        "number = maze_recipe:NUMBER\n"
    )
    (tmp_path / "maze_recipe.py").write_text(
        "from jepa_export.training.recipes import TrainingRecipe\n"
        "NUMBER = 3\n"
        "def add_arguments(parser):\n"
        "    parser.add_argument('--walls', type=int, default=4)\n"
        "def train(arguments):\n"
        "    print(arguments.out, arguments.seed, arguments.walls)\n"
        "    return 0\n"
        "RECIPE = TrainingRecipe(summary='train in a maze', add_arguments=add_arguments, train=train)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_recipes_of_this_repository_are_installed() -> None:
    assert find_recipes().keys() >= {"two_rooms", "reacher", "stable_worldmodel"}


@pytest.mark.usefixtures("package")
def test_recipe_of_another_package_runs_with_its_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jepa_export.commands.train.REQUIRED", ())
    assert main(["train", "maze", "--output", "here", "--seed", "5", "--walls", "7"]) == 0
    assert capsys.readouterr().out == "here 5 7\n"


@pytest.mark.usefixtures("package")
def test_broken_recipe_is_logged_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        recipes = find_recipes()
    assert "maze" in recipes and not recipes.keys() & {"lost", "number"}
    lost, number = sorted(record.getMessage() for record in caplog.records)
    assert lost.startswith("recipe lost of the package maze-recipes cannot be loaded: No module named 'no'")
    assert "maze_recipe:NUMBER is not a TrainingRecipe" in number


def test_recipe_is_listed_without_torch() -> None:
    """``--help`` is fast because a recipe imports torch only when it runs."""
    program = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from jepa_export.training.recipes import find_recipes\n"
        "assert {'two_rooms', 'reacher'} <= find_recipes().keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
