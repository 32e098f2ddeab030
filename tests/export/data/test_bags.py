"""Bags: images and commands of one recording, aligned."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from jepa_export.data.bag_recordings import BagOrigin
from jepa_export.data.clip_windows import Windows
from jepa_export.data.frame_store import FrameStore
from jepa_export.data.open_data import open_data
from jepa_runtime.errors import SourceError
from jepa_runtime.sources.base import view_name
from tests.errors import code
from tests.runtime.bags import image, twist, twist_stamped, write_bag

MS = 1_000_000
S = 1_000 * MS
OPTIONS = "action=/cmd_vel:linear.x,angular.z"


def write_drive(path: Path, *, frames: int = 10) -> Path:
    """Write images at 10 Hz and a command 20 ms before each."""
    entries = [image(S + index * 100 * MS, index) for index in range(frames)]
    entries += [twist(S + index * 100 * MS - 20 * MS, float(index), turn=-index) for index in range(frames)]
    return write_bag(path, entries)


def windows(spec: str, store: FrameStore) -> Windows:
    return Windows(open_data([spec], store, held_out=0).train, frames=2, rate_hz=10.0)


def test_bag_clip_has_the_commands_between_its_frames(tmp_path: Path, store: FrameStore) -> None:
    clips = windows(f"{write_drive(tmp_path / 'a.mcap')}?{OPTIONS}", store)
    assert (clips.action_names, clips.action_units) == (("linear.x", "angular.z"), ("m/s", "rad/s"))
    assert len(clips) == 9
    clip = clips[3]
    assert clip.stamps_ns.tolist() == [S + 300 * MS, S + 400 * MS]
    assert clip.frames[:, 0, 0, 0].tolist() == [3, 4]
    assert clip.actions is not None
    # For 80 of 100 ms the command before the frame, then the next; the last one is held.
    np.testing.assert_allclose(clip.actions, [[3.2, -3.2], [4.2, -4.2]], rtol=1e-5)
    last = clips[8].actions
    assert last is not None
    np.testing.assert_allclose(last[1], [9, -9])


def test_bag_windows_another_frame_id_separates_clips(tmp_path: Path, store: FrameStore) -> None:
    entries = [
        image(S + index * 100 * MS, index, frame_id=view_name("front", index // 4)) for index in range(10)
    ]
    clips = windows(str(write_bag(tmp_path / "a.mcap", entries)), store)
    starts = [int(clips[index].frames[0, 0, 0, 0]) for index in range(len(clips))]
    assert starts == [0, 1, 2, 4, 5, 6, 8]


def test_bag_without_an_action_topic_is_a_video(tmp_path: Path, store: FrameStore) -> None:
    clips = windows(str(write_drive(tmp_path / "a.mcap")), store)
    assert clips.action_names is None
    assert clips[0].actions is None


def test_choosing_another_action_does_not_decode_images_again(tmp_path: Path, store: FrameStore) -> None:
    path = write_drive(tmp_path / "a.mcap")
    keys = {windows(spec, store).recordings[0].key for spec in (str(path), f"{path}?{OPTIONS}")}
    assert len(keys) == 1


def test_copies_of_a_bag_are_one_recording_and_different_bags_are_not(tmp_path: Path) -> None:
    one, other = write_drive(tmp_path / "a.mcap"), write_drive(tmp_path / "b.mcap", frames=9)
    copy = Path(shutil.copy(one, tmp_path / "c.mcap"))
    identities = [
        BagOrigin(path, options).identity() for path, options in ((one, {}), (copy, {"topic": "/image"}))
    ]
    assert identities[0] == identities[1] != BagOrigin(other, {}).identity()


def test_frames_after_the_last_commands_are_excluded(tmp_path: Path, store: FrameStore) -> None:
    entries = [image(S + index * 100 * MS, index) for index in range(20)]
    path = write_bag(tmp_path / "a.mcap", [*entries, twist(S + 300 * MS, 1.0)])
    clips = windows(f"{path}?{OPTIONS}", store)
    assert [int(clips[index].frames[0, 0, 0, 0]) for index in range(len(clips))] == [3, 4, 5, 6, 7]
    assert len(windows(f"{path}?{OPTIONS}&max_age_s=9", store)) == 16


def test_one_of_several_cameras_is_selected(tmp_path: Path, store: FrameStore) -> None:
    pictures = [image(S + index * 100 * MS, value, topic=topic) for index in range(3) for topic, value in
                (("/left", 10), ("/right", 20))]  # fmt: skip
    path = write_bag(tmp_path / "a.mcap", pictures)
    with pytest.raises(SourceError, check=code("source.topic_ambiguous")):
        windows(str(path), store)
    assert windows(f"{path}?topic=/right", store)[0].frames[0, 0, 0, 0] == 20
    assert windows(f"{path}?topic=/left", store)[0].frames[0, 0, 0, 0] == 10


@pytest.mark.parametrize(
    ("options", "expected", "available"),
    [
        ("action=/odom", "source.topic_not_found", "/cmd_vel (geometry_msgs/msg/Twist), /image"),
        ("action=/cmd_vel:speed", "source.command_invalid", "linear, angular"),
        ("topic=/rear", "source.topic_not_found", "/image"),
        ("camera=front", "source.option_invalid", "topic, action, max_age_s"),
    ],
)
def test_missing_topic_is_reported_with_the_available_ones(
    tmp_path: Path, store: FrameStore, options: str, expected: str, available: str
) -> None:
    with pytest.raises(SourceError, check=code(expected)) as caught:
        windows(f"{write_drive(tmp_path / 'a.mcap')}?{options}", store)
    assert available in str(caught.value)


def test_truncated_bag_is_rejected(tmp_path: Path, store: FrameStore) -> None:
    path = write_drive(tmp_path / "a.mcap")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, check=code("source.bag_damaged")):
        windows(f"{path}?{OPTIONS}", store)


def test_commands_with_decreasing_stamps_are_rejected(tmp_path: Path, store: FrameStore) -> None:
    entries = [image(S), twist_stamped(S, S + 5, 1.0), twist_stamped(S + 1, S, 1.0)]
    path = write_bag(tmp_path / "a.mcap", entries)
    with pytest.raises(SourceError, check=code("source.command_invalid")):
        windows(f"{path}?{OPTIONS}", store)
