"""From the data that a user names to recordings, and which of them are held out."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_export.data import open_data as open_data_module
from jepa_export.data.clip_windows import Windows
from jepa_export.data.drawn_rooms import SimulatedRecording
from jepa_export.data.frame_store import FrameStore
from jepa_export.data.open_data import open_data, split
from jepa_export.data.recording import Recording
from jepa_export.data.video_recordings import VideoOrigin
from jepa_export.errors import JepaExportError
from jepa_runtime.errors import SourceError
from jepa_runtime.sources.base import Frame
from tests.errors import code
from tests.export.data.recordings import Numbered, write_lerobot, write_video
from tests.runtime.bags import image, twist, write_bag

pytest.importorskip("av", reason="PyAV is not installed (extra export)")
S = 1_000_000_000


def names(recordings: tuple[object, ...]) -> list[str]:
    return [Path(recording.name).name for recording in recordings]  # type: ignore[attr-defined]


def test_videos_in_a_folder_become_clips(tmp_path: Path, bikes: Path, carphone: Path) -> None:
    for video, below in ((bikes, "a"), (carphone, "b/c")):
        (tmp_path / "films" / below).mkdir(parents=True)
        shutil.copy(video, tmp_path / "films" / below)
    messages: list[str] = []
    store = FrameStore(tmp_path / "cache", height=64, width=64)
    data = open_data([str(tmp_path / "films")], store, held_out=0, progress=messages.append)
    assert names(data.train) == ["bikes.mp4", "carphone_pristine.mp4"]
    assert [text.split(":")[0] for text in messages] == ["recording 1 of 2", "recording 2 of 2"]
    windows = Windows(data.train, frames=4, rate_hz=5.0)
    assert len(windows.recordings[0].stamps_ns) == 250
    clip = windows[0]
    assert clip.frames.shape == (4, 64, 64, 3) and clip.actions is None
    assert np.abs(np.diff(clip.stamps_ns) - 0.2e9).max() <= 0.04e9


def test_folder_is_searched_for_videos_and_bags_only(tmp_path: Path, store: FrameStore) -> None:
    write_video(tmp_path / "data/b/film.MKV", range(3))
    write_video(tmp_path / "data/.hidden/film.mp4", range(3))
    write_bag(tmp_path / "data/a.mcap", [image(S), image(S + 1)])
    (tmp_path / "data/notes.txt").write_text("hello")
    data = open_data([str(tmp_path / "data")], store, held_out=0)
    assert names(data.train) == ["a.mcap", "film.MKV"]


def test_video_reached_again_through_links_is_used_once(tmp_path: Path, store: FrameStore) -> None:
    video = write_video(tmp_path / "data/film.mp4", range(3))
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/same.mp4").symlink_to(video)
    (tmp_path / "data/itself").symlink_to(tmp_path / "data/itself")
    data = open_data([str(tmp_path / "data")], store, held_out=0)
    assert names(data.train) == ["film.mp4"]


def test_lerobot_data_set_among_videos_is_not_read_as_videos(tmp_path: Path, store: FrameStore) -> None:
    write_video(tmp_path / "data/film.mp4", range(3))
    folder = write_lerobot(tmp_path / "data/set", [3, 4], version="v3.0")
    with pytest.raises(JepaExportError, check=code("data.nested_data_set")) as error:
        open_data([str(tmp_path / "data")], store, held_out=0)
    assert str(folder) in str(error.value)


def test_interrupt_does_not_wait_for_the_current_videos(
    tmp_path: Path, store: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "films" / name, range(2))
    long, started = Numbered([S * stamp for stamp in range(10_000)]), Event()

    def frames(origin: VideoOrigin) -> Iterator[Frame]:
        for frame in long.frames() if origin.name.endswith("b.mp4") else iter(()):
            started.set()
            yield frame

    def stop(_: object) -> Recording:
        started.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoOrigin, "frames", frames)
    monkeypatch.setattr(VideoOrigin, "frames_key", lambda origin: origin.name)
    monkeypatch.setattr(
        VideoOrigin, "commands", lambda origin: stop(origin) if "a.mp4" in origin.name else None
    )
    with pytest.raises(KeyboardInterrupt):
        open_data([str(tmp_path / "films")], store, workers=2)
    assert 0 < long.decoded < 10_000
    assert [path.suffix for path in store.folder.iterdir()] == [".lock"]


def test_several_kinds_of_data_are_combined(tmp_path: Path, store: FrameStore) -> None:
    video = write_video(tmp_path / "film.mp4", range(3))
    bag = write_bag(tmp_path / "a.mcap", [image(S), image(S + 100), twist(S, 1.0)])
    data = open_data([str(video), str(bag), "two_rooms?trajectories=2&frames=3"], store, held_out=0)
    assert len(data.train) == 4


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("missing", "data.not_found"),
        ("{empty}", "data.not_found"),
        ("{film}?topic=/a", None),
        ("{film}?topic", None),
        ("two_rooms?frames=0", "export.invalid_option"),
        ("two_rooms?seed=x", "export.invalid_option"),
        ("two_rooms?frames=²", "export.invalid_option"),
        ("two_rooms?layout=round", "export.invalid_option"),
        ("two_rooms?episodes=3", None),
    ],
)
def test_invalid_source_is_answered_with_the_possible_ones(
    tmp_path: Path, store: FrameStore, spec: str, expected: str | None
) -> None:
    (tmp_path / "empty").mkdir()
    video = write_video(tmp_path / "film.mp4", range(3))
    with pytest.raises((JepaExportError, SourceError)) as error:
        open_data([spec.format(empty=tmp_path / "empty", film=video)], store, held_out=0)
    assert isinstance(error.value, SourceError) if expected is None else error.value.code == expected


def test_bad_recording_is_an_error_unless_it_may_be_skipped(
    tmp_path: Path, store: FrameStore, caplog: pytest.LogCaptureFixture
) -> None:
    write_video(tmp_path / "data/good.mp4", range(3))
    (tmp_path / "data/bad.mp4").write_bytes(b"nothing")
    (tmp_path / "data/cut.mcap").write_bytes(b"nothing")
    with pytest.raises(JepaExportError, check=code("data.unusable_recordings")) as error:
        open_data([str(tmp_path / "data")], store, held_out=0)
    assert "bad.mp4" in str(error.value) and "cut.mcap" in str(error.value)
    data = open_data([str(tmp_path / "data")], store, held_out=0, skip_bad=True)
    assert names(data.train) == ["good.mp4"]
    assert len(data.skipped) == 2
    assert caplog.text.count("skipped recording: ") == 2


def test_single_bad_recording_is_reported_with_its_own_code(tmp_path: Path, store: FrameStore) -> None:
    write_video(tmp_path / "data/good.mp4", range(3))
    (tmp_path / "data/bad.mp4").write_bytes(b"nothing")
    with pytest.raises(JepaExportError, check=code("data.video_damaged")):
        open_data([str(tmp_path / "data")], store, held_out=0)


def test_named_file_is_read_as_a_video_whatever_its_suffix(tmp_path: Path, store: FrameStore) -> None:
    path = write_video(tmp_path / "film.mp4", range(3)).rename(tmp_path / "film.dat")
    assert names(open_data([str(path)], store, held_out=0).train) == ["film.dat"]


def test_long_recording_reports_its_progress(
    tmp_path: Path, store: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_data_module, "_READING_INTERVAL_S", 0.0)
    path = write_video(tmp_path / "film.mp4", range(3))
    messages: list[str] = []
    open_data([str(path)], store, held_out=0, progress=messages.append)
    assert messages[-2:] == [f"{path}: 2 frames read", f"recording 1 of 1: {path}"]


def test_full_disk_does_not_count_as_a_bad_recording(tmp_path: Path, store: FrameStore) -> None:
    write_video(tmp_path / "data/a.mp4", range(3))
    write_video(tmp_path / "data/b.mp4", range(30))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(JepaExportError, check=code("data.store_unavailable")):
            open_data([str(tmp_path / "data")], store, held_out=0, skip_bad=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_only_bad_recordings_are_an_error_even_if_they_may_be_skipped(
    tmp_path: Path, store: FrameStore
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with pytest.raises(JepaExportError, check=code("data.no_recordings")):
        open_data([str(tmp_path / "bad.mp4")], store, skip_bad=True)


# ------------------------------------------------------------------ split


def drawn(*indices: int) -> list[SimulatedRecording]:
    return [SimulatedRecording(0, index, frames=2, layout="fixed", height=8, width=8) for index in indices]


@given(st.sets(st.integers(0, 500), min_size=2, max_size=60), st.floats(0.01, 0.9))
def test_split_assigns_each_recording_to_one_side_and_leaves_neither_empty(
    indices: set[int], proportion: float
) -> None:
    recordings = drawn(*sorted(indices))
    train, held = split(recordings, proportion)
    assert train and held
    assert sorted((*train, *held), key=id) == sorted(recordings, key=id)


def test_split_of_a_recording_is_stable_when_others_are_added() -> None:
    few, more = split(drawn(*range(100)), 0.2), split(drawn(*range(200)), 0.2)
    for before, after in zip(few, more, strict=True):
        assert {recording.name for recording in before} <= {recording.name for recording in after}
    assert 20 <= len(more[1]) <= 60


def test_split_puts_copies_of_a_recording_on_the_same_side() -> None:
    train, held = split([*drawn(*range(30)), *drawn(*range(30))], 0.3)
    assert not {recording.identity for recording in train} & {recording.identity for recording in held}


def test_split_can_hold_out_nothing() -> None:
    train, held = split(drawn(0), 0.0)
    assert (len(train), held) == (1, ())


def test_split_of_a_single_recording_is_rejected() -> None:
    with pytest.raises(JepaExportError, check=code("data.too_few_recordings")):
        split(drawn(0, 0), 0.1)


@pytest.mark.parametrize("proportion", [-0.1, 1.0, float("nan")])
def test_split_with_an_invalid_proportion_is_rejected(proportion: float) -> None:
    with pytest.raises(JepaExportError, check=code("export.invalid_option")):
        split(drawn(0, 1), proportion)
