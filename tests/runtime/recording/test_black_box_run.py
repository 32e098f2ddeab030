"""The black box of a run, and the replay of its bags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.cli import main
from jepa_runtime.recording import McapRecorder, messages
from jepa_runtime.ros_messages.definitions import build
from jepa_runtime.serving.frame_processor import FrameProcessor, ProcessingConfig
from jepa_runtime.sources.bag import BagSource
from jepa_sim.worlds import TwoRooms

JUMP = 65
# A horizon of the model: only then has the model predicted all of it before the jump.
WITHIN_NS = 1_600_000_000
ACTION = "/cmd_vel:linear.x,linear.y"
NAMES = ["linear.x", "linear.y"]


@pytest.fixture
def jump(tmp_path: Path) -> Path:
    """Return a bag of a standing robot that is in other rooms from frame :data:`JUMP` on."""
    world, path = TwoRooms(seed=5), tmp_path / "jump.mcap"
    with McapRecorder(path) as recorder:
        for index in range(100):
            if index == JUMP:
                world.reset()
            stamp_ns = 10**9 + round(index / 30 * 1e9)
            image = messages.image(world.render(), stamp_ns, "eye")
            fields: dict[str, Any] = {
                messages.IMAGE: image,
                messages.TWIST: messages.twist(NAMES, np.zeros(2, np.float32)),
            }
            for topic, kind in (("/eye", messages.IMAGE), ("/cmd_vel", messages.TWIST)):
                recorder.write_message(topic, build(kind, fields[kind]), stamp_ns)
    return path


def alarms(bundle: Path, bag: Path) -> list[tuple[str, int]]:
    """Return kind and stamp of the alarms that start during the playback of ``bag``."""
    terms = ProcessingConfig()
    source, result = BagSource(bag, action=ACTION), []
    with WorldModel.open(bundle, num_samples=1) as model:
        inference = FrameProcessor(model, terms)
        for frame in source.frames():
            assert source.command is not None
            inference.add_action(frame.stamp_ns, source.command)
            reported = inference.update_calibration(inference.with_surprise(inference.process(frame, 0)))
            alarms = () if reported is None else reported.alarms
            result += [(alarm.kind, frame.stamp_ns) for alarm in alarms if alarm.end_ns is None]
    source.close()
    return result


def bags_without_drops(bundle: Path, bag: Path, folder: Path) -> list[Path]:
    """Return the bags that the first run of ``bag`` without dropped frames records.

    The jump is amid 0.2 s of frames: a machine that stalls for that long drops all surprising ones.
    """
    for attempt in range(8):
        stored, measured = folder / f"kept {attempt}", folder / f"{attempt}.json"
        options = ["--source", f"{bag}?action={ACTION}", "--black-box", str(stored), "--json", str(measured)]
        assert main(["run", str(bundle), *options]) == 0
        if json.loads(measured.read_text())["frames_dropped"] == 0:
            return list(stored.iterdir())
    pytest.fail("this machine has not once run for 3.3 s without a drop")


def test_replay_of_a_black_box_bag_is_surprising_again(
    two_rooms_bundle: Path, jump: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bag,) = bags_without_drops(two_rooms_bundle, jump, tmp_path)
    assert "1 bags of surprises written" in capsys.readouterr().out
    ((kind, stamp_ns),) = alarms(two_rooms_bundle, bag)
    jumped_ns = 10**9 + round(JUMP / 30 * 1e9)
    assert kind == "surprise" and 0 <= stamp_ns - jumped_ns < WITHIN_NS


def test_black_box_with_disabled_alarms_is_reported(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--source", "two_rooms", "--duration", "0.2", "--allow-untrained"]
    assert main(["run", str(toy_bundle), "--black-box", str(tmp_path / "kept"), *options]) == 0
    output = capsys.readouterr().out
    assert "surprise alarms are disabled" in output and "0 bags" in output
