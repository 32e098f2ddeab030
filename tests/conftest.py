"""What all tests may use."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a toy bundle (see tests/bundles.py); copy it before changing anything."""
    make_bundle = pytest.importorskip("tests.bundles", reason="onnx is not installed (extra dev)").make_bundle
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    make_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def two_rooms_bundle() -> Path:
    """The folder of the bundle that ships with this repository."""
    folder = ROOT / "models" / "two_rooms"
    if not (folder / "manifest.json").is_file():
        pytest.skip("models/two_rooms has no bundle yet")
    return folder
