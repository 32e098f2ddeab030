"""``jepa-runtime run``: outputs and errors."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_runtime.commands import run as run_command
from jepa_runtime.commands.parsers import run as run_parser
from jepa_runtime.errors import DeviceLostError, JepaRuntimeError, RecordingError, SourceError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.sources.factory import open_source
from tests.errors import code
from tests.export.data.recordings import write_video as write_numbered
from tests.runtime.bags import image, twist, write_bag
from tests.runtime.fakes import FakeModel
from tests.runtime.recording.test_mcap_writer import by_mcap_ros2
from tests.runtime.sources.test_sources import write_images, write_video

Run = Callable[..., int]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    """Replace ``WorldModel.open`` by one that returns a fake and stores the arguments."""
    fake = FakeModel()

    def open_fake(bundle: str, **options: Any) -> FakeModel:
        fake.opened_with = {"bundle": bundle, **options}
        return fake

    monkeypatch.setattr(WorldModel, "open", staticmethod(open_fake))
    return fake


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    run_parser.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["run", "models/fake", *arguments])
    code: int = args.run(args)
    return code


def measure(path: Path, *arguments: str) -> dict[str, Any]:
    assert run(*arguments, "--json", str(path)) == 0
    measured: dict[str, Any] = json.loads(path.read_text())
    return measured


def test_run_on_simulated_robot_lasts_for_the_duration(model: FakeModel, tmp_path: Path) -> None:
    result = measure(tmp_path / "run.json", "--source", "two_rooms", "--rate", "50", "--duration", "0.5")
    assert result["frames_published"] == 25
    assert result["frames_processed"] + result["frames_dropped"] == 25
    assert result["rate_hz"] == pytest.approx(50.0, rel=0.3)
    assert result["total_ms"]["n"] == result["frames_processed"]
    assert result["total_ms"]["p50"] is not None and result["total_ms"]["p99"] is None
    assert result["encode_ms"]["n"] == result["predict_ms"]["n"] == result["energy_ms"]["n"]
    assert result["surprise"]["n"] > 10
    assert result["deadline_ms"] == 20.0
    assert result["resets"] == {"first": 1, "gap": 0, "clock_backwards": 0, "frame": 0, "model": 0}
    assert result["model"] == {
        "id": "fake",
        "version": "1.2.3",
        "sha256": "0" * 64,
        "engine": "fake",
        "device": "CPU",
        "precision": "fp32",
    }
    assert result["cpu"]["cores"] >= 1
    assert {"python", "numpy"} <= set(result["versions"])
    assert result["error"] is None
    assert model.closed


@pytest.mark.parametrize(("rate", "expected"), [("12.5", True), ("10", False)])
def test_run_without_futures_reports_the_reason(
    model: FakeModel, capsys: pytest.CaptureFixture[str], rate: str, expected: bool
) -> None:
    model.manifest.history_size = 2
    assert run("--source", "two_rooms", "--rate", rate, "--duration", "0.6") == 0
    assert ("no futures: no frame was one step (0.2 s) after another" in capsys.readouterr().out) is expected


@pytest.mark.parametrize(("history_size", "missing"), [(1, "no surprise"), (2, "no futures")])
def test_run_on_bag_without_action_explains_how_to_name_it(
    model: FakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], history_size: int, missing: str
) -> None:
    model.manifest.history_size = history_size
    frames = [image(step * 10**8) for step in range(5)]
    bag = write_bag(tmp_path / "bag.mcap", [twist(0, 0.5), *frames])
    assert run("--source", str(bag)) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert f"{missing}: the executed actions are unknown; for a bag, name the commands" in output
    assert "?action=TOPIC:linear.x,linear.y" in output
    assert run("--source", f"{bag}?action=/cmd_vel:linear.x,linear.y") == 0
    assert "the executed actions are unknown" not in " ".join(capsys.readouterr().out.split())


def test_run_passes_options_to_the_model(model: FakeModel, tmp_path: Path) -> None:
    options = ["--engine", "onnxruntime:CPU", "--precision", "int8", "--threads", "2", "--num-samples", "9"]
    run(
        "--source",
        "two_rooms",
        "--duration",
        "0.1",
        *options,
        "--cache-dir",
        str(tmp_path),
        "--allow-untrained",
    )
    opened = model.opened_with
    assert (opened["bundle"], opened["engine"], opened["precision"]) == (
        Path("models/fake"),
        "onnxruntime:CPU",
        "int8",
    )
    assert (opened["num_samples"], opened["allow_untrained"]) == (9, True)
    assert (opened["options"].threads, opened["options"].cache_dir) == (2, tmp_path)


def test_run_plays_a_video_to_its_end(model: FakeModel, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.avi", 30)
    result = measure(tmp_path / "run.json", "--source", str(clip), "--rate", "100")
    assert result["frames_published"] == 30
    assert "energy_ms" not in result and "surprise_ms" not in result


def test_run_with_goal_image_measures_energies(model: FakeModel, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", **{f"f{index}_png": index for index in range(10)})
    goal = tmp_path / "goal.png"
    cv2.imwrite(str(goal), np.full((6, 8, 3), 9, np.uint8))
    result = measure(tmp_path / "run.json", "--source", str(folder), "--rate", "100", "--goal", str(goal))
    assert result["energy_ms"]["n"] == result["frames_processed"]


def test_run_refuses_to_overwrite_the_goal_image(model: FakeModel, tmp_path: Path) -> None:
    goal = tmp_path / "goal.png"
    cv2.imwrite(str(goal), np.full((6, 8, 3), 9, np.uint8))
    stored = goal.read_bytes()
    with pytest.raises(JepaRuntimeError, check=code("recording.output_is_input")):
        run("--source", "two_rooms", "--duration", "0.1", "--goal", str(goal), "--html", str(goal))
    assert goal.read_bytes() == stored


def test_run_with_slow_model_drops_frames_and_misses_deadlines(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(model, "_encode_s", 0.06)
    result = measure(tmp_path / "run.json", "--source", "two_rooms", "--rate", "50", "--duration", "1")
    assert result["frames_published"] == 50
    assert 15 <= result["frames_dropped"] <= 45
    assert result["frames_late"] == result["frames_processed"]
    assert result["deadline_misses"] == result["longest_miss_run"] == result["frames_published"]
    assert result["total_ms"]["max"] < 500


def test_run_json_on_standard_output_moves_the_table_to_standard_error(
    model: FakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--source", "two_rooms", "--duration", "0.2", "--json", "-") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["frames_published"] == 6
    assert "total (frame submitted to result)" in captured.err


def test_run_recording_contains_frames_and_results_and_is_a_source(model: FakeModel, tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    first = measure(tmp_path / "a.json", "--source", "two_rooms", "--duration", "0.5", "--mcap", str(path))
    assert set(by_mcap_ros2(path)) == {
        "/camera/image_raw",
        "/cmd_vel",
        "/goal_image",
        "/world_model/futures",
        "/world_model/latent",
        "/world_model/model_info",
        "/world_model/surprise",
    }
    source = open_source(str(path))
    assert len(list(source.frames())) == first["frames_published"]
    second = measure(tmp_path / "b.json", "--source", str(path))
    assert second["frames_published"] == first["frames_published"]
    assert second["target_rate_hz"] == pytest.approx(30.0, rel=0.01)


def test_run_writes_a_report(model: FakeModel, tmp_path: Path) -> None:
    run("--source", "two_rooms", "--duration", "0.2", "--html", str(tmp_path / "latency.html"))
    assert "Latency of fake 1.2.3" in (tmp_path / "latency.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_stopped_by_signal_keeps_its_results(
    model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before, encode, frames = signal.getsignal(number), model.encode, count(1)

    def signaled(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        if next(frames) == 10:
            os.kill(os.getpid(), number)
        return encode(frame)

    monkeypatch.setattr(model, "encode", signaled)
    result = measure(tmp_path / "run.json", "--source", "two_rooms", "--mcap", str(tmp_path / "run.mcap"))
    assert 5 <= result["frames_published"] <= 30
    assert "/world_model/latent" in by_mcap_ros2(tmp_path / "run.mcap")
    assert signal.getsignal(number) is before


def test_run_on_truncated_source_fails_but_keeps_its_results(model: FakeModel, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.avi", 60)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(SourceError, check=code("source.truncated")):
        run("--source", str(clip), "--rate", "200", "--json", str(tmp_path / "run.json"))
    result = json.loads((tmp_path / "run.json").read_text())
    assert result["frames_processed"] + result["frames_dropped"] == result["frames_published"] > 10
    assert "truncated or damaged" in result["error"]


def test_run_on_a_video_lasts_as_recorded(model: FakeModel, tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "clip.mkv", range(4), stamps_ms=[0, 100, 1400, 1500])
    began_s = time.monotonic()
    assert measure(tmp_path / "run.json", "--source", str(path))["frames_published"] == 4
    assert time.monotonic() - began_s >= 1.5
    began_s = time.monotonic()
    measure(tmp_path / "run.json", "--source", str(path), "--rate", "50")
    assert time.monotonic() - began_s < 1.5


def test_run_in_which_every_frame_fails_is_an_error(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = model.encode

    def fail_later(frame: np.ndarray) -> np.ndarray:
        if frame.shape[0] == 128:
            raise RuntimeError("no memory on the device")
        return encode(frame)

    monkeypatch.setattr(model, "encode", fail_later)
    with pytest.raises(JepaRuntimeError, check=code("source.no_frame_processed")) as caught:
        run("--source", "two_rooms", "--duration", "0.1")
    assert "no memory on the device" in str(caught.value)


def test_run_with_lost_device_fails(model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = model.encode

    def lose_later(frame: np.ndarray) -> np.ndarray:
        if frame.shape[0] == 128:
            raise DeviceLostError("the GPU failed")
        return encode(frame)

    monkeypatch.setattr(model, "encode", lose_later)
    with pytest.raises(DeviceLostError):
        run("--source", "two_rooms", "--duration", "60")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_run_on_full_disk_fails(model: FakeModel, tmp_path: Path) -> None:
    (tmp_path / "run.mcap.partial").symlink_to("/dev/full")
    with pytest.raises(RecordingError, check=code("recording.io")):
        run("--source", "two_rooms", "--duration", "0.2", "--mcap", str(tmp_path / "run.mcap"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_run_on_full_disk_keeps_its_measurements(model: FakeModel, tmp_path: Path) -> None:
    (tmp_path / "run.mcap.partial").symlink_to("/dev/full")
    options = ["--mcap", str(tmp_path / "run.mcap"), "--json", str(tmp_path / "run.json")]
    with pytest.raises(RecordingError, check=code("recording.io")):
        run("--source", "two_rooms?seed=1", "--rate", "200", "--duration", "3", *options)
    assert "No space left" in json.loads((tmp_path / "run.json").read_text())["error"]


@pytest.mark.parametrize("fields", ["", ":linear.y,linear.x", ":linear.x,angular.z", ":linear.x"])
def test_run_with_commands_that_do_not_match_the_model_fails(
    model: FakeModel, tmp_path: Path, fields: str
) -> None:
    bag = write_bag(tmp_path / "bag.mcap", [twist(0, 0.5), image(0), image(10**8)])
    expected = (
        r"its actions are linear.*; the model's actions are linear.x \[m/s\], linear.y \[m/s\]: select these"
    )
    with pytest.raises(SourceError, match=expected, check=code("source.action_mismatch")):
        run("--source", f"{bag}?action=/cmd_vel{fields}", "--mcap", str(tmp_path / "run.mcap"))
    assert list(tmp_path.iterdir()) == [bag], "an empty recording would block the next attempt"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--source", "missing.mp4"], "missing.mp4: no such file or folder"),
        (["--source", "two_rooms", "--goal", "missing.png"], "missing.png: no such image"),
        (["--source", "two_rooms", "--mcap", "/dev/null/run.mcap"], "/dev/null/run.mcap: cannot be written"),
        (
            ["--source", "two_rooms", "--json", "/dev/null/x"],
            "/dev/null/x: cannot be written",
        ),
        (
            ["--source", "two_rooms", "--html", "/dev/null/x"],
            "/dev/null/x: cannot be written",
        ),
    ],
)
def test_run_error_is_one_line(model: FakeModel, arguments: list[str], complaint: str) -> None:
    with pytest.raises(JepaRuntimeError) as caught:
        run(*arguments)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "target"), [("--json", "/dev"), ("--html", "/dev"), ("--black-box", "/dev/null")]
)
def test_run_with_unwritable_output_fails_before_opening_the_model(
    model: FakeModel, option: str, target: str
) -> None:
    expected = "recording.io" if option == "--black-box" else "output.not_writable"
    with pytest.raises(JepaRuntimeError, check=code(expected)) as caught:
        run("--source", "two_rooms", "--duration", "0.1", option, target)
    assert str(caught.value).startswith(f"{target}: ")
    assert not hasattr(model, "opened_with")


def test_run_that_fails_early_leaves_output_files_unchanged(tmp_path: Path) -> None:
    for name in ("old.json", "new.json"):
        (tmp_path / "old.json").write_text("{}")
        with pytest.raises(SourceError):
            run("--source", "missing.mp4", "--json", str(tmp_path / name))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.json", "{}")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_one_failed_output_does_not_prevent_the_others(
    model: FakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--json", "/dev/full", "--html", str(tmp_path / "latency.html")]
    with pytest.raises(JepaRuntimeError, check=code("output.not_writable")):
        run("--source", "two_rooms", "--duration", "0.2", *options)
    assert (tmp_path / "latency.html").stat().st_size > 1000
    assert "total (frame submitted to result)" in capsys.readouterr().out


def test_run_is_written_although_the_terminal_is_closed(
    model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_command, "final_table", Mock(side_effect=BrokenPipeError))
    with pytest.raises(BrokenPipeError):
        run("--source", "two_rooms", "--duration", "0.2", "--json", str(tmp_path / "run.json"))
    assert json.loads((tmp_path / "run.json").read_text())["frames_published"]


@pytest.mark.parametrize("option", ["--rate", "--duration", "--deadline-ms"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast"])
def test_run_with_number_out_of_range_is_a_usage_error(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--source", "two_rooms", f"{option}={value}")
    assert caught.value.code == 2
    assert option in capsys.readouterr().err
