"""Source of the frames of a video file, decoded by OpenCV."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from jepa_runtime.errors import SourceError
from jepa_runtime.sources.base import Frame, Image, PassiveSource
from jepa_runtime.sources.video_container import truncation_reason
from jepa_runtime.sources.video_timing import timed_frames
from jepa_runtime.util.opencv import cv2

_DEFAULT_RATE_HZ = 30.0
_UNIT_HZ = 1000


class VideoSource(PassiveSource):
    """The frames of a video, with the stamps of the file, or at its rate if it has none.

    Args:
        path: The file.
        start_ns: The stamp of the first frame (default: now).

    Attributes:
        rate_hz: The mean rate; None if the file has none.

    Raises:
        SourceError: The file is missing, or OpenCV cannot open it.
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
        # Without a rate in the file, OpenCV reports its unit of time, 1 ms.
        self.rate_hz: float | None = rate_hz if 0 < rate_hz < _UNIT_HZ else None
        self._period_ns = round(1e9 / (self.rate_hz or _DEFAULT_RATE_HZ))
        self._announced = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._start_ns = time.time_ns() if start_ns is None else start_ns

    def frames(self) -> Iterator[Frame]:
        """Yield the frames, see :func:`~jepa_runtime.sources.video_timing.timed_frames`.

        Raises:
            SourceError: No frame can be decoded, or the file is truncated.
        """
        path, frame = Path(self.name), None
        for frame in timed_frames(
            self._decoded(), period_ns=self._period_ns, start_ns=self._start_ns, frame_id=path.stem
        ):
            yield frame
        if frame is None:
            tag = int(self._capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
            codec = tag.to_bytes(4, "little").decode("latin-1")
            raise SourceError(
                f"{self.name}: no frame can be decoded: it is damaged, or OpenCV lacks the codec {codec!r}: "
                "encode it again, for example with ffmpeg -i FILE -c:v libx264 NEW.mp4",
                code="source.video_unreadable",
            )
        reason = truncation_reason(
            path,
            announced=self._announced,
            count=frame.sequence + 1,
            elapsed_ns=frame.stamp_ns - self._start_ns,
            period_ns=self._period_ns,
        )
        if reason is not None:
            raise SourceError(f"{self.name}: {reason}", code="source.truncated")

    def _decoded(self) -> Iterator[tuple[int | None, Image]]:
        """Yield the stamp in the file, or None, and the image of each frame."""
        held: tuple[int, Image] | None = None
        newest_ns: float = math.inf
        while True:
            read, image = self._capture.read()
            stamp_ns = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6) if read else 0
            if held is not None:
                # OpenCV reports 0 for a missing stamp. Only in a file that starts again do others follow.
                missing = held[0] == 0 and not 0 < stamp_ns < newest_ns
                newest_ns = held[0]
                yield None if missing else held[0], held[1]
            if not read:
                return
            held = stamp_ns, cast(Image, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))

    def close(self) -> None:
        """Close the file."""
        self._capture.release()
