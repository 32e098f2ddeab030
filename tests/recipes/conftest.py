"""Recipes need the extra ``export``; where it is missing, these tests are skipped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.export_extra import skipped_module

if TYPE_CHECKING:
    from jepa_recipes.two_token.training import Recipe, TrainedModel


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Stand in for the modules that cannot be imported."""
    return skipped_module(module_path, parent)


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """Return a recipe that passes all stages and learns next to nothing."""
    from tests.recipes.interrupted import RECIPE

    return RECIPE


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainedModel]:
    """Return the folder and the model of a finished run of the tiny recipe."""
    from tests.recipes.interrupted import train_tiny

    folder = tmp_path_factory.mktemp("training") / "run"
    return folder, train_tiny(folder)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: tuple[Path, TrainedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tiny model as a quantized bundle; copy it before changing anything."""
    from jepa_recipes.two_token.bundle import write_two_token_bundle

    folder = tmp_path_factory.mktemp("packed") / "bundle"
    write_two_token_bundle(tiny_run[1], folder, model_id="tiny", version="0.0.1", command="a test")
    return folder


@pytest.fixture
def copied(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reuse the graphs of ``tiny_bundle`` instead of exporting them again."""
    from jepa_recipes.two_token import bundle as packing

    def copy(_model: object, _frames: object, folder: Path, **_: object) -> None:
        for role in ("encoder", "predictor", "energy"):
            shutil.copytree(tiny_bundle / role, folder / role)

    monkeypatch.setattr(packing, "_write_graphs", copy)
