"""Recordings for tests of what is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from jepa_runtime.cli import main


@dataclass(frozen=True)
class Recorded:
    """A recording made by `jepa-runtime record`, and the bundle of which it has the outputs."""

    bag: Path
    bundle: Path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy bundle that looks back one step: what it predicts depends on what was executed."""
    bundles = pytest.importorskip("tests.bundles", reason="onnx is not installed (extra dev)")
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    bundles.make_bundle(folder, history_size=2)
    return folder


@pytest.fixture(scope="session")
def recorded(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """20 frames of a simulated robot, slow enough that none is dropped."""
    bag = tmp_path_factory.mktemp("recorded") / "drive.mcap"
    source = ["--source", "two_rooms?seed=3", "--rate", "10", "--duration", "2"]
    assert main(["record", "--bundle", str(bundle), "--out", str(bag), *source]) == 0
    return Recorded(bag, bundle)
