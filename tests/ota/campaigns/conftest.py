"""Return a scene: a robot whose update meets a fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ota.campaigns import power, tracing
from tests.ota.campaigns.scene import Stage


@pytest.fixture(scope="session")
def stage(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("stage"), toy_bundle)


@pytest.fixture(scope="session")
def can_trace() -> None:
    if reason := tracing.missing():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def can_cut() -> None:
    if reason := power.missing():
        pytest.skip(reason)
