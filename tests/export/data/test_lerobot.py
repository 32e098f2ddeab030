"""LeRobot data sets in both layouts, written as its own code writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_export.data.clip_windows import Windows
from jepa_export.data.frame_store import FrameStore, StoredRecording
from jepa_export.data.lerobot_recordings import episodes
from jepa_export.data.open_data import open_data
from jepa_export.errors import JepaExportError
from jepa_runtime.errors import SourceError
from tests.errors import code
from tests.export.data.recordings import (
    CAMERA,
    SIZE,
    actions_of,
    frame_numbers,
    numbers_of,
    write_lerobot,
    write_video,
)

pytest.importorskip("av", reason="PyAV is not installed (extra export)")
pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra export)")
parquet = pytest.importorskip("pyarrow.parquet")
LENGTHS = (6, 9, 4)
MOTORS = ["shoulder_pan.pos", "gripper.pos"]


def prepared(folder: Path, store: FrameStore, **options: str) -> list[StoredRecording]:
    return [store.prepare(episode) for episode in episodes(folder, options)]


def change_info(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
@pytest.mark.parametrize("images", [False, True])
def test_every_episode_has_its_own_frames_and_actions(
    tmp_path: Path, store: FrameStore, version: str, images: bool
) -> None:
    folder = write_lerobot(tmp_path / "set", LENGTHS, version=version, images=images, names=MOTORS)
    recordings = prepared(folder, store)
    assert [len(recording.stamps_ns) for recording in recordings] == list(LENGTHS)
    for index, (recording, length) in enumerate(zip(recordings, LENGTHS, strict=True)):
        assert recording.name == f"{folder} (episode {index})"
        assert numbers_of(recording.frames(np.arange(length))) == frame_numbers(index, length)
        assert recording.action_names == tuple(MOTORS)
        clip = Windows([recording], frames=length, rate_hz=10.0)[0]
        np.testing.assert_array_equal(clip.actions, actions_of(index, length))
        np.testing.assert_allclose(clip.stamps_ns, np.arange(length) * 1e8, atol=100)


def test_lerobot_videos_in_av1_are_read(tmp_path: Path, store: FrameStore) -> None:
    folder = write_lerobot(tmp_path / "set", LENGTHS, version="v3.0", codec="libsvtav1")
    recordings = prepared(folder, store)
    assert numbers_of(recordings[1].frames(np.arange(9))) == frame_numbers(1, 9)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (MOTORS, tuple(MOTORS)),
        ({"motors": MOTORS}, tuple(MOTORS)),
        (None, ("action[0]", "action[1]")),
        (["both"], ("action[0]", "action[1]")),
    ],
)
def test_action_components_have_the_names_of_the_data_set(
    tmp_path: Path, store: FrameStore, names: Any, expected: tuple[str, ...]
) -> None:
    folder = write_lerobot(tmp_path / "set", [3], version="v2.1", names=names)
    assert prepared(folder, store)[0].action_names == expected


def test_components_and_camera_are_selected(tmp_path: Path, store: FrameStore) -> None:
    folder = write_lerobot(tmp_path / "set", [3], version="v2.1", names=MOTORS)
    (recording,) = prepared(folder, store, action="action:gripper.pos", camera=CAMERA)
    assert recording.action_names == ("gripper.pos",)
    stamps = recording.stamps_ns[:2]
    np.testing.assert_allclose(recording.actions(stamps, stamps + 1), [[0], [1]])
    (film,) = prepared(folder, store, action="none")
    assert film.action_names is None
    assert film.key == recording.key


def test_data_set_is_split_by_episode(tmp_path: Path, store: FrameStore) -> None:
    folder = write_lerobot(tmp_path / "set", [3] * 6, version="v3.0")
    data = open_data([str(folder)], store, held_out=0.4)
    assert len(data.train) + len(data.held_out) == 6
    assert data.held_out and data.train


@pytest.mark.parametrize("images", [False, True])
def test_episode_keeps_its_identity_when_others_are_added_to_its_file(tmp_path: Path, images: bool) -> None:
    few, more = (
        episodes(write_lerobot(tmp_path / name, lengths, version="v3.0", images=images), {})
        for name, lengths in (("few", LENGTHS), ("more", (*LENGTHS, 5)))
    )
    before, after = ([episode.identity() for episode in each] for each in (few, more))
    assert before == after[:3] and len(set(after)) == 4
    keys = [episode.frames_key() for episode in more]
    assert [episode.frames_key() for episode in few] == keys[:3] and len(set(keys)) == 4


def test_another_video_of_the_same_length_has_other_frames(tmp_path: Path) -> None:
    one, other = (write_lerobot(tmp_path / name, LENGTHS, version="v3.0") for name in ("one", "other"))
    before = [episode.frames_key() for episode in episodes(one, {})]
    numbers = [number for episode, length in enumerate(LENGTHS) for number in frame_numbers(episode, length)]
    numbers[LENGTHS[0]] += 1
    write_video(one / f"videos/{CAMERA}/chunk-000/file-000.mp4", numbers)
    after = [episode.frames_key() for episode in episodes(one, {})]
    assert before[1] != after[1]
    assert before == [episode.frames_key() for episode in episodes(other, {})]


@pytest.mark.parametrize("column", ["action", CAMERA])
def test_other_actions_change_the_recording_and_other_images_the_frames(tmp_path: Path, column: str) -> None:
    folder = write_lerobot(tmp_path / "set", LENGTHS, version="v3.0", images=True)
    before = [(episode.identity(), episode.frames_key()) for episode in episodes(folder, {})]
    path = folder / "data/chunk-000/file-000.parquet"
    rows = parquet.read_table(path).to_pylist()
    # In the second episode.
    rows[LENGTHS[0]][column] = rows[0][column]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    after = [(episode.identity(), episode.frames_key()) for episode in episodes(folder, {})]
    assert (before[0], before[2]) == (after[0], after[2])
    same = [one == other for one, other in zip(before[1], after[1], strict=True)]
    assert same == [column == CAMERA, column == "action"]


def empty_features(info: dict[str, Any]) -> None:
    info["features"] = {"action": info["features"]["action"]}


def feature(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change of the description of ``action``."""
    return lambda info: info["features"]["action"].update(changes)


