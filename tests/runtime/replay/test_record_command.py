"""``jepa-runtime record``: the contents of a recording."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime.cli import main
from jepa_runtime.recording.messages import from_time
from jepa_runtime.sources.factory import open_source
from tests.runtime.bags import image, write_bag
from tests.runtime.replay.bag_messages import messages_of
from tests.runtime.replay.conftest import Recorded


def test_record_writes_frames_commands_goals_and_outputs(recorded: Recorded) -> None:
    result = messages_of(recorded.bag)
    assert {topic: len(messages) for topic, messages in result.items()} == {
        "/camera/image_raw": 20,
        "/cmd_vel": 20,
        "/goal_image": 1,
        "/world_model/model_info": 1,
        "/world_model/latent": 20,
        "/world_model/futures": 18,
        "/world_model/surprise": 16,
    }
    assert result["/world_model/futures"][0].has_goal
    goal, image = result["/goal_image"][0].header, result["/camera/image_raw"][0].header
    assert from_time(goal.stamp) == from_time(image.stamp)


def test_record_preserves_every_pixel(recorded: Recorded) -> None:
    source = open_source("two_rooms?seed=3", rate_hz=10)
    seen = [(frame.image, source.command, source.goal) for frame in itertools.islice(source.frames(), 20)]
    stored = open_source(f"{recorded.bag}?action=/cmd_vel:linear.x,linear.y")
    for (pixels, command, _), frame in zip(seen, stored.frames(), strict=True):
        np.testing.assert_array_equal(frame.image, pixels)
        np.testing.assert_array_equal(stored.command, command)
    (goal,) = open_source(f"{recorded.bag}?topic=/goal_image").frames()
    np.testing.assert_array_equal(goal.image, seen[0][2])


def test_record_jpeg_needs_less_space(bundle: Path, recorded: Recorded, tmp_path: Path) -> None:
    bag = tmp_path / "small.mcap"
    source = ["--source", "two_rooms?seed=3", "--rate", "50", "--duration", "0.2"]
    assert main(["record", str(bundle), "--output", str(bag), "--jpeg", *source]) == 0
    (jpeg, *_), (raw, *_) = (
        messages_of(bag)["/camera/image_raw/compressed"],
        messages_of(recorded.bag)["/camera/image_raw"],
    )
    assert len(jpeg.data) < len(raw.data) / 5


def test_recording_is_an_mcap_file(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["record", str(bundle), "--source", "two_rooms", "--output", "drive.bag"])
    assert caught.value.code == 2
    assert "must end in .mcap, got drive.bag" in capsys.readouterr().err


def test_record_does_not_overwrite_its_source(
    bundle: Path, recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = tmp_path / "drive.mcap"
    shutil.copy(recorded.bag, bag)
    source = f"{bag}?action=/cmd_vel:linear.x,linear.y"
    for command, option in (("record", "--output"), ("run", "--json"), ("run", "--html")):
        assert main([command, str(bundle), "--source", source, option, str(bag)]) == 1
        assert "which is read: write into another file" in capsys.readouterr().err
        assert bag.read_bytes() == recorded.bag.read_bytes()


def test_record_does_not_replace_an_existing_recording(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = tmp_path / "drive.mcap"
    older.write_bytes(b"an older recording")
    for command, option in (("record", "--output"), ("run", "--mcap"), ("run", "--json")):
        arguments = [str(bundle), "--source", "two_rooms", "--duration", "0.1"]
        assert main([command, *arguments, option, str(older)]) == 1
        output = capsys.readouterr().err
        assert (
            "drive.mcap already exists, and recordings are never replaced: name another file, or remove"
            in output
        )
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"an older recording"]


def test_record_with_stamps_going_back_warns_that_a_replay_has_another_order(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    messages = {}
    for name, stamps in (("steady", (1.0, 1.1, 1.1, 1.3)), ("set back", (1.0, 1.1, 0.9, 1.0))):
        entries = [(index * 10**8, *image(round(stamp * 1e9))[1:]) for index, stamp in enumerate(stamps)]
        source = str(write_bag(tmp_path / f"{name}.mcap", entries))
        out = str(tmp_path / f"{name} again.mcap")
        assert main(["record", str(bundle), "--source", source, "--output", out]) == 0
        messages[name] = "stamps decreased 1 times" in capsys.readouterr().out
    assert messages == {"steady": False, "set back": True}
