"""Whether a video file is complete, by the sizes that its container states."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

_LOG = logging.getLogger(__name__)
# Containers estimate their number of frames from duration and rate; truncation loses more than this.
_COUNT_SLACK = 0.02
_COUNT_SLACK_FRAMES = 3
_HEADER = 16
_BLANK = 1024
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"}


def truncation_reason(
    path: Path, *, announced: int, count: int, elapsed_ns: int, period_ns: int
) -> str | None:
    """Return how a video is found to be truncated or damaged, or None.

    The sizes in the container decide. If it has none, or if the file ends with zeros, both the number of
    frames and the time that they span are compared with what the container announces: the number of frames
    is an estimate if the rate varies.

    Args:
        path: The file.
        announced: The number of frames that the container announces; at most 0 if it announces none.
        count: The number of decoded frames.
        elapsed_ns: The time from the first frame to the last.
        period_ns: The nominal time between two frames.
    """
    try:
        size, cut, blank = path.stat().st_size, is_cut_off(path), _ends_blank(path)
    except OSError as error:
        return f"cannot be read after {count} frames: {error.strerror}"
    covered = max(count, round(elapsed_ns / period_ns) + 1)
    # More frames than bytes: the placeholder of a stream.
    short = covered + max(_COUNT_SLACK_FRAMES, _COUNT_SLACK * announced) < announced <= size
    if cut or (short and (cut is None or blank)):
        return f"ends after {count} frames, truncated or damaged; copy it again, or leave it out"
    if short:
        _LOG.warning(
            "%s: %d frames decoded, %d announced, although the file is complete: frames may be missing",
            path,
            count,
            announced,
        )
    return None


def is_cut_off(path: Path) -> bool | None:
    """Return whether a file is shorter than its container states; None if the container does not state it."""
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        length_of = _container(file.read(_HEADER))
        while length_of is not None and position < size:
            file.seek(position)
            length = length_of(file.read(_HEADER), size - position)
            if length is None:
                return None
            position += length
    return None if length_of is None else position > size


def _ends_blank(path: Path) -> bool:
    """Return whether the end of a file was never written, as after a loss of power."""
    with path.open("rb") as file:
        file.seek(-min(_BLANK, path.stat().st_size), os.SEEK_END)
        return not any(file.read())


def _container(header: bytes) -> Callable[[bytes, int], int | None] | None:
    """Return the function that returns the length of a top-level element, from its header and the rest.

    It returns None for the length of an unfinished recording. Other data may follow the last element.
    """
    if header[:4] == b"RIFF":
        return _riff_length
    if header[:4] == _EBML:
        return _ebml_length
    return _box_length if header[4:8] in _BOXES else None


def _riff_length(header: bytes, rest: int) -> int | None:
    """Return the length of an AVI chunk."""
    if header[:4] != b"RIFF":
        return rest
    length = int.from_bytes(header[4:8], "little")
    return 8 + length if 0 < length < 2**32 - 1 else None


def _ebml_length(header: bytes, rest: int) -> int | None:
    """Return the length of a Matroska or WebM element."""
    width = 9 - header[4].bit_length() if len(header) > 4 else 9
    if header[:4] not in (_EBML, _SEGMENT) or width > 8:
        return rest
    largest = 2 ** (7 * width) - 1
    length = int.from_bytes(header[4 : 4 + width], "big") & largest
    return 4 + width + length if length < largest else None


def _box_length(header: bytes, rest: int) -> int:
    """Return the length of an MP4 or QuickTime box."""
    length = int.from_bytes(header[:4], "big")
    if length == 1:
        length = int.from_bytes(header[8:16], "big")
    return length if length >= 8 and header[4:8].isalnum() else rest