def second_camera(info: dict[str, Any]) -> None:
    info["features"]["wrist"] = info["features"][CAMERA]


@pytest.mark.parametrize(
    ("change", "options", "expected", "named"),
    [
        (lambda info: info.update(codebase_version="v1.6"), {}, "data.lerobot_version", "v1.6"),
        (lambda info: info.pop("features"), {}, "data.lerobot_damaged", "missing: features"),
        (lambda info: info.pop("chunks_size"), {}, "data.lerobot_damaged", "KeyError('chunks_size')"),
        (lambda info: info.update(data_path="{wrong}"), {}, "data.lerobot_damaged", "KeyError('wrong')"),
        (
            lambda info: info.update(data_path="/data/{episode_index}.parquet"),
            {},
            "data.path_outside",
            "/data/0.parquet",
        ),
        (
            lambda info: info.update(video_path="videos/../../{video_key}.mp4"),
            {},
            "data.path_outside",
            f"videos/../../{CAMERA}.mp4",
        ),
        (empty_features, {}, "data.unknown_camera", "(cameras: none)"),
        (second_camera, {}, "data.unknown_camera", f"(cameras: {CAMERA}, wrist)"),
        (second_camera, {"camera": "rear"}, "data.unknown_camera", "no camera rear"),
        (lambda info: info["features"].update(wrist=None), {}, "data.lerobot_damaged", "meta/"),
        (feature(shape=None), {}, "data.lerobot_damaged", "TypeError"),
        (feature(names=5), {}, "data.lerobot_damaged", "TypeError"),
        (lambda info: info.update(chunks_size=0), {}, "data.lerobot_damaged", "ZeroDivisionError"),
        (feature(dtype="int64"), {}, "data.action_type", "int64"),
        (lambda info: None, {"action": "torque"}, "data.unknown_action", "action, timestamp"),
        (lambda info: None, {"action": "action:action[0],action[0]"}, "data.duplicate_action", "action[0]"),
        (lambda info: None, {"action": "action:x"}, "data.unknown_action", "action[0], action[1]"),
    ],
)
def test_inconsistent_metadata_is_named(
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    options: dict[str, str],
    expected: str,
    named: str,
) -> None:
    folder = write_lerobot(tmp_path / "set", [3], version="v2.1")
    change_info(folder, change)
    with pytest.raises(JepaExportError, check=code(expected)) as caught:
        episodes(folder, options)
    assert str(folder) in str(caught.value) and named in str(caught.value)


def test_unknown_data_set_option_is_rejected(tmp_path: Path, store: FrameStore) -> None:
    folder = write_lerobot(tmp_path / "set", [3], version="v2.1")
    with pytest.raises(SourceError):
        open_data([f"{folder}?topic=/left"], store, held_out=0)


