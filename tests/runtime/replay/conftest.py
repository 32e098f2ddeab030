"""Fixtures with recordings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from jepa_runtime.cli import main
from jepa_runtime.serving.pipeline import Pipeline
from jepa_runtime.sources.base import Frame


@dataclass(frozen=True)
class Recorded:
    """A recording by `jepa-runtime record`, and its bundle."""

    bag: Path
    bundle: Path


def record(bag: Path, *options: str) -> None:
    """Record at 10 Hz; the next frame waits for a late one."""

    def submit_and_wait(pipeline: Pipeline, frame: Frame) -> None:
        submit(pipeline, frame)
        assert pipeline.wait_idle(60.0)

    submit = Pipeline.submit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "submit", submit_and_wait)
        assert main(["record", "--output", str(bag), "--rate", "10", *options]) == 0


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy bundle with a history of one step: its predictions depend on the executed actions."""
    bundles = pytest.importorskip("tests.bundles", reason="onnx is not installed (extra dev)")
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    bundles.make_bundle(folder, history_size=2)
    return folder


@pytest.fixture(scope="session")
def recorded(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """20 frames of a simulated robot, none dropped."""
    bag = tmp_path_factory.mktemp("recorded") / "drive.mcap"
    record(bag, str(bundle), "--source", "two_rooms?seed=3", "--duration", "2")
    return Recorded(bag, bundle)
