"""Frames are decoded once, and the stored recording is complete or absent."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jepa_export.data.file_hash import file_hash
from jepa_export.data.frame_store import FrameStore
from jepa_export.data.video_recordings import VideoOrigin
from jepa_export.errors import JepaExportError
from jepa_runtime.imaging.conversion import resize_into
from jepa_runtime.sources.base import Frame
from tests.errors import code
from tests.export.data.recordings import SIZE, Numbered, numbers_of, speeds

MS = 1_000_000
STAMPS = [index * 100 * MS for index in range(12)]


def test_frames_of_a_recording_are_read_in_any_order(store: FrameStore) -> None:
    recording = store.prepare(Numbered(STAMPS))
    assert numbers_of(recording.frames(np.array([11, 0, 3, 3]))) == [11, 0, 3, 3]
    assert recording.stamps_ns.tolist() == STAMPS
    assert recording.rate_hz == pytest.approx(10)
    assert recording.action_names is None and not recording.known.any()


def test_recording_is_decoded_once(store: FrameStore) -> None:
    origin = Numbered(STAMPS)
    store.prepare(origin)
    recording = FrameStore(store.folder, height=SIZE[0], width=SIZE[1]).prepare(origin)
    assert origin.decoded == 12
    assert numbers_of(recording.frames(np.arange(12))) == list(range(12))


def test_other_size_or_content_is_decoded_again(store: FrameStore) -> None:
    origin = Numbered(STAMPS)
    keys = {FrameStore(store.folder, height=height, width=64).prepare(origin).key for height in (48, 32)}
    keys.add(store.prepare(Numbered(STAMPS[:-1])).key)
    assert len(keys) == 3


def test_frames_are_resized_as_in_the_runtime(tmp_path: Path, bikes: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed (extra export)")
    recording = FrameStore(tmp_path, height=96, width=96).prepare(VideoOrigin(bikes))
    image = next(iter(VideoOrigin(bikes).frames())).image
    expected = np.empty((96, 96, 3), np.uint8)
    resize_into(image, expected)
    np.testing.assert_array_equal(recording.frames(np.array([0]))[0], expected)


def test_commands_accompany_the_frames(store: FrameStore) -> None:
    recording = store.prepare(Numbered(STAMPS, speeds([150 * MS, 350 * MS], [1.0, 2.0])))
    assert (recording.action_names, recording.action_units) == (("linear.x",), ("m/s",))
    assert np.flatnonzero(recording.known).tolist() == [2, 3, 4, 5, 6, 7, 8]
    start = np.array([200 * MS, 300 * MS])
    np.testing.assert_allclose(recording.actions(start, start + 100 * MS), [[1.0], [1.5]])


def test_commands_of_another_clock_are_reported(store: FrameStore) -> None:
    with pytest.raises(
        JepaExportError,
        check=code("data.no_actions"),
    ):
        store.prepare(Numbered(STAMPS, speeds([5_000_000 * MS, 5_001_000 * MS], [1.0, 2.0])))


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (Numbered([]), "data.no_frames"),
        (Numbered([0, 2, 1]), "data.stamps"),
        (Numbered([0, 1, 1]), "data.stamps"),
        (Numbered([0, 1], sizes=[(48, 64), (64, 48)]), "data.size_mismatch"),
    ],
)
def test_bad_recording_is_rejected_and_leaves_nothing(
    store: FrameStore, origin: Numbered, expected: str
) -> None:
    with pytest.raises(JepaExportError, check=code(expected)):
        store.prepare(origin)
    assert [path for path in store.folder.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("name", ["frames.rgb", "index.npy"])
def test_partial_recording_after_a_crash_is_decoded_again(store: FrameStore, name: str) -> None:
    origin = Numbered(STAMPS)
    file = store.folder / store.prepare(origin).key / name
    file.write_bytes(file.read_bytes()[:-10])
    assert numbers_of(store.prepare(origin).frames(np.arange(12))) == list(range(12))
    assert origin.decoded == 24


@pytest.mark.parametrize(
    "stamps", [np.int64(1), np.full(12, np.nan), np.zeros((12, 2), np.int64), np.zeros(12, np.int64)]
)
def test_invalid_stamps_are_decoded_again(store: FrameStore, stamps: np.ndarray) -> None:
    origin = Numbered(STAMPS)
    np.save(store.folder / store.prepare(origin).key / "index.npy", stamps)
    np.testing.assert_array_equal(store.prepare(origin).stamps_ns, STAMPS)


def test_file_that_shrinks_while_mapped_is_an_error_and_no_crash(store: FrameStore) -> None:
    recording = store.prepare(Numbered(STAMPS))
    os.truncate(store.folder / recording.key / "frames.rgb", 100)
    with pytest.raises(JepaExportError, check=code("data.store_damaged")):
        recording.frames(np.array([0]))


def test_full_disk_is_reported_and_leaves_nothing(store: FrameStore) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(JepaExportError, check=code("data.store_unavailable")):
            store.prepare(Numbered(STAMPS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path for path in store.folder.iterdir() if path.suffix != ".lock"] == []


def test_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JepaExportError, check=code("data.store_unavailable")):
        FrameStore(tmp_path / "file" / "cache", height=8, width=8)


@pytest.mark.parametrize(("height", "width"), [(0, 8), (8, 0)])
def test_frames_without_pixels_are_rejected(tmp_path: Path, height: int, width: int) -> None:
    with pytest.raises(JepaExportError, check=code("data.frame_size")):
        FrameStore(tmp_path, height=height, width=width)


def test_hash_of_a_file_or_folder_follows_its_content(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    (folder / "a").write_bytes(b"one")
    first, whole = file_hash(folder / "a"), file_hash(folder)
    (folder / "b").write_bytes(b"one")
    assert file_hash(folder / "b") == first
    assert file_hash(folder) != whole
    (folder / "a").write_bytes(b"another")
    assert file_hash(folder / "a") != first
    with pytest.raises(JepaExportError, check=code("data.unreadable")):
        file_hash(tmp_path / "missing")


class Dying(Numbered):
    """Kill the process while decoding."""

    def frames(self) -> Iterator[Frame]:
        for index, frame in enumerate(super().frames()):
            if index == 6:
                os._exit(9)
            yield frame


def test_killed_decoding_leaves_nothing_that_looks_complete(store: FrameStore) -> None:
    process = multiprocessing.get_context("fork").Process(target=store.prepare, args=(Dying(STAMPS),))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert list(store.folder.glob("*.partial"))
    assert numbers_of(store.prepare(Numbered(STAMPS)).frames(np.arange(12))) == list(range(12))
    assert not list(store.folder.glob("*.partial"))


def test_concurrent_preparation_decodes_once(store: FrameStore) -> None:
    origin = Numbered(STAMPS)
    with ThreadPoolExecutor(4) as pool:
        recordings = list(pool.map(store.prepare, [origin] * 4))
    assert origin.decoded == 12
    assert len({recording.key for recording in recordings}) == 1
