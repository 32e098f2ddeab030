"""The Rerun log, read back from its file."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from jepa_runtime.cli import main
from jepa_runtime.errors import RecordingError
from jepa_runtime.serving.pipeline import Pipeline
from jepa_runtime.sources.base import Frame
from jepa_runtime.visualization import rerun_viewer
from jepa_runtime.visualization.rerun_viewer import RerunViewer
from tests.bundles import HORIZON as TOY_HORIZON
from tests.errors import code
from tests.runtime.fakes import HORIZON
from tests.runtime.visualization import runs


def logged(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each entity of a recording: its components, and its ``time`` in ns."""
    reading = pytest.importorskip("rerun.chunk", reason="rerun is not installed (extra rerun)")
    result: dict[str, list[dict[str, Any]]] = {}
    for chunk in reading.RrdReader(path).stream():
        batch = chunk.to_record_batch()
        columns = {name: batch.column(name).to_pylist() for name in batch.schema.names if ":" in name}
        if "time" in batch.schema.names:
            columns["time"] = [entry.value for entry in batch.column("time")]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        result.setdefault(str(chunk.entity_path), []).extend(rows)
    return result


def scalars(rows: list[dict[str, Any]]) -> list[list[float]]:
    return [row["Scalars:scalars"] for row in sorted(rows, key=lambda row: row["time"])]


def test_view_without_rerun_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(RecordingError, check=code("recording.rerun_missing")):
        RerunViewer(tmp_path / "run.rrd")


def test_view_with_viewer_that_does_not_start_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rerun = pytest.importorskip("rerun", reason="rerun is not installed (extra rerun)")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(rerun_viewer, "_PORT", taken.getsockname()[1])
        monkeypatch.setattr(rerun, "spawn", lambda **_: None)
        assert main(["view", str(runs.write_run(tmp_path / "run.mcap", error=0.1))]) == 1
    assert "did not start" in (errors := capsys.readouterr().err) and "--output" in errors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "required: BAG|BUNDLE"),
        (["run.mcap", "bundle", "--source", "two_rooms"], "either a bag or --source is shown, not both"),
    ],
)
def test_view_with_no_or_two_inputs_is_a_usage_error(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["view", *arguments])
    assert expected in capsys.readouterr().err


def test_view_does_not_overwrite_its_source(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = runs.write_run(tmp_path / "run.mcap")
    mine = Path(shutil.copy(bag, tmp_path / "mine.mcap"))
    for shown in ([str(mine)], [str(toy_bundle), "--source", f"{mine}?topic=/camera/image_raw"]):
        assert main(["view", *shown, "--output", str(mine)]) == 1
        assert "which is read: write into another file" in capsys.readouterr().err
        assert mine.read_bytes() == bag.read_bytes()


def test_view_logs_a_bag_at_the_times_of_its_images(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun is not installed (extra rerun)")
    bag, target = runs.write_run(tmp_path / "run.mcap", error=0.1), tmp_path / "new" / "run.rrd"
    assert main(["view", str(bag), "--output", str(target), "--rate", "5"]) == 0
    result = logged(target)
    assert len(result["/camera"]) == runs.FRAMES
    assert len(result["/map/futures"]) == runs.FRAMES // 2
    assert {
        "/goal",
        "/latent",
        "/futures",
        "/map/known",
        "/map/observed",
        "/map/best",
        "/energies",
    } <= result.keys()
    assert scalars(result["/bounds"])[0] == [runs.BOUND] * HORIZON
    surprise = scalars(result["/surprise/value"])
    assert len(surprise) == runs.FRAMES and surprise[40] == [pytest.approx(0.9)]
    assert scalars(result["/latency/image_to_futures_in_the_planner"])[3] == [8.0]
    assert min(row["time"] for row in result["/camera"]) == runs.START_NS


def test_view_logs_a_source_live(toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rerun", reason="rerun is not installed (extra rerun)")
    submit = Pipeline.submit

    def without_drops(pipeline: Pipeline, frame: Frame) -> None:
        submit(pipeline, frame)
        assert pipeline.wait_idle(30)

    monkeypatch.setattr(Pipeline, "submit", without_drops)
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(40):
        picture = np.random.default_rng(index).integers(0, 256, (48, 64, 3), np.uint8)
        cv2.imwrite(str(frames / f"{index:03}.png"), picture)
    target = tmp_path / "live.rrd"
    command = ["view", str(toy_bundle), "--source", str(frames), "--rate", "100"]
    assert main([*command, "--allow-untrained", "--output", str(target)]) == 0
    result = logged(target)
    assert len(result["/latency/total"]) == len(result["/camera"]) == 40
    # A map takes some frames to be drawn from.
    assert 20 < len(result["/map/futures"]) < 40
    assert len(scalars(result["/bounds"])[0]) == TOY_HORIZON


def test_view_of_an_unreadable_bag_keeps_an_older_file(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun is not installed (extra rerun)")
    target = tmp_path / "run.rrd"
    target.write_bytes(b"older")
    assert main(["view", str(tmp_path / "none.mcap"), "--output", str(target)]) == 1
    assert main(["view", str(tmp_path), "--source", "two_rooms", "--output", str(target)]) == 1
    assert target.read_bytes() == b"older"
