"""Whether a video file is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_runtime.sources.video_container import is_cut_off, truncation_reason

EBML = b"\x1a\x45\xdf\xa3\x82ab"
SEGMENT = b"\x18\x53\x80\x67"


@pytest.mark.parametrize(
    ("content", "cut"),
    [
        (b"RIFF\x06\0\0\0AVI ab", False),
        (b"RIFF\x06\0\0\0AVI a", True),
        (b"RIFF\x06\0\0\0AVI abRIFF\x06\0\0\0AVIXa", True),
        (b"RIFF\x06\0\0\0AVI ab\0\0\0\0", False),
        (b"RIFF\0\0\0\0AVI ab", None),
        (EBML + SEGMENT + b"\x84abcd", False),
        (EBML + SEGMENT + b"\x84abc", True),
        (EBML + SEGMENT + b"\x01\0\0\0\0\0\0\x04abcd", False),
        (EBML + SEGMENT + b"\x01\0\0\0\0\0\0\x05abcd", True),
        (EBML + SEGMENT + b"\x01" + b"\xff" * 7 + b"abcd", None),
        (EBML + SEGMENT, False),
        (b"\0\0\0\x0cftypmp42\0\0\0\x0amdatab", False),
        (b"\0\0\0\x0cftypmp42\0\0\0\x0bmdatab", True),
        (b"\0\0\0\x0cftypmp42\0\0\0\x01mdat\0\0\0\0\0\0\0\x12ab", False),
        (b"\0\0\0\x0cftypmp42\0\0\0\x01mdat\0\0\0\0\0\0\0\x13ab", True),
        (b"\0\0\0\x0cftypmp42\0\0\0\0mdatab", False),
        (b"\0\0\0\x0cftypmp42" + b"\0" * 40, False),
        (b"\x47abcdefgh", None),
        (b"", None),
    ],
)
def test_file_shorter_than_its_container_states_is_cut_off(
    tmp_path: Path, content: bytes, cut: bool | None
) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert is_cut_off(path) is cut


@pytest.mark.parametrize(
    ("announced", "count", "elapsed", "truncated"),
    [
        (9, 6, 5, False),
        (9, 5, 4, True),
        (500, 490, 489, False),
        (500, 489, 488, True),
        # The rate varies: the frames span the announced time.
        (444, 68, 442, False),
        (0, 5, 4, False),
        (-1000, 5, 4, False),
        (2**30, 5, 4, False),
    ],
)
def test_video_without_sizes_may_lack_three_frames_or_two_percent(
    tmp_path: Path, announced: int, count: int, elapsed: int, truncated: bool
) -> None:
    path = tmp_path / "a.ts"
    path.write_bytes(b"\x47" * 1000)
    reason = truncation_reason(path, announced=announced, count=count, elapsed_ns=elapsed * 10, period_ns=10)
    assert (reason is not None) == truncated


@pytest.mark.parametrize(("count", "truncated"), [(500, False), (300, True)])
def test_video_whose_end_was_never_written_is_truncated(tmp_path: Path, count: int, truncated: bool) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0\0\0\x0cftypmp42\0\0\x10\0mdat" + bytes(4088))
    reason = truncation_reason(path, announced=500, count=count, elapsed_ns=10 * count, period_ns=10)
    assert (reason is not None) == truncated


def test_file_that_disappeared_is_reported(tmp_path: Path) -> None:
    reason = truncation_reason(tmp_path / "a.mp4", announced=9, count=9, elapsed_ns=80, period_ns=10)
    assert reason is not None and "after 9 frames" in reason


def test_missing_frames_in_a_complete_file_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(b"RIFF\x06\0\0\0AVI ab")
    assert truncation_reason(path, announced=9, count=5, elapsed_ns=40, period_ns=10) is None
    assert "5 frames decoded, 9 announced" in caplog.text
