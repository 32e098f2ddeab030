"""What the tests of updates share: models to offer, and a robot that serves the first of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from tests.update.robots import Site, variant


@pytest.fixture(scope="session")
def bundles(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Four versions of one model; copy them before changing anything."""
    folder = tmp_path_factory.mktemp("variants")
    return [variant(toy_bundle, folder / str(number), f"{number}.0.0") for number in range(1, 5)]


@pytest.fixture
def site(tmp_path: Path, bundles: list[Bundle]) -> Site:
    """A robot that serves 1.0.0, and a repository that is still empty."""
    return Site(tmp_path / "robot", bundles[0])
