"""The measured states of a robot in a bag, and their use by models that read them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.cli import main
from jepa_runtime.errors import SourceError
from jepa_runtime.recording import messages
from jepa_runtime.ros_messages import build, euler_pose
from jepa_runtime.sources import open_source
from jepa_runtime.sources.base import check_states
from jepa_runtime.util.state_parts import StateParts
from tests.errors import code
from tests.runtime import fakes
from tests.runtime.bags import Entry, arm_pose, image, joints, write_bag

MS = 1_000_000
S = 1_000 * MS
STEP_MS = 200
ARM = "state=/pose;/joint_states:position.finger"
bundles = pytest.importorskip("tests.bundles", reason="onnx is not installed (extra dev)")


def recording(*, delay_ms: int = 0, count: int = 12) -> list[Entry]:
    """An arm that moves along x; its pose is measured ``delay_ms`` after each image."""
    entries = []
    for index in range(count):
        stamp_ns = S + index * 50 * MS
        entries += [
            image(stamp_ns + 2, 10 * index, size=(bundles.SIZE, bundles.SIZE)),
            joints(stamp_ns, elbow=1.0, finger=0.25),
            arm_pose(stamp_ns + 1 + delay_ms * MS, 0.01 * index, yaw=0.5),
        ]
    return entries


def write(tmp_path: Path, entries: list[Entry]) -> Path:
    return write_bag(tmp_path / "arm.mcap", entries)


def test_bag_yields_the_state_nearest_to_each_image(tmp_path: Path) -> None:
    with_states = open_source(f"{write(tmp_path, recording())}?{ARM}")
    assert with_states.state is None, "before the first image"
    found = [with_states.state for _ in with_states.frames()]
    assert with_states.states is not None
    assert with_states.states.names == ("x", "y", "z", "roll", "pitch", "yaw", "position.finger")
    for index, state in enumerate(found):
        assert state is not None and state.stamp_ns == S + index * 50 * MS + 1
        expected = [0.01 * index, 0.0, 0.2, 0.0, 0.0, 0.5, 0.25]
        np.testing.assert_allclose(state.values, expected, atol=1e-6)
        assert state.values.dtype == np.float32


def test_source_without_the_option_has_no_states(tmp_path: Path) -> None:
    source = open_source(str(write(tmp_path, recording())))
    assert [source.state for _ in source.frames()] == [None] * 12


@pytest.mark.parametrize(
    ("entries", "option", "expected"),
    [
        ([], "state=/nowhere", "source.topic_not_found"),
        ([], "state=/image", "source.state_invalid"),
        ([], "state=/pose:x;/pose:y", "source.option_invalid"),
        ([arm_pose(2 * S, math.nan)], "state=/pose", "source.state_invalid"),
        ([joints(2 * S, finger=math.inf)], ARM, "source.state_invalid"),
        ([joints(2 * S, elbow=1.0)], ARM, "source.state_invalid"),
        ([arm_pose(S // 2, 0.0, log_ns=2 * S)], "state=/pose", "source.state_invalid"),
    ],
)
def test_invalid_states_are_rejected_when_the_bag_is_opened(
    tmp_path: Path, entries: list[Entry], option: str, expected: str
) -> None:
    path = write(tmp_path, [*recording(), *entries])
    with pytest.raises(SourceError, check=code(expected)):
        open_source(f"{path}?{option}")


def test_zero_orientation_is_not_a_state(tmp_path: Path) -> None:
    log_ns, topic, kind, fields = arm_pose(2 * S, 0.0)
    fields["pose"]["orientation"]["w"] = 0.0
    path = write(tmp_path, [*recording(), (log_ns, topic, kind, fields)])
    with pytest.raises(SourceError, match="unit quaternion", check=code("source.state_invalid")):
        open_source(f"{path}?{ARM}")


def test_topics_without_common_times_are_rejected(tmp_path: Path) -> None:
    entries = [image(S), joints(S, finger=0.0), arm_pose(3 * S, 0.0)]
    with pytest.raises(SourceError, match="one clock", check=code("source.state_invalid")):
        open_source(f"{write(tmp_path, entries)}?{ARM}")


def test_angles_of_a_pose_are_those_of_fixed_axes() -> None:
    half = math.sqrt(0.5)
    turn = {"x": half, "y": 0.0, "z": 0.0, "w": half}
    pose = build("geometry_msgs/msg/Pose", {"position": {"x": 1.0, "y": 2.0, "z": 3.0}, "orientation": turn})
    found = euler_pose(pose)
    assert (found.x, found.y, found.z) == (1.0, 2.0, 3.0)
    assert (found.roll, found.pitch, found.yaw) == pytest.approx((math.pi / 2, 0.0, 0.0))


def test_parts_are_joined_only_within_their_maximum_age() -> None:
    parts = StateParts(2, max_age_s=0.1)
    assert parts.add(0, S, [1.0]) is None and parts.missing == 1
    assert parts.add(1, S, [2.0]) is None
    joined = parts.add(0, S + 100 * MS, [3.0])
    assert joined is not None and joined.values.tolist() == [3.0, 2.0] and parts.missing is None
    assert parts.add(0, S + 101 * MS, [4.0]) is None and parts.missing == 1
    with pytest.raises(ValueError, match="finite"):
        parts.add(1, S, [math.nan])
    assert parts.add(0, S + 100 * MS, [5.0]) is not None, "a message that is not finite replaces none"


# ------------------------------------------------------------------ jepa-runtime run


def test_run_predicts_with_the_recorded_states(arm_bundle: Path, tmp_path: Path) -> None:
    path, report, recorded = write(tmp_path, recording()), tmp_path / "run.json", tmp_path / "run.mcap"
    options = ["--allow-untrained", "--json", str(report), "--mcap", str(recorded)]
    assert main(["run", str(arm_bundle), "--source", f"{path}?{ARM}", *options]) == 0
    measured = json.loads(report.read_text(encoding="utf-8"))
    assert measured["predict_ms"]["n"] == 12
    # The recording has the states that the futures started from.
    source = open_source(f"{recorded}?state=/robot_state")
    assert source.states is not None and len(source.states.stamps_ns) == 12
    futures = [message for _, _, message in _messages(recorded, "/world_model/futures")]
    with WorldModel.open(arm_bundle, allow_untrained=True) as model:
        for frame, message in zip(source.frames(), futures, strict=True):
            state = source.state
            assert state is not None
            check_states(source, model.manifest)
            predicted = model.predict(
                messages.array_of(message.actions),
                latents=model.encode(frame.image),
                history_states=state.values[None],
            )
            difference = messages.array_of(message.latents).astype(np.float32) - predicted.latents
            assert np.abs(difference).max() < 1e-5


def test_replay_of_a_recorded_run_gives_the_same_futures(arm_bundle: Path, tmp_path: Path) -> None:
    path, recorded = write(tmp_path, recording()), tmp_path / "run.mcap"
    run = ["run", str(arm_bundle), "--source", f"{path}?{ARM}", "--allow-untrained", "--rate", "5"]
    assert main([*run, "--mcap", str(recorded)]) == 0
    replayed = tmp_path / "replayed.mcap"
    replay = ["replay", str(recorded), str(arm_bundle), "--allow-untrained", "--output", str(replayed)]
    assert main([*replay, "--action", "none"]) == 0
    first, second = (
        [messages.array_of(message.latents) for _, _, message in _messages(bag, "/world_model/futures")]
        for bag in (recorded, replayed)
    )
    assert len(first) == len(second) == 12
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_replay_without_states_is_rejected(
    arm_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, recording())
    arguments = ["replay", str(path), str(arm_bundle), "--allow-untrained"]
    output = ["--output", str(tmp_path / "out.mcap"), "--action", "none"]
    assert main([*arguments, *output]) == 1
    assert "[replay.no_states]" in capsys.readouterr().err
    assert main([*arguments, *output, "--state", "pose"]) == 1
    assert "[replay.state_mismatch]" in capsys.readouterr().err


def test_run_without_states_is_rejected(
    arm_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, recording())
    assert main(["run", str(arm_bundle), "--source", str(path), "--allow-untrained"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "[source.state_missing]" in said
    assert "x, y, z, roll, pitch, yaw, gripper" in said and "?state=" in said


@pytest.mark.parametrize("option", ["state=/pose", "state=/joint_states:position.finger;/pose"])
def test_run_with_states_of_another_robot_is_rejected(
    arm_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    source = f"{write(tmp_path, recording())}?{option}"
    assert main(["run", str(arm_bundle), "--source", source, "--allow-untrained"]) == 1
    assert "[source.state_mismatch]" in capsys.readouterr().err


def test_run_explains_that_no_state_is_near_an_image(
    arm_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [*recording(count=4), image(9 * S, size=(bundles.SIZE, bundles.SIZE))]
    entries = [entry for entry in entries if entry[2] != "sensor_msgs/msg/Image" or entry[0] == 9 * S]
    arguments = ["--source", f"{write(tmp_path, entries)}?{ARM}", "--allow-untrained"]
    assert main(["run", str(arm_bundle), *arguments]) == 0
    output = " ".join("".join(capsys.readouterr()).split())
    assert "no image had a state of the robot within an eighth of the model's step (0.025 s)" in output


def test_model_that_reads_no_state_needs_none(tmp_path: Path) -> None:
    check_states(open_source(str(write(tmp_path, recording()))), fakes.manifest())


def _messages(path: Path, topic: str) -> list[tuple[str, int, object]]:
    from jepa_runtime.sources.bag_file import BagFile

    with BagFile(path) as bag:
        return list(bag.read({topic}))
