"""The workstation's half needs torch and its companions; where they are missing, these tests are skipped."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from jepa_export.training.two_rooms_recipe import Recipe, TrainedModel

# Set before torch is imported: tests share the machine with whatever else runs on it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
NEEDED = ("torch", "onnx", "nncf", "scipy", "safetensors", "av", "pyarrow", "lightning_fabric")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
NEED_NOTHING = {
    "test_add_atlas.py",
    "test_cli.py",
    "test_publish.py",
    "test_release_command.py",
    "test_release_signing.py",
}


class _Skipped(pytest.Module):
    """A test module that must not be imported here."""

    def collect(self) -> Iterable[pytest.Item]:
        pytest.skip(
            f"{', '.join(MISSING)} not installed (pip install 'jepa-edge[export]')", allow_module_level=True
        )


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Stand in for the modules that cannot be imported."""
    if not MISSING or module_path.name in NEED_NOTHING:
        return None
    skipped: pytest.Module = _Skipped.from_parent(parent, path=module_path)
    return skipped


@pytest.fixture(scope="session")
def needs_extra() -> None:
    """Skips where the export extra is missing."""
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)} not installed (pip install 'jepa-edge[export]')")


@pytest.fixture(scope="session")
def tiny_recipe(needs_extra: None) -> Recipe:
    """A recipe that goes through all stages and learns next to nothing."""
    from tests.export.interrupted import RECIPE

    return RECIPE


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainedModel]:
    """A finished run of the tiny recipe: its folder and the model."""
    from tests.export.interrupted import train_tiny

    folder = tmp_path_factory.mktemp("training") / "run"
    return folder, train_tiny(folder)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: tuple[Path, TrainedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a bundle, quantized for real; copy it before changing anything."""
    from jepa_export.bundling.two_rooms_bundle import write_two_rooms_bundle

    folder = tmp_path_factory.mktemp("packed") / "bundle"
    write_two_rooms_bundle(tiny_run[1], folder, model_id="tiny", version="0.0.1", command="a test")
    return folder


@pytest.fixture
def copied(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is packed takes its graphs from ``tiny_bundle`` instead of making them anew."""
    from jepa_export.bundling import two_rooms_bundle

    def copy(_model: object, _frames: object, folder: Path, **_: object) -> None:
        for role in ("encoder", "predictor", "energy"):
            shutil.copytree(tiny_bundle / role, folder / role)

    monkeypatch.setattr(two_rooms_bundle, "_write_graphs", copy)
