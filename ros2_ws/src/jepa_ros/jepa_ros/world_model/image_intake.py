"""Which images may enter: pure checks, every refusal counted by its reason.

A camera that misbehaves must not stop a robot: bad frames are refused, counted and reported, never fatal.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

_NS_PER_S = 1_000_000_000

# A size that lasts this many frames is a new mode of the camera and no fault of one frame.
NEW_SIZE_AFTER = 5


@dataclass(frozen=True)
class Refusal:
    """Why a frame was refused: a short ``reason`` to count by and a sentence for people."""

    reason: str
    detail: str


class Intake:
    """Remembers the size of the stream and counts what was refused.

    The reasons are ``zero_size``, ``bad_stamp``, ``size_changed`` and what :meth:`count` is given
    (``bad_image``).
    """

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        self._size: tuple[int, int] | None = None
        self._candidate: tuple[int, int] | None = None
        self._repeats = 0

    def check(self, *, height: int, width: int, data_bytes: int, sec: int, nanosec: int) -> Refusal | None:
        """Judge what a message says about itself, before its pixels are touched."""
        if data_bytes == 0 or height == 0 or width == 0:
            return self.count("zero_size", f"image of {width} x {height} with {data_bytes} bytes of data")
        if sec < 0 or nanosec >= _NS_PER_S or (sec == 0 and nanosec == 0):
            return self.count(
                "bad_stamp", f"stamp {sec} s {nanosec} ns is not a time: does the camera set header.stamp?"
            )
        return None

    def check_size(self, *, height: int, width: int) -> Refusal | None:
        """Judge the size against the stream's; a size that persists becomes the stream's."""
        size = (height, width)
        if self._size is None or size == self._size:
            self._size, self._repeats = size, 0
            return None
        self._repeats = self._repeats + 1 if size == self._candidate else 1
        self._candidate = size
        if self._repeats >= NEW_SIZE_AFTER:
            self._size, self._repeats = size, 0
            return None
        return self.count(
            "size_changed", f"{width} x {height} in a stream of {self._size[1]} x {self._size[0]}"
        )

    def count(self, reason: str, detail: str) -> Refusal:
        """Count a frame refused elsewhere, for instance because its encoding is unknown."""
        self.refused[reason] += 1
        return Refusal(reason, detail)
