"""The black box: a bag around each alarm, within its limits, without blocking callers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime.calibration import Alarm, Event, Threshold
from jepa_runtime.errors import RecordingError
from jepa_runtime.recording.bag_folder import BagFolder
from jepa_runtime.recording.black_box import BlackBox, Topics
from jepa_runtime.serving.pipeline import Result
from jepa_runtime.sources.bag import BagSource
from tests.errors import code
from tests.runtime.fakes import FakeModel, frame
from tests.runtime.recording.test_mcap_writer import by_mcap_ros2
from tests.runtime.recording.test_mcap_writer import result as recorded_result

BEGUN = Alarm("surprise", Event(0, 0, 1, 9.0), None, Threshold(8.0, 8, 3000, 0.95, 1200), 600.0)
ENDED = replace(BEGUN, end_ns=1)


def result(sequence: int, *alarms: Alarm) -> Result:
    return replace(
        recorded_result(), stamp_ns=frame(sequence).stamp_ns, sequence=sequence, stream="", alarms=alarms
    )


@contextmanager
def box(folder: Path, **options: Any) -> Iterator[BlackBox]:
    black_box = BlackBox(folder, streams={"": Topics()}, **{"before_s": 0.5, "after_s": 0.3, **options})
    black_box.set_model(FakeModel())
    try:
        yield black_box
    finally:
        black_box.close()


def drive(black_box: BlackBox, frames: range, alarms: dict[int, Alarm]) -> None:
    for sequence in frames:
        black_box.add_frame(frame(sequence, sequence % 256))
        black_box.add_command(frame(sequence).stamp_ns, np.array([sequence, 0.0], np.float32))
        black_box.add_result(result(sequence))
        if sequence in alarms:
            black_box.add_alarms(result(sequence, alarms[sequence]))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stamps(bag: Path) -> list[int]:
    source = BagSource(bag)
    result = [each.stamp_ns for each in source.frames()]
    source.close()
    return result


def test_bag_has_the_time_before_and_after_an_alarm(tmp_path: Path) -> None:
    with box(tmp_path / "new" / "box") as black_box:
        drive(black_box, range(100), {60: BEGUN, 64: ENDED})
    assert (black_box.written, black_box.fault, black_box.dropped) == (1, "", 0)
    (bag,) = (tmp_path / "new" / "box").iterdir()
    assert bag.name == "19700101T000003.000Z_surprise.mcap"
    source = BagSource(bag, action="/cmd_vel:linear.x,linear.y")
    played = []
    for each in source.frames():
        assert source.command is not None
        played.append((each.stamp_ns, each.image.mean(), source.command[0]))
    source.close()
    # 0.5 s before and 0.3 s after at 30 Hz.
    expected = range(60 - 15, 60 + 9 + 1)
    assert [stamp for stamp, _, _ in played] == [frame(sequence).stamp_ns for sequence in expected]
    assert [value for _, value, _ in played] == pytest.approx(list(expected), abs=2)
    # The last frame ends the bag, before the command that came with it.
    assert [command for _, _, command in played] == [*expected[:-1], expected[-2]]
    others = by_mcap_ros2(bag)
    assert others["/world_model/model_info"].model_id == "fake"
    assert others["/world_model/surprise"].value == 0.75
    assert not others["/world_model/events"].ongoing


def test_black_box_without_alarm_writes_nothing(tmp_path: Path) -> None:
    with box(tmp_path) as black_box:
        drive(black_box, range(60), {30: ENDED})
    assert list(tmp_path.iterdir()) == []


def test_alarm_after_a_bag_starts_another(tmp_path: Path) -> None:
    with box(tmp_path) as black_box:
        drive(black_box, range(120), {40: BEGUN, 45: BEGUN, 80: BEGUN})
    assert black_box.written == 2 and len(list(tmp_path.iterdir())) == 2


def test_alarm_soon_after_a_bag_has_the_whole_time_before(tmp_path: Path) -> None:
    with box(tmp_path) as black_box:
        drive(black_box, range(100), {40: BEGUN, 53: BEGUN})
    _, bag = sorted(tmp_path.iterdir())
    # The first bag contains the frames up to 49.
    assert stamps(bag) == [frame(sequence).stamp_ns for sequence in range(53 - 15, 53 + 9 + 1)]


@pytest.mark.parametrize("hours", [1, -1])
def test_black_box_with_one_wrong_stamp_loses_nothing(tmp_path: Path, hours: int) -> None:
    """Regression: one image stamped an hour ahead emptied the box, and ended the bag."""
    with box(tmp_path) as black_box:
        for sequence in range(100):
            if sequence in (58, 63):
                wrong_ns = max(frame(sequence).stamp_ns + hours * 3600 * 10**9, 1)
                black_box.add_frame(replace(frame(sequence), stamp_ns=wrong_ns))
            drive(black_box, range(sequence, sequence + 1), {60: BEGUN})
    (bag,) = tmp_path.iterdir()
    expected = {frame(sequence).stamp_ns for sequence in range(60 - 15, 60 + 9 + 1)}
    assert expected <= set(stamps(bag)) and len(stamps(bag)) == len(expected) + 2


def test_alarm_during_a_bag_extends_it(tmp_path: Path) -> None:
    with box(tmp_path) as black_box:
        drive(black_box, range(120), {40: BEGUN, 48: BEGUN})
    (bag,) = tmp_path.iterdir()
    assert stamps(bag)[-1] == frame(48 + 9).stamp_ns


def test_queue_of_a_hanging_disk_is_bounded(tmp_path: Path, monkeypatch: Any) -> None:
    blocked = threading.Event()
    monkeypatch.setattr(BagFolder, "check", lambda self: blocked.wait(10))
    large = replace(frame(0), image=np.zeros((4000, 4000, 3), np.uint8))
    with box(tmp_path) as black_box:
        for _ in range(100):
            black_box.add_frame(large)
        waiting = 100 - black_box.dropped
        blocked.set()
    assert waiting * large.image.nbytes < 512 << 20


def test_bag_is_completed_when_frames_stop(tmp_path: Path) -> None:
    now = 0.0
    with box(tmp_path, clock=lambda: now) as black_box:
        drive(black_box, range(31), {30: BEGUN})
        until(lambda: bool(list(tmp_path.glob("*.partial"))))
        now = 100.0
        until(lambda: black_box.written == 1)


def test_bag_has_the_command_in_effect(tmp_path: Path) -> None:
    with box(tmp_path) as black_box:
        black_box.add_frame(frame(0))
        black_box.add_command(frame(0).stamp_ns, np.array([0.25, 0.0], np.float32))
        for sequence in range(1, 61):
            black_box.add_frame(frame(sequence))
        black_box.add_alarms(result(60, BEGUN))
    (bag,) = tmp_path.iterdir()
    assert by_mcap_ros2(bag)["/cmd_vel"].linear.x == 0.25


def test_bag_omits_commands_that_are_no_twist(tmp_path: Path) -> None:
    with box(tmp_path) as black_box:
        model = FakeModel()
        model.engine, model.manifest.io.action.names = "another", ["joint_1", "joint_2"]
        black_box.add_frame(frame(0))
        black_box.set_model(model)
        drive(black_box, range(1, 30), {})
        black_box.add_result(replace(result(29), surprise=None))
        drive(black_box, range(30, 60), {30: BEGUN})
    assert (black_box.written, black_box.fault) == (1, "")
    (bag,) = tmp_path.iterdir()
    recorded = by_mcap_ros2(bag)
    assert "/cmd_vel" not in recorded and "/world_model/surprise" in recorded
    assert recorded["/world_model/model_info"].engine == "another"


def test_black_box_without_model_records_frames_only(tmp_path: Path) -> None:
    black_box = BlackBox(tmp_path, streams={"": Topics()})
    drive(black_box, range(10), {5: BEGUN})
    black_box.close()
    assert (black_box.written, black_box.fault, list(tmp_path.iterdir())) == (0, "", [])


def test_black_box_with_unwritable_folder_reports_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with box(tmp_path / "file" / "box") as black_box:
        until(lambda: "cannot be written" in black_box.fault)
        drive(black_box, range(60), {30: BEGUN})
    assert black_box.written == 0 and "cannot be written" in black_box.fault


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_black_box_on_a_full_disk_reports_a_fault_and_retries(tmp_path: Path) -> None:
    name = tmp_path / "19700101T000002.000Z_surprise.mcap.partial"
    left = tmp_path / "19700101T000001.000Z_surprise.mcap.partial"
    left.touch()
    with box(tmp_path) as black_box:
        until(lambda: not left.exists())
        name.symlink_to("/dev/full")
        drive(black_box, range(60), {30: BEGUN})
        until(lambda: "No space left" in black_box.fault)
        assert not name.is_symlink(), "the partial bag is removed"
        drive(black_box, range(60, 100), {80: BEGUN})
    assert (black_box.written, black_box.fault) == (1, "")
    assert len(list(tmp_path.glob("*"))) == 1


def test_black_box_any_error_ends_the_bag_and_is_reported(tmp_path: Path) -> None:
    with box(tmp_path) as black_box:
        drive(black_box, range(31), {30: BEGUN})
        black_box.add_frame(replace(frame(31), stream="unknown"))
        drive(black_box, range(32, 60), {})
    assert (black_box.written, black_box.fault) == (0, "KeyError: 'unknown'")
    (bag,) = tmp_path.iterdir()
    assert stamps(bag) == [frame(sequence).stamp_ns for sequence in range(15, 31)]


def test_black_box_add_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: Any) -> None:
    blocked = threading.Event()
    monkeypatch.setattr(BagFolder, "check", lambda self: blocked.wait(10))
    with box(tmp_path) as black_box:
        began = time.monotonic()
        drive(black_box, range(600), {})
        took_s = time.monotonic() - began
        blocked.set()
    assert black_box.dropped > 0 and took_s < 5, "and the excess is counted"


def test_black_box_with_full_queue_keeps_alarms(tmp_path: Path, monkeypatch: Any) -> None:
    blocked = threading.Event()
    monkeypatch.setattr(BagFolder, "check", lambda self: blocked.wait(10))
    with box(tmp_path) as black_box:
        drive(black_box, range(600), {599: BEGUN})
        assert black_box.dropped > 0
        blocked.set()
    assert (black_box.written, black_box.fault) == (1, "")
    (bag,) = tmp_path.iterdir()
    assert by_mcap_ros2(bag)["/world_model/events"].ongoing


def test_black_box_close_does_not_wait_for_a_hanging_disk(tmp_path: Path, monkeypatch: Any) -> None:
    blocked = threading.Event()
    monkeypatch.setattr(BagFolder, "check", lambda self: blocked.wait(30))
    with box(tmp_path) as black_box:
        drive(black_box, range(600), {})
        began = time.monotonic()
        black_box.close(timeout_s=0.1)
        took_s = time.monotonic() - began
        assert "does not respond" in black_box.fault and took_s < 5
        blocked.set()


def test_bag_folder_removes_partial_bags_of_a_power_cut(tmp_path: Path) -> None:
    half = tmp_path / "19700101T000001.000Z_surprise.mcap.partial"
    half.write_text("half")
    (tmp_path / "drive.mcap.partial").write_text("being recorded")
    with box(tmp_path):
        until(lambda: not half.exists())
    assert [path.name for path in tmp_path.iterdir()] == ["drive.mcap.partial"]


def test_boxes_in_one_folder_keep_each_others_partial_bags(tmp_path: Path) -> None:
    with box(tmp_path) as first:
        drive(first, range(31), {30: BEGUN})
        until(lambda: bool(list(tmp_path.glob("*.partial"))))
        with box(tmp_path) as second:
            drive(second, range(60), {30: BEGUN})
            until(lambda: second.written == 1)
        drive(first, range(31, 60), {})
    assert [(black_box.written, black_box.fault) for black_box in (first, second)] == [(1, "")] * 2
    assert {path.suffix for path in tmp_path.iterdir()} == {".mcap"} and len(list(tmp_path.iterdir())) == 2


def test_boxes_in_one_folder_make_room_concurrently(tmp_path: Path) -> None:
    def keep(kind: str) -> None:
        folder = BagFolder(tmp_path, max_bytes=1 << 20, max_bags=2)
        for at in range(40):
            # As a starting node does.
            folder.check()
            folder.complete(folder.begin(at * 10**9, kind))

    with ThreadPoolExecutor() as pool:
        for stored in [pool.submit(keep, kind) for kind in ("surprise", "change", "surprise", "surprise")]:
            stored.result()
    assert len(list(tmp_path.iterdir())) <= 4


def test_bag_folder_deletes_the_oldest(tmp_path: Path) -> None:
    new, middle, old = (f"19700101T00000{at}.000Z_surprise.mcap" for at in (3, 2, 1))
    for age, name in enumerate((new, middle, old)):
        bag = tmp_path / name
        bag.write_bytes(bytes(400))
        os.utime(bag, (1000 - age, 1000 - age))
    (tmp_path / "drive.mcap").write_bytes(bytes(10_000))
    folder = BagFolder(tmp_path, max_bytes=2000, max_bags=10)
    recorder = folder.begin(4 * 10**9, "change")
    assert sorted(path.name for path in tmp_path.glob("*.mcap")) == [middle, new, "drive.mcap"]
    folder.complete(recorder)
    few = BagFolder(tmp_path, max_bytes=1 << 20, max_bags=2)
    few.complete(few.begin(5 * 10**9, "change"))
    next_, last = (f"19700101T00000{at}.000Z_change.mcap" for at in (4, 5))
    assert sorted(path.name for path in tmp_path.glob("*.mcap")) == [next_, last, "drive.mcap"]


def test_bags_from_the_future_are_deleted_first(tmp_path: Path) -> None:
    ahead = [tmp_path / f"20990101T00000{at}.000Z_surprise.mcap" for at in range(4)]
    for at, bag in enumerate(ahead):
        bag.write_bytes(bytes(20_000))
        os.utime(bag, (time.time() + 10**9 + at,) * 2)
    folder = BagFolder(tmp_path, max_bytes=80_000, max_bags=10)
    for at in range(4):
        bag = folder.begin(at * 10**9, "change")
        bag.path.with_name(f"{bag.path.name}.partial").open("ab").write(bytes(20_000))
        folder.complete(bag)
    left = {path.name[:4] for path in tmp_path.iterdir()}
    assert left == {"1970"}, sorted(path.name for path in tmp_path.iterdir())


def test_bag_of_half_the_limit_ends_early(tmp_path: Path) -> None:
    with box(tmp_path, max_bytes=40_000, after_s=60.0) as black_box:
        black_box.add_alarms(result(0, BEGUN))
        for sequence in range(200):
            black_box.add_frame(frame(sequence))
        until(lambda: black_box.written >= 1)
    assert 0 < sum(path.stat().st_size for path in tmp_path.iterdir()) <= 40_000


def test_bag_over_its_limit_has_the_time_before_and_after(tmp_path: Path) -> None:
    rng, most = np.random.default_rng(0), 1 << 20
    noise = rng.integers(0, 256, (120, 160, 160, 3), np.uint8)
    with box(tmp_path, before_s=5.0, after_s=5.0, max_bytes=most) as black_box:
        for sequence, pixels in enumerate(noise):
            black_box.add_frame(replace(frame(sequence), image=pixels))
            if sequence == 59:
                black_box.add_alarms(result(sequence, BEGUN))
    (bag,) = tmp_path.iterdir()
    assert (black_box.written, black_box.fault, black_box.dropped) == (1, "", 0)
    played = stamps(bag)
    before = sum(stamp_ns <= frame(59).stamp_ns for stamp_ns in played)
    assert before == pytest.approx(len(played) / 2, abs=2)
    assert most / 4 < bag.stat().st_size < most * 0.6


def test_bag_larger_than_the_folder_limit_is_kept(tmp_path: Path) -> None:
    newer = tmp_path / "19700101T000001.000Z_surprise.mcap"
    newer.write_bytes(bytes(40))
    os.utime(newer, (time.time() + 1000,) * 2)
    folder = BagFolder(tmp_path, max_bytes=100, max_bags=10)
    folder.complete(folder.begin(2 * 10**9, "change"))
    (bag,) = tmp_path.iterdir()
    assert bag.name == "19700101T000002.000Z_change.mcap" and bag.stat().st_size > 100


@pytest.mark.parametrize("limits", [{"before_s": 0.0}, {"after_s": 0.0}, {"max_bytes": 0}])
def test_black_box_limits_out_of_range_are_an_error(tmp_path: Path, limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"), box(tmp_path, **limits):
        pass


def test_bag_of_the_same_time_gets_a_number(tmp_path: Path) -> None:
    folder = BagFolder(tmp_path, max_bytes=1 << 20, max_bags=5)
    for _ in range(3):
        folder.complete(folder.begin(0, "a"))
    names = [f"19700101T000000.000Z_{name}.mcap" for name in ("a", "a_2", "a_3")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    few = BagFolder(tmp_path, max_bytes=1 << 20, max_bags=1)
    few.complete(few.begin(0, "b"))
    assert [path.name for path in tmp_path.iterdir()] == ["19700101T000000.000Z_b.mcap"]


def test_bag_folder_is_flushed_to_disk(tmp_path: Path, monkeypatch: Any) -> None:
    folder, synced = BagFolder(tmp_path, max_bytes=1 << 20, max_bags=5), []
    recorder = folder.begin(0, "a")
    monkeypatch.setattr(
        "os.fsync",
        lambda file: synced.append((os.readlink(f"/proc/self/fd/{file}"), recorder.path.exists())),
    )
    folder.complete(recorder)
    assert synced == [(str(recorder.partial), False), (str(tmp_path), True)]


def test_bag_that_cannot_be_completed_is_an_error(tmp_path: Path) -> None:
    folder = BagFolder(tmp_path, max_bytes=1 << 20, max_bags=5)
    recorder = folder.begin(0, "a")
    (tmp_path / "19700101T000000.000Z_a.mcap").mkdir()
    with pytest.raises(RecordingError, check=code("recording.file_exists")) as raised:
        folder.complete(recorder)
    assert "_a.mcap" in str(raised.value)
