"""Recordings, read back with independent decoders."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.rosbag2 import Reader
from rosbags.typesys import get_types_from_msg

from jepa_runtime.calibration import Alarm, Calibration, CoverageRate, Event, Threshold
from jepa_runtime.errors import RecordingError
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.model.world_model import Futures
from jepa_runtime.recording import McapRecorder, messages
from jepa_runtime.recording.run_recording import RunRecording
from jepa_runtime.ros_messages.definitions import build, definition, type_hash, typestore
from jepa_runtime.serving.history import Reset
from jepa_runtime.serving.pipeline import STAGES, Candidates, Result
from jepa_runtime.sources.bag_file import BagFile
from tests.errors import code
from tests.runtime.fakes import DIM, HORIZON, NUM_SAMPLES, STEP_S, TOKENS, FakeModel, frame

STAMP_NS = 1_700_000_000_123_456_789
JPEG = messages.compressed_image(np.zeros((8, 8, 3), np.uint8), STAMP_NS, "camera")


def result(*, goal: bool = True, futures: bool = True) -> Result:
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((NUM_SAMPLES, HORIZON, TOKENS, DIM)).astype(np.float32)
    return Result(
        stamp_ns=STAMP_NS,
        frame_id="camera",
        sequence=5,
        latent=np.arange(TOKENS * DIM, dtype=np.float32).reshape(TOKENS, DIM),
        futures=Futures(
            latents=latents,
            actions=rng.standard_normal((NUM_SAMPLES, HORIZON, 2)).astype(np.float32),
            energies=latents.mean(axis=(2, 3)) if goal else None,
            error_bounds=np.array([0.1, 0.2, 0.3], np.float32),
        )
        if futures
        else None,
        candidates=Candidates(np.zeros((0, HORIZON, 2), np.float32), "planner", 7),
        reset=Reset.GAP,
        surprise=0.75,
        surprising=True,
        goal_stamp_ns=1_000_000_002 if goal else None,
        current_energy=0.5 if goal else None,
        goal_pose=RelativePose(1.5, -0.5, 0.25, 0.125, 0.0625) if goal else None,
        timings_ms={stage: float(index) for index, stage in enumerate(STAGES)},
        deadline_missed=True,
        calibration=Calibration(
            0.9,
            np.array([0.1, 0.2, 0.3]),
            (CoverageRate(9, 20),) * HORIZON,
            (CoverageRate(3, 4), CoverageRate(0, 0), CoverageRate(1, 1)),
        )
        if futures
        else None,
        alarms=(Alarm("surprise", Event(5, 6, 2, 9.5), None, Threshold(8.0, 8, 3000, 0.95, 1200), 600.0),),
    )


def record(path: Path, *entries: tuple[str, str, dict[str, Any]]) -> Path:
    with McapRecorder(path) as recorder:
        for offset, (topic, type_name, fields) in enumerate(entries):
            recorder.write_message(topic, build(type_name, fields), STAMP_NS + offset)
    return path


def everything() -> list[tuple[str, str, dict[str, Any]]]:
    model = FakeModel()
    twist = messages.twist(["linear.x", "angular.z"], np.array([0.5, -1.0], np.float32))
    futures, surprise = messages.predicted_futures(result(), model), messages.surprise(result(), model)
    event = messages.surprise_event(result().alarms[0], result(), model)
    assert futures is not None and surprise is not None and twist is not None
    return [
        ("/latent", messages.LATENT_STATE, messages.latent_state(result(), model)),
        ("/futures", messages.PREDICTED_FUTURES, futures),
        ("/surprise", messages.SURPRISE, surprise),
        ("/events", messages.SURPRISE_EVENT, event),
        ("/info", messages.MODEL_INFO, messages.model_info(model, STAMP_NS)),
        ("/image", messages.COMPRESSED_IMAGE, JPEG),
        ("/cmd_vel", messages.TWIST, twist),
    ]


def by_mcap_ros2(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        return {channel.topic: message for _, channel, _, message in reader.iter_decoded_messages()}


def by_rosbags(path: Path) -> dict[str, Any]:
    reader = Reader(path)
    reader.open()
    store = typestore()
    result = {entry.topic: store.deserialize_cdr(raw, entry.msgtype) for entry, _, raw in reader.messages()}
    reader.close()
    return result


@pytest.mark.parametrize("read", [by_mcap_ros2, by_rosbags])
def test_recording_roundtrip(tmp_path: Path, read: Callable[[Path], dict[str, Any]]) -> None:
    recorded = read(record(tmp_path / "run.mcap", *everything()))

    latent = recorded["/latent"]
    assert (latent.header.stamp.sec, latent.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
    assert (latent.header.frame_id, latent.model_id, latent.model_version) == ("camera", "fake", "1.2.3")
    assert (latent.sequence, latent.history_reset) == (5, "gap")
    np.testing.assert_array_equal(messages.array_of(latent.latent), result().latent)

    futures, expected = recorded["/futures"], result().futures
    assert expected is not None
    np.testing.assert_array_equal(messages.array_of(futures.latents), expected.latents)
    np.testing.assert_array_equal(messages.array_of(futures.actions), expected.actions)
    np.testing.assert_array_equal(messages.array_of(futures.energies), expected.energies)
    np.testing.assert_allclose(futures.horizon_s, STEP_S * np.arange(1, HORIZON + 1))
    np.testing.assert_allclose(futures.error_bounds, [0.1, 0.2, 0.3], rtol=1e-6)
    assert futures.error_probability == pytest.approx(0.9)
    np.testing.assert_array_equal(futures.error_coverage, [0.75, np.nan, 1.0])
    assert list(futures.errors_seen) == [20] * HORIZON
    assert futures.has_goal and futures.deadline_missed
    assert (futures.goal_stamp.sec, futures.goal_stamp.nanosec) == (1, 2)
    assert (futures.candidates_source, futures.candidates_stamp.nanosec) == ("planner", 7)
    assert futures.current_energy == 0.5
    assert messages.goal_pose_of(futures) == RelativePose(1.5, -0.5, 0.25, 0.125, 0.0625)

    assert (
        recorded["/surprise"].value,
        recorded["/surprise"].threshold,
        recorded["/surprise"].surprising,
    ) == (
        0.75,
        0.5,
        True,
    )
    event = recorded["/events"]
    assert (event.kind, event.ongoing, event.end.nanosec) == ("surprise", True, 0)
    assert (event.start.nanosec, event.peak.nanosec, event.score, event.threshold) == (5, 6, 9.5, 8.0)
    assert event.horizon_s == pytest.approx(2 * STEP_S)
    assert (event.false_alarm_every_s, event.confidence) == (600.0, pytest.approx(0.95))
    info = recorded["/info"]
    assert (info.model_id, info.sha256, info.engine, info.precision) == ("fake", "0" * 64, "fake", "fp32")
    assert list(info.action_names) == ["linear.x", "linear.y"]
    assert list(info.action_low) == [-1.0, -1.0]
    assert (info.tokens, info.dim, info.trained) == (TOKENS, DIM, False)
    assert bytes(recorded["/image"].data) == JPEG["data"].tobytes()
    assert (recorded["/cmd_vel"].linear.x, recorded["/cmd_vel"].angular.z) == (0.5, -1.0)


def test_recording_has_the_profile_of_rosbag2_and_foxglove(tmp_path: Path) -> None:
    path = record(tmp_path / "run.mcap", *everything())
    with path.open("rb") as file:
        reader = make_reader(file)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
    assert summary is not None and summary.statistics is not None
    assert summary.statistics.message_count == 7
    assert {chunk.compression for chunk in summary.chunk_indexes} == {"zstd"}
    assert {schema.encoding for schema in summary.schemas.values()} == {"ros2msg"}
    for channel in summary.channels.values():
        assert channel.message_encoding == "cdr"
        assert channel.metadata["topic_type_hash"].startswith("RIHS01_")
    assert summary.statistics.message_start_time == STAMP_NS


def test_definition_includes_referenced_types() -> None:
    text = definition(messages.PREDICTED_FUTURES)
    for part in (
        "MSG: jepa_msgs/Tensor",
        "MSG: std_msgs/Header",
        "MSG: builtin_interfaces/Time",
        "uint8 FLOAT32=9",
    ):
        assert part in text


def test_standard_types_have_the_hashes_of_ros() -> None:
    # As ros2 topic info --verbose shows them on Jazzy.
    expected = "RIHS01_d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47"
    assert type_hash("sensor_msgs/msg/Image") == expected


def test_built_messages_equal_those_of_ros() -> None:
    described: dict[str, Any] = {}
    for file in files("jepa_runtime.ros_messages.msg").iterdir():
        if file.name.endswith(".msg"):
            described.update(
                get_types_from_msg(file.read_text(), f"jepa_msgs/msg/{file.name.removesuffix('.msg')}")
            )
    for _, type_name, fields in everything():
        if type_name.startswith("jepa_msgs"):
            assert [name for name, _ in described[type_name][1]] == list(fields)
    constants = {name: value for name, _, value in described["jepa_msgs/msg/Tensor"][0]}
    assert {name.upper(): code for name, code in messages.DTYPE_CODES.items()} == constants


def test_without_a_goal_there_are_no_energies(tmp_path: Path) -> None:
    fields = messages.predicted_futures(result(goal=False), FakeModel())
    assert fields is not None
    futures = by_rosbags(record(tmp_path / "run.mcap", ("/futures", messages.PREDICTED_FUTURES, fields)))[
        "/futures"
    ]
    assert not futures.has_goal
    assert np.isnan(futures.current_energy)
    assert messages.goal_pose_of(futures) is None
    assert messages.array_of(futures.energies).size == 0


@pytest.mark.parametrize("size", [1, 4, 6])
def test_goal_pose_of_another_size_raises(size: int) -> None:
    with pytest.raises(ValueError, match="goal_pose"):
        messages.goal_pose_of(SimpleNamespace(goal_pose=np.zeros(size, np.float32)))


def test_result_without_prediction_has_no_messages() -> None:
    assert messages.predicted_futures(result(futures=False), FakeModel()) is None
    assert messages.twist(["joint_1"], np.zeros(1, np.float32)) is None


@pytest.mark.parametrize("dtype", list(messages.DTYPE_CODES))
def test_tensor_roundtrip_of_every_type(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    message = build("jepa_msgs/msg/Tensor", messages.tensor("x", array.T))
    np.testing.assert_array_equal(messages.array_of(message), array.T)


def test_tensor_of_unsupported_type_is_an_error() -> None:
    for dtype in ("bool", ">f4"):
        with pytest.raises(ValueError, match=f"tensor x has the unsupported type {dtype}"):
            messages.tensor("x", np.zeros(2, dtype))


def test_serialized_messages_are_recorded_unchanged(tmp_path: Path) -> None:
    cdr = bytes(typestore().serialize_cdr(build(messages.TWIST, everything()[-1][2]), messages.TWIST))
    with McapRecorder(tmp_path / "run.mcap") as recorder:
        recorder.write("/cmd_vel", messages.TWIST, cdr, STAMP_NS)
    assert by_mcap_ros2(tmp_path / "run.mcap")["/cmd_vel"].linear.x == 0.5


def test_recording_is_partial_until_complete(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "run.mcap"
    recorder = McapRecorder(path)
    topic, type_name, fields = everything()[-1]
    recorder.write_message(topic, build(type_name, fields), STAMP_NS)
    assert [entry.name for entry in path.parent.iterdir()] == ["run.mcap.partial"]
    recorder.close()
    recorder.close()
    assert [entry.name for entry in path.parent.iterdir()] == ["run.mcap"]
    with pytest.raises(RecordingError, check=code("recording.closed")):
        recorder.write_message(topic, build(type_name, fields), STAMP_NS)


def test_run_recording_with_a_new_model_records_its_information(tmp_path: Path) -> None:
    other = FakeModel()
    other.engine = "another"
    recording = RunRecording(tmp_path / "run.mcap", FakeModel())
    for sequence in range(4):
        if sequence == 2:
            recording.set_model(other)
        recording.add_frame(frame(sequence), None)
    recording.close()
    with BagFile(tmp_path / "run.mcap") as bag:
        messages = [(log_ns, info.engine) for _, log_ns, info in bag.read({"/world_model/model_info"})]
    assert messages == [(frame(0).stamp_ns, "fake"), (frame(2).stamp_ns, "another")]


def test_messages_are_numbered_per_topic(tmp_path: Path) -> None:
    topic, type_name, fields = everything()[-1]
    with McapRecorder(tmp_path / "run.mcap") as recorder:
        for offset, name in enumerate((topic, topic, "/other", topic)):
            recorder.write_message(name, build(type_name, fields), STAMP_NS + offset)
    with (tmp_path / "run.mcap").open("rb") as file:
        result = [(channel.topic, each.sequence) for _, channel, each in make_reader(file).iter_messages()]
    assert result == [(topic, 0), (topic, 1), ("/other", 0), (topic, 2)]


def test_recording_is_flushed_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, synced = McapRecorder(tmp_path / "run.mcap"), []
    monkeypatch.setattr("os.fsync", lambda _: synced.append(recorder.partial.stat().st_size))
    topic, type_name, fields = everything()[-1]
    recorder.write_message(topic, build(type_name, fields), STAMP_NS)
    recorder.close()
    assert synced == [recorder.path.stat().st_size]


def test_write_of_unknown_type_is_an_error_and_recording_continues(tmp_path: Path) -> None:
    with McapRecorder(tmp_path / "run.mcap") as recorder:
        with pytest.raises(RecordingError, check=code("recording.unknown_message_type")):
            recorder.write("/nothing", "nav_msgs/msg/Nothing", b"\0\1\0\0", STAMP_NS)
        topic, type_name, fields = everything()[-1]
        recorder.write_message(topic, build(type_name, fields), STAMP_NS)
    assert list(by_mcap_ros2(tmp_path / "run.mcap")) == [topic]


def test_discard_removes_the_file(tmp_path: Path) -> None:
    recorder = McapRecorder(tmp_path / "run.mcap")
    topic, type_name, fields = everything()[-1]
    recorder.write_message(topic, build(type_name, fields), STAMP_NS)
    recorder.discard()
    recorder.discard()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RecordingError, check=code("recording.closed")):
        recorder.write_message(topic, build(type_name, fields), STAMP_NS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_discard_after_a_full_disk_removes_the_file(tmp_path: Path) -> None:
    (tmp_path / "run.mcap.partial").symlink_to("/dev/full")
    recorder = McapRecorder(tmp_path / "run.mcap")
    recorder.write("/noise", messages.TWIST, b"\0\1\0\0", STAMP_NS)
    with pytest.raises(RecordingError, check=code("recording.io")) as raised:
        recorder.close()
    assert "No space left on device" in str(raised.value)
    recorder.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["run.mcap", "run.mcap.partial"])
def test_existing_recording_is_not_replaced(tmp_path: Path, left: str) -> None:
    older = tmp_path / left
    older.write_bytes(b"an older recording")
    with pytest.raises(RecordingError, check=code("recording.file_exists")) as raised:
        McapRecorder(tmp_path / "run.mcap")
    assert f"{left} already exists" in str(raised.value)
    assert older.read_bytes() == b"an older recording"
    assert list(tmp_path.iterdir()) == [older]


def test_file_created_during_recording_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    recorder = McapRecorder(path)
    path.write_bytes(b"somebody else's")
    with pytest.raises(RecordingError, check=code("recording.file_exists")) as raised:
        recorder.close()
    assert "run.mcap.partial" in str(raised.value)
    assert path.read_bytes() == b"somebody else's"
    assert by_mcap_ros2(path.rename(tmp_path / "theirs") and recorder.partial) == {}


def test_recording_is_completed_after_an_exception(tmp_path: Path) -> None:
    topic, type_name, fields = everything()[0]
    with pytest.raises(RuntimeError), McapRecorder(tmp_path / "run.mcap") as recorder:
        recorder.write_message(topic, build(type_name, fields), STAMP_NS)
        raise RuntimeError("elsewhere")
    assert "/latent" in by_rosbags(tmp_path / "run.mcap")


def test_empty_recording_is_valid(tmp_path: Path) -> None:
    McapRecorder(tmp_path / "run.mcap").close()
    assert by_mcap_ros2(tmp_path / "run.mcap") == {}


def test_recorder_and_build_errors_have_codes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, check=code("recording.io")):
        McapRecorder(tmp_path / "file" / "run.mcap")
    with pytest.raises(RecordingError, check=code("recording.output_is_folder")):
        McapRecorder(tmp_path)
    assert not tmp_path.with_name(tmp_path.name + ".partial").exists()
    with pytest.raises(RecordingError, check=code("recording.unknown_message_type")):
        build("nav_msgs/msg/Nothing", {})
    with pytest.raises(RecordingError, check=code("recording.message_fields")):
        build(messages.TWIST, {"x": 1})


def test_time_message_after_2038_is_an_error() -> None:
    last_ns = 2**31 * 1_000_000_000 - 1
    assert messages.from_time(build("builtin_interfaces/msg/Time", messages.time_message(last_ns))) == last_ns
    with pytest.raises(RecordingError, check=code("recording.stamp_out_of_range")):
        messages.time_message(last_ns + 1)


def test_topic_with_two_types_is_an_error(tmp_path: Path) -> None:
    recorder = McapRecorder(tmp_path / "run.mcap")
    recorder.write("/topic", messages.TWIST, b"\0\1\0\0", STAMP_NS)
    recorder.write("/topic", messages.SURPRISE, b"\0\1\0\0", STAMP_NS)
    with pytest.raises(RecordingError, check=code("recording.write_failed")) as raised:
        recorder.close()
    assert "geometry_msgs/msg/Twist" in str(raised.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_recorder_on_a_full_disk_is_an_error_and_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "run.mcap.partial").symlink_to("/dev/full")
    recorder = McapRecorder(tmp_path / "run.mcap")
    noise = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8).tobytes()
    with pytest.raises(RecordingError, check=code("recording.write_failed")):
        for _ in range(300):
            recorder.write("/noise", messages.TWIST, noise[: len(noise) // 10], STAMP_NS)
    with pytest.raises(RecordingError, check=code("recording.io")) as raised:
        recorder.close()
    assert "No space left on device" in str(raised.value)
    assert not (tmp_path / "run.mcap").exists()