def test_non_finite_stamps_are_an_error(tmp_path: Path, store: FrameStore) -> None:
    folder = write_lerobot(tmp_path / "set", [3], version="v3.0")
    path = folder / "data/chunk-000/file-000.parquet"
    rows = [row | {"timestamp": "now"} for row in parquet.read_table(path).to_pylist()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    with pytest.raises(JepaExportError, check=code("data.lerobot_damaged")):
        prepared(folder, store, action="none")


def test_timestamp_can_be_the_action(tmp_path: Path, store: FrameStore) -> None:
    folder = write_lerobot(tmp_path / "set", [3], version="v3.0")
    assert prepared(folder, store, action="timestamp")[0].action_names == ("timestamp[0]",)


@pytest.mark.parametrize(
    ("version", "name", "expected"),
    [
        ("v2.1", "meta/episodes.jsonl", "data.lerobot_damaged"),
        ("v2.1", "data/chunk-000/episode_000001.parquet", "data.unreadable"),
        ("v2.1", f"videos/chunk-000/{CAMERA}/episode_000001.mp4", "data.unreadable"),
        ("v3.0", "meta/episodes/chunk-000/file-000.parquet", "data.lerobot_damaged"),
        ("v3.0", "data/chunk-000/file-000.parquet", "data.unreadable"),
        ("v3.0", f"videos/{CAMERA}/chunk-000/file-000.mp4", "data.unreadable"),
    ],
)
def test_missing_file_is_named(
    tmp_path: Path, store: FrameStore, version: str, name: str, expected: str
) -> None:
    folder = write_lerobot(tmp_path / "set", LENGTHS, version=version)
    (folder / name).unlink()
    with pytest.raises(JepaExportError, check=code(expected)) as caught:
        prepared(folder, store)
    assert "/".join(Path(name).parts[:2]) in str(caught.value)


def test_truncated_table_is_an_error(tmp_path: Path, store: FrameStore) -> None:
    folder = write_lerobot(tmp_path / "set", LENGTHS, version="v3.0")
    path = folder / "data/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(JepaExportError, check=code("data.lerobot_damaged")):
        prepared(folder, store)


def test_video_shorter_than_its_episode_is_an_error(tmp_path: Path, store: FrameStore) -> None:
    folder = write_lerobot(tmp_path / "set", [8], version="v2.1")
    write_video(folder / f"videos/chunk-000/{CAMERA}/episode_000000.mp4", range(5))
    with pytest.raises(JepaExportError, check=code("data.video_truncated")):
        prepared(folder, store)


def test_video_with_another_rate_is_rejected(tmp_path: Path, store: FrameStore) -> None:
    folder = write_lerobot(tmp_path / "set", [8], version="v2.1")
    stamps = [index * 33 for index in range(30)]
    write_video(folder / f"videos/chunk-000/{CAMERA}/episode_000000.mp4", range(30), stamps_ms=stamps)
    with pytest.raises(JepaExportError, check=code("data.video_out_of_sync")):
        prepared(folder, store)


def test_episode_with_another_length_than_listed_is_an_error(tmp_path: Path, store: FrameStore) -> None:
    folder = write_lerobot(tmp_path / "set", [8], version="v2.1")
    (folder / "meta/episodes.jsonl").write_text(json.dumps({"episode_index": 0, "length": 9}))
    with pytest.raises(JepaExportError, check=code("data.lerobot_damaged")):
        prepared(folder, store)


@pytest.mark.parametrize("size", [1, 3])
def test_actions_of_another_size_than_described_are_an_error(
    tmp_path: Path, store: FrameStore, size: int
) -> None:
    folder = write_lerobot(tmp_path / "set", [3], version="v2.1")
    change_info(folder, feature(shape=[size]))
    with pytest.raises(
        JepaExportError,
        check=code("data.lerobot_damaged"),
    ):
        prepared(folder, store)


def test_bad_episode_can_be_skipped(
    tmp_path: Path, store: FrameStore, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_lerobot(tmp_path / "set", LENGTHS, version="v2.1")
    (folder / f"videos/chunk-000/{CAMERA}/episode_000001.mp4").write_bytes(b"nothing")
    data = open_data([str(folder)], store, skip_bad=True, held_out=0)
    assert [len(recording.stamps_ns) for recording in data.train] == [6, 4]
    assert len(data.skipped) == 1 and "episode_000001.mp4" in data.skipped[0]
    assert "skipped recording: " in caplog.text
    assert data.train[0].frames(np.array([0])).shape == (1, *SIZE, 3)
