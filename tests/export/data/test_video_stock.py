"""Videos of many kinds: ``run`` and ``distill`` read the same frames, with the same stamps and verdicts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from jepa_export.data.frame_store import FrameStore
from jepa_export.data.video_recordings import VideoOrigin
from jepa_export.errors import JepaExportError
from jepa_runtime.errors import SourceError
from jepa_runtime.sources.base import Frame
from jepa_runtime.sources.video import VideoSource
from tests.errors import code
from tests.videos import PATTERN, UNEVEN, UNEVEN_S, ffmpeg, packaged

pytest.importorskip("av", reason="PyAV is not installed (extra export)")
EVEN_S = [n / 25 for n in range(50)]
B_FRAMES = ("-bf", "3", "-b_strategy", "0")
AUDIO = ("-f", "lavfi", "-i", "sine=duration=5")
H264, MPEG4, MJPEG = ("-c:v", "libx264"), ("-c:v", "mpeg4"), ("-c:v", "mjpeg")
STOCK: dict[str, tuple[tuple[str, ...], list[float]]] = {
    "b_frames.mp4": ((*PATTERN, *H264, *B_FRAMES), EVEN_S),
    "b_frames.avi": ((*PATTERN, *H264, *B_FRAMES), EVEN_S),
    "b_frames.ts": ((*PATTERN, *H264, *B_FRAMES), EVEN_S),
    "b_frames_mpeg4.avi": ((*PATTERN, *MPEG4, "-bf", "2"), EVEN_S),
    "b_frames.mpg": ((*PATTERN, "-c:v", "mpeg2video", "-bf", "2"), EVEN_S),
    "fragmented.mp4": ((*PATTERN, *H264, "-movflags", "frag_keyframe+empty_moov"), EVEN_S),
    "uneven.mp4": ((*PATTERN, *UNEVEN, *H264), UNEVEN_S),
    "uneven.mov": ((*PATTERN, *UNEVEN, *H264), UNEVEN_S),
    "uneven.mkv": ((*PATTERN, *UNEVEN, *H264), UNEVEN_S),
    "uneven.avi": ((*PATTERN, *UNEVEN, *MJPEG), UNEVEN_S),
    "uneven.webm": ((*PATTERN, *UNEVEN, "-c:v", "libvpx-vp9", "-cpu-used", "8"), UNEVEN_S),
    "uneven.ts": ((*PATTERN, *UNEVEN, *H264), UNEVEN_S),
    "ten_bits.mp4": ((*PATTERN, *H264, "-pix_fmt", "yuv420p10le"), EVEN_S),
    "ten_bits.mkv": ((*PATTERN, "-c:v", "libx265", "-pix_fmt", "yuv420p10le"), EVEN_S),
    "odd_size.mp4": ((*PATTERN, "-vf", "crop=95:63:exact=1", *H264, "-pix_fmt", "yuv444p"), EVEN_S),
    "odd_size.avi": ((*PATTERN, "-vf", "crop=95:63:exact=1", *MJPEG, "-pix_fmt", "yuvj444p"), EVEN_S),
    "gray.mkv": ((*PATTERN, "-c:v", "ffv1", "-pix_fmt", "gray"), EVEN_S),
    "audio_first.mp4": ((*PATTERN, *AUDIO, "-map", "1", "-map", "0", *H264), EVEN_S),
    "longer_audio.mkv": ((*PATTERN, *AUDIO, *H264), EVEN_S),
    "longer_audio.avi": ((*PATTERN, *AUDIO, *MJPEG), EVEN_S),
    "late_start.mkv": ((*PATTERN, *H264, "-output_ts_offset", "100"), EVEN_S),
    "no_stamps.h264": ((*PATTERN, *H264), EVEN_S),
    "motion.mjpeg": ((*PATTERN, *MJPEG), EVEN_S),
}


def read_twice(path: Path) -> list[Frame]:
    """Return the frames of a video, after checking that both decoders yield the same."""
    frames = list(VideoSource(path, start_ns=0).frames())
    decoded = list(VideoOrigin(path).frames())
    assert [f.stamp_ns for f in decoded] == pytest.approx([f.stamp_ns for f in frames], abs=1e6)
    assert [f.frame_id for f in decoded] == [f.frame_id.removeprefix(path.stem) for f in frames]
    for one, other in zip(frames[::10], decoded[::10], strict=True):
        assert one.image.shape == other.image.shape
        assert np.abs(one.image.astype(int) - other.image).mean() < 6
    assert all(earlier.stamp_ns < later.stamp_ns for earlier, later in pairwise(frames))
    return frames


@pytest.mark.parametrize("name", STOCK)
def test_video_is_read_with_its_times(tmp_path: Path, name: str) -> None:
    options, expected_s = STOCK[name]
    frames = read_twice(ffmpeg(tmp_path / name, *options))
    # ffmpeg drops the last frame of some files with a varying rate.
    assert len(frames) >= len(expected_s) - 1
    found_s = [frame.stamp_ns / 1e9 for frame in frames]
    # The encoder rounds times to its frame rate; with audio, some AVI files begin with an empty frame.
    assert found_s == pytest.approx(expected_s[: len(found_s)], abs=0.041)


def test_video_without_a_rate_is_read_with_its_times(tmp_path: Path) -> None:
    times = ("-vf", "settb=1/1000,setpts=20*N+N*N/4", "-fps_mode", "passthrough", "-enc_time_base", "1/1000")
    # A browser's recording: a stream, without the number of frames and their rate.
    stream = ("-c:v", "libvpx", "-f", "webm", "-live", "1")
    path = ffmpeg(tmp_path / "a.webm", *PATTERN, *times, *stream)
    assert VideoSource(path).rate_hz is None
    expected_ms = [20 * n + n * n / 4 for n in range(50)]
    assert [frame.stamp_ns / 1e6 for frame in read_twice(path)] == pytest.approx(expected_ms, abs=1.1)


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotated_video_is_read_upright(tmp_path: Path, angle: int) -> None:
    upright = ffmpeg(tmp_path / "upright.mp4", *PATTERN, *H264)
    rotated = ffmpeg(tmp_path / "a.mp4", "-display_rotation", str(angle), "-i", str(upright), "-c", "copy")
    shown = read_twice(rotated)[0].image
    expected = np.rot90(read_twice(upright)[0].image, angle // 90)
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 6


def test_video_trimmed_without_encoding_is_read(tmp_path: Path) -> None:
    whole = ffmpeg(tmp_path / "whole.mp4", *PATTERN, *H264)
    trimmed = ffmpeg(tmp_path / "a.mp4", "-ss", "0.5", "-i", str(whole), "-c", "copy")
    assert 36 <= len(read_twice(trimmed)) <= 38


def test_stamps_in_the_order_of_decoding_are_sorted(tmp_path: Path) -> None:
    source = ffmpeg(tmp_path / "source.mp4", *PATTERN, *H264, *B_FRAMES)
    stamps = "setts=ts=DTS-STARTDTS"  # codespell:ignore setts
    path = ffmpeg(tmp_path / "a.mp4", "-i", str(source), "-c", "copy", "-bsf:v", stamps)
    found_s = [frame.stamp_ns / 1e9 for frame in read_twice(path)]
    assert np.diff(found_s) == pytest.approx(0.04, abs=0.001)


def test_concatenated_videos_are_two_episodes(tmp_path: Path, store: FrameStore) -> None:
    path = ffmpeg(tmp_path / "a.ts", *PATTERN, *H264, *B_FRAMES)
    path.write_bytes(path.read_bytes() * 2)
    frames = read_twice(path)
    assert [frame.frame_id for frame in frames] == ["a"] * 50 + ["a#2"] * 50
    assert np.diff([frame.stamp_ns for frame in frames]) == pytest.approx(40e6, abs=1e6)
    assert store.prepare(VideoOrigin(path)).episodes.tolist() == [0] * 50 + [1] * 50


@pytest.mark.parametrize(
    "name", ["b_frames.avi", "uneven.mkv", "uneven.avi", "uneven.webm", "fragmented.mp4", "longer_audio.mkv"]
)
def test_truncated_video_is_reported(tmp_path: Path, name: str) -> None:
    path = ffmpeg(tmp_path / name, *STOCK[name][0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(SourceError, check=code("source.truncated")):
        list(VideoSource(path).frames())
    with pytest.raises(JepaExportError) as error:
        list(VideoOrigin(path).frames())
    assert error.value.code in ("data.video_truncated", "data.video_damaged")


@pytest.mark.parametrize(
    ("package", "name", "count", "duration_s"),
    [
        # B-frames in AVI; scrambled stamps; a varying rate.
        ("opencv-doc", "Megamind.avi", 270, 11.22),
        ("opencv-doc", "Megamind_bugy.avi", 270, 8.97),
        ("opencv-doc", "box.mp4", 455, 15.15),
        ("opencv-doc", "cup.mp4", 217, 8.07),
        ("opencv-doc", "tree.avi", 68, 29.53),
        # A phone, and clips with audio.
        ("forensics-samples-files", "VID_20191220_170832.mp4", 41, 1.48),
        ("forensics-samples-files", "movie-hello.avi", 208, 8.32),
        ("forensics-samples-files", "movie-hello.mp4", 249, 8.27),
        ("forensics-samples-files", "movie-hello.mpeg", 249, 8.27),
    ],
)
def test_real_video_is_read(tmp_path: Path, package: str, name: str, count: int, duration_s: float) -> None:
    frames = read_twice(packaged(package, name, tmp_path))
    assert len(frames) == count
    assert frames[-1].stamp_ns / 1e9 == pytest.approx(duration_s, abs=0.01)
