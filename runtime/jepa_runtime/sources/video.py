"""A video file, decoded by OpenCV."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from jepa_runtime.errors import SourceError
from jepa_runtime.sources.base import Frame, Image, PassiveSource
from jepa_runtime.util.opencv import cv2

# Containers estimate their number of frames from duration and rate; a real truncation loses more than this.
_COUNT_SLACK = 0.02
_COUNT_SLACK_FRAMES = 3


class VideoSource(PassiveSource):
    """Frames of a video, stamped as in the file, or at its rate where it has no stamps, from ``start_ns`` on
    (default: now, as if recorded live).

    Raises:
        SourceError: the file is missing, is not a video that OpenCV can decode, or has no frames.
    """

    def __init__(self, path: Path, *, start_ns: int | None = None) -> None:
        if not path.is_file():
            raise SourceError(f"{path}: no such file")
        try:
            # OpenCV would crash on another name.
            str(path).encode()
        except UnicodeEncodeError as error:
            raise SourceError(f"{path}: its name is not UTF-8, as OpenCV needs it: rename it") from error
        self.name = str(path)
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise SourceError(f"{path}: not a video that OpenCV can open, or cut off before its index")
        rate_hz = self._capture.get(cv2.CAP_PROP_FPS)
        if not 0 < rate_hz < 1e4:
            self.close()
            raise SourceError(f"{path}: the file gives no usable frame rate ({rate_hz:g}); re-encode it")
        self.rate_hz: float | None = rate_hz
        self._period_ns = round(1e9 / rate_hz)
        self._announced = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._start_ns = time.time_ns() if start_ns is None else start_ns

    def frames(self) -> Iterator[Frame]:
        """The frames.

        Raises:
            SourceError: no frame could be decoded, or clearly fewer than the file announces.
        """
        sequence = passed_ns = first_ns = 0
        while True:
            read, image = self._capture.read()
            if not read:
                break
            shown_ns = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            if sequence == 0:
                first_ns = shown_ns
            elif shown_ns - first_ns > passed_ns:
                passed_ns = shown_ns - first_ns
            else:
                passed_ns += self._period_ns
            rgb = cast(Image, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            yield Frame(rgb, self._start_ns + passed_ns, Path(self.name).stem, sequence)
            sequence += 1
        if sequence == 0:
            raise SourceError(f"{self.name}: not one frame could be decoded")
        missing = self._announced - sequence
        if missing > max(_COUNT_SLACK_FRAMES, _COUNT_SLACK * self._announced):
            raise SourceError(
                f"{self.name}: ended after {sequence} of {self._announced} frames: "
                "the file is cut off or damaged"
            )

    def close(self) -> None:
        """Close the file."""
        self._capture.release()
