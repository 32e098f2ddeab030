"""Source of the frames of a video file, decoded by OpenCV."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from jepa_runtime.errors import SourceError
from jepa_runtime.sources.base import Frame, Image, PassiveSource
from jepa_runtime.util.opencv import cv2

# Containers estimate their number of frames from duration and rate; truncation loses more than this.
_COUNT_SLACK = 0.02
_COUNT_SLACK_FRAMES = 3


class VideoSource(PassiveSource):
    """The frames of a video, with the stamps of the file, or at its rate if it has none.

    Args:
        path: The file.
        start_ns: The stamp of the first frame (default: now).

    Raises:
        SourceError: The file is missing, OpenCV cannot decode it, or it has no frames.
    """

    def __init__(self, path: Path, *, start_ns: int | None = None) -> None:
        if not path.is_file():
            raise SourceError(f"{path}: no such file", code="source.not_found")
        try:
            # OpenCV crashes on names that are not UTF-8.
            str(path).encode()
        except UnicodeEncodeError as error:
            raise SourceError(
                f"{path}: its name is not UTF-8, which OpenCV requires: rename it", code="source.name_invalid"
            ) from error
        self.name = str(path)
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise SourceError(
                f"{path}: not a video that OpenCV can open, or truncated before its index",
                code="source.video_unreadable",
            )
        rate_hz = self._capture.get(cv2.CAP_PROP_FPS)
        if not 0 < rate_hz < 1e4:
            self.close()
            raise SourceError(
                f"{path}: no usable frame rate ({rate_hz:g} Hz): encode it again",
                code="source.video_unreadable",
            )
        self.rate_hz: float | None = rate_hz
        self._period_ns = round(1e9 / rate_hz)
        self._expected = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._start_ns = time.time_ns() if start_ns is None else start_ns

    def frames(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            SourceError: No frame can be decoded, or significantly fewer than the file states.
        """
        sequence = elapsed_ns = first_ns = 0
        while True:
            read, image = self._capture.read()
            if not read:
                break
            shown_ns = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            if sequence == 0:
                first_ns = shown_ns
            elif shown_ns - first_ns > elapsed_ns:
                elapsed_ns = shown_ns - first_ns
            else:
                elapsed_ns += self._period_ns
            rgb = cast(Image, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            yield Frame(rgb, self._start_ns + elapsed_ns, Path(self.name).stem, sequence)
            sequence += 1
        if sequence == 0:
            raise SourceError(f"{self.name}: no frame can be decoded", code="source.video_unreadable")
        missing = self._expected - sequence
        if missing > max(_COUNT_SLACK_FRAMES, _COUNT_SLACK * self._expected):
            raise SourceError(
                f"{self.name}: ended after {sequence} of {self._expected} frames: "
                "the file is truncated or damaged",
                code="source.truncated",
            )

    def close(self) -> None:
        """Close the file."""
        self._capture.release()
