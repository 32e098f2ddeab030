"""Checks of incoming images. Each rejection is counted by its reason.

A faulty camera must not stop a robot: bad frames are rejected, counted and reported, and are never fatal.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

_NS_PER_S = 1_000_000_000

# A size that persists for this many frames is a new mode of the camera, not the fault of one frame.
NEW_SIZE_FRAMES = 5


@dataclass(frozen=True)
class Rejection:
    """Represent why a frame was rejected: ``reason`` for the counters, ``detail`` for the log."""

    reason: str
    detail: str


class ImageValidator:
    """Check images against the size of their stream and count rejections.

    The reasons are ``zero_size``, ``bad_stamp``, ``size_changed`` and those passed to :meth:`reject`
    (``bad_image``).
    """

    def __init__(self) -> None:
        self.rejected: Counter[str] = Counter()
        self._size: tuple[int, int] | None = None
        self._candidate: tuple[int, int] | None = None
        self._repeats = 0

    def check_header(
        self, *, height: int, width: int, data_bytes: int, sec: int, nanosec: int
    ) -> Rejection | None:
        """Check the fields of a message before its pixels are read."""
        if data_bytes == 0 or height == 0 or width == 0:
            return self.reject("zero_size", f"image of {width} x {height} with {data_bytes} bytes of data")
        if sec < 0 or nanosec >= _NS_PER_S or (sec == 0 and nanosec == 0):
            return self.reject(
                "bad_stamp",
                f"stamp {sec} s {nanosec} ns is not a time: check that the camera sets header.stamp",
            )
        return None

    def check_size(self, *, height: int, width: int) -> Rejection | None:
        """Check the size against that of the stream. A size that persists becomes the stream's."""
        size = (height, width)
        if self._size is None or size == self._size:
            self._size, self._repeats = size, 0
            return None
        self._repeats = self._repeats + 1 if size == self._candidate else 1
        self._candidate = size
        if self._repeats >= NEW_SIZE_FRAMES:
            self._size, self._repeats = size, 0
            return None
        return self.reject(
            "size_changed", f"{width} x {height} in a stream of {self._size[1]} x {self._size[0]}"
        )

    def reject(self, reason: str, detail: str) -> Rejection:
        """Count a frame that was rejected elsewhere, for example because its encoding is unknown."""
        self.rejected[reason] += 1
        return Rejection(reason, detail)
