"""Fixtures for the tests of updates: servers, repositories, models to offer, and robots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from tests.ota.downloads import LARGE, SMALL
from tests.ota.repositories import Repository
from tests.ota.robots import Site, variant
from tests.ota.servers import FaultServer
from tests.ota.trusted_robots import Robot


@pytest.fixture(scope="session")
def bundles(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Return four versions of one model; copy them before a change."""
    folder = tmp_path_factory.mktemp("variants")
    return [variant(toy_bundle, folder / str(number), f"{number}.0.0") for number in range(1, 5)]


@pytest.fixture
def site(tmp_path: Path, bundles: list[Bundle]) -> Site:
    """Return a robot with the active model 1.0.0 and an empty repository."""
    return Site(tmp_path / "robot", bundles[0])


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "small").write_bytes(SMALL)
    (folder / "large").write_bytes(LARGE)
    return folder


@pytest.fixture
def server(served: Path) -> Iterator[FaultServer]:
    with FaultServer(served) as server:
        yield server


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "file.part"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


@pytest.fixture
def robot(tmp_path: Path, repository: Repository) -> Robot:
    return Robot(tmp_path, repository)
