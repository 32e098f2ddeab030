"""Video files: real ones in many formats, complete and damaged."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from jepa_export.data.frame_store import FrameStore
from jepa_export.data.video_recordings import VideoOrigin, decoded, stretch_hash
from jepa_export.errors import JepaExportError
from tests.errors import code
from tests.export.data.recordings import numbers_of, write_video

pytest.importorskip("av", reason="PyAV is not installed (extra export)")


def test_real_video_is_read_to_its_end_with_its_stamps(bikes: Path) -> None:
    frames = list(VideoOrigin(bikes).frames())
    assert len(frames) == 250
    assert [frame.stamp_ns for frame in frames] == [index * 40_000_000 for index in range(250)]
    assert frames[0].image.shape == (272, 640, 3)
    assert frames[0].image.dtype == np.uint8


def test_frames_equal_those_decoded_by_opencv(carphone: Path) -> None:
    capture = cv2.VideoCapture(str(carphone))
    count = 0
    for image in (frame.image for frame in VideoOrigin(carphone).frames()):
        expected = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
        assert np.abs(image.astype(int) - expected).mean() < 1.0
        count += 1
    assert count == 120
    assert not capture.read()[0]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mp4", "libsvtav1"),
        ("a.avi", "mjpeg"),
        ("a.avi", "libx264"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx-vp9"),
    ],
)
def test_many_video_formats_are_read(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, range(20), codec=codec)
    frames = list(VideoOrigin(path).frames())
    assert numbers_of([frame.image for frame in frames]) == list(range(20))
    assert [frame.stamp_ns for frame in frames] == [index * 100_000_000 for index in range(20)]


def test_irregular_frames_keep_their_stamps(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", range(5), stamps_ms=[30, 130, 180, 430, 450])
    assert [frame.stamp_ns // 1_000_000 for frame in VideoOrigin(path).frames()] == [0, 100, 150, 400, 420]


def test_video_that_changes_its_size_is_rejected(tmp_path: Path, store: FrameStore) -> None:
    small = write_video(tmp_path / "a.ts", range(5))
    large = write_video(tmp_path / "b.ts", range(5), size=(96, 128))
    small.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(JepaExportError, check=code("data.size_mismatch")):
        store.prepare(VideoOrigin(small))


def test_metadata_in_another_encoding_is_harmless(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", range(5))
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"L\xe4vf"))
    assert numbers_of([frame.image for frame in VideoOrigin(path).frames()]) == list(range(5))
    assert stretch_hash(path, 0, 1)


@pytest.mark.parametrize("start", [1, 7, 8, 19])
@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_video_is_read_from_any_frame(tmp_path: Path, start: int, codec: str) -> None:
    path = write_video(tmp_path / "a.mp4", range(20), codec=codec)
    # Stamps in tables are rounded to float32.
    images = [image for _, image in decoded(path, start_s=float(np.float32(start / 10)))]
    assert numbers_of(images) == list(range(start, 20))


def test_rotated_video_is_turned_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [5, 5])
    lying = next(iter(VideoOrigin(path).frames())).image
    content = path.read_bytes()
    one, zero = (0x10000).to_bytes(4), bytes(4)
    header = content.index(b"tkhd")
    place = content.index(one + zero * 3 + one, header)
    turned = zero + one + zero + (-0x10000).to_bytes(4, signed=True) + zero * 2
    path.write_bytes(content[:place] + turned + content[place + len(turned) :])
    upright = next(iter(VideoOrigin(path).frames())).image
    expected = cv2.cvtColor(cv2.VideoCapture(str(path)).read()[1], cv2.COLOR_BGR2RGB)
    assert upright.shape == expected.shape == (64, 48, 3)
    assert np.abs(upright.astype(int) - expected).mean() < 3.0
    assert np.abs(upright.astype(int) - np.rot90(lying, -1)).mean() < 3.0


@pytest.mark.parametrize("name", ["a.avi", "a.mkv"])
def test_truncated_video_is_rejected(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, range(100), codec="mjpeg")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    stamps: list[int] = []
    with pytest.raises(JepaExportError, match=name) as error:
        stamps.extend(frame.stamp_ns for frame in VideoOrigin(path).frames())
    assert error.value.code in ("data.video_damaged", "data.video_truncated")
    assert 30 < len(stamps) < 70
    assert all(later > earlier for earlier, later in pairwise(stamps))


def test_video_with_concealed_decoding_errors_is_rejected(tmp_path: Path, bikes: Path) -> None:
    import av

    with av.open(str(bikes)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.is_keyframe][3]
    content = bytearray(bikes.read_bytes())
    middle, end = packet.pos + packet.size // 2, packet.pos + packet.size
    content[middle:end] = bytes(end - middle)
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(JepaExportError, match="after 137 frames", check=code("data.video_damaged")):
        list(VideoOrigin(path).frames())


@pytest.mark.parametrize("content", [b"", b"this is not a video\n" * 100])
def test_file_that_is_no_video_is_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(JepaExportError, check=code("data.video_damaged")):
        list(VideoOrigin(path).frames())


def test_mp4_without_an_index_is_rejected(tmp_path: Path, bikes: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(bikes.read_bytes()[:2000])
    with pytest.raises(JepaExportError, check=code("data.video_damaged")):
        list(VideoOrigin(path).frames())


def test_data_after_the_end_is_ignored(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", range(5))
    with pytest.raises(JepaExportError, check=code("data.no_frames")):
        list(decoded(path, start_s=9.0))


def test_audio_without_video_is_rejected(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", 8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(JepaExportError, check=code("data.not_a_video")):
        list(VideoOrigin(path).frames())
