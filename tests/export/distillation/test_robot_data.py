"""jepa-export distill on robot recordings: a ROS 2 bag, and a LeRobot data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa_export.cli import main
from jepa_export.data import open_data as open_module
from jepa_export.data.clip_windows import Windows
from jepa_export.distillation import distill
from jepa_export.errors import JepaExportError
from jepa_runtime import Bundle
from jepa_runtime.cli import main as runtime
from tests.export.data.recordings import write_lerobot
from tests.export.distillation.tiny import PACE, SHAPE, TEACHER, families
from tests.runtime.bags import image, twist, write_bag

MS = 1_000_000
S = 1_000 * MS


def bag(folder: Path) -> str:
    """Write images at 10 Hz, and a command 20 ms before each."""
    paths = []
    for drive in range(3):
        entries = [image(S + index * 100 * MS, 20 * drive + index) for index in range(12)]
        entries += [
            twist(S + index * 100 * MS - 20 * MS, 0.1 * index, turn=0.2 * (index % 5)) for index in range(12)
        ]
        paths.append(write_bag(folder / f"drive_{drive}.mcap", entries))
    return f"{folder}?action=/cmd_vel:linear.x,angular.z"


def lerobot(folder: Path) -> str:
    return str(write_lerobot(folder / "set", [12, 14, 13], version="v3.0", names=["x", "y"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("record", "names"), [(bag, ["linear.x", "angular.z"]), (lerobot, ["x", "y"])], ids=["bag", "lerobot"]
)
def test_robot_recording_becomes_a_bundle_with_its_actions(
    record: Callable[[Path], str], names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", record(tmp_path), "--rate", "10"]
    out = tmp_path / "run"
    with families():
        arguments = ["distill", *TEACHER, "--student", "tiny", *data, *SHAPE, *PACE, "--allow-collapse"]
        assert main([*arguments, "--output", str(out)]) == 0
    manifest = Bundle.open(out / "bundle").manifest
    assert not manifest.trained and list(manifest.io.action.names) == names
    assert manifest.io.step_s == pytest.approx(0.1)
    assert runtime(["verify", str(out / "bundle")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(out / "bundle"), *data[:2], "--clips", "4"]) == 0
    note = f"measured on 4 clips of {data[1]} (1 of 3 recordings; the model was not trained on these)"
    output = capsys.readouterr().out
    assert note in output and "Drift of the futures from" in output


def test_recording_with_other_action_units_is_named_before_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one drive of five in mm/s, the planner could request 500 m/s."""
    for drive in range(5):
        entries = [image(S + index * 100 * MS, 20 * drive + index) for index in range(12)]
        unit = 1000 if drive == 3 else 1
        entries += [twist(S + index * 100 * MS - 20 * MS, 0.1 * (index % 7) * unit) for index in range(12)]
        write_bag(tmp_path / f"bags/drive_{drive}.mcap", entries)
    monkeypatch.setattr(
        open_module, "split", lambda recordings, proportion: (recordings[:-1], recordings[-1:])
    )
    data = ["--data", f"{tmp_path}/bags?action=/cmd_vel:linear.x", "--rate", "10"]
    # Rejected after the data was read.
    arguments = ["distill", *TEACHER, "--student", "tiny", *data, *SHAPE, *PACE, "--num-samples", "70000"]
    with families():
        assert main([*arguments, "--output", str(tmp_path / "run")]) == 1
    message = f"action linear.x reaches 520 in {tmp_path}/bags/drive_3.mcap, 0.52 in most recordings: "
    assert message in caplog.text


def test_encoder_learns_from_frames_without_known_actions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands end after 4 of 12 frames, as on a robot that drives intermittently."""
    for drive in range(3):
        entries = [image(S + index * 100 * MS, 20 * drive + index) for index in range(12)]
        entries += [twist(S + index * 100 * MS - 20 * MS, 0.1 * index) for index in range(4)]
        write_bag(tmp_path / f"bags/drive_{drive}.mcap", entries)
    clips: dict[str, int] = {}

    def count(
        _: object, stage: distill.DistillationStage, windows: Windows, *rest: Any, **named: Any
    ) -> None:
        clips[stage.name] = len(windows)
        if stage.name == "predictor":
            raise JepaExportError("enough")

    monkeypatch.setattr(distill, "train_stage", count)
    data = ["--data", f"{tmp_path}/bags?action=/cmd_vel:linear.x&max_age_s=0.15", "--rate", "10"]
    with families():
        arguments = ["distill", *TEACHER, "--student", "tiny", *data, *SHAPE, *PACE]
        assert main([*arguments, "--output", str(tmp_path / "run")]) == 1
    # From each of two drives: clips of 2 frames out of 12, and of 4 out of the 5 with known actions.
    assert clips == {"encoder": 2 * 11, "predictor": 2 * 2}
