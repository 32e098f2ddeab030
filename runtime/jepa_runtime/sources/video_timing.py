"""Times of the frames of a video, from stamps that may be missing, scrambled, or start again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from jepa_runtime.sources.base import Frame, Image, view_name

# Encoders reorder frames within a few; larger windows cost memory.
_WINDOW = 8


def timed_frames(
    decoded: Iterable[tuple[int | None, Image]], *, period_ns: int, start_ns: int, frame_id: str
) -> Iterator[Frame]:
    """Yield decoded images as frames with increasing stamps.

    Some files store the stamps in the order in which frames are decoded, not shown (B-frames). Stamps are
    therefore sorted within a window of eight frames. A stamp from before this window means that the file
    starts again, for example because two files were concatenated: the next frame follows one period later,
    with another ``frame_id`` (see :class:`~jepa_runtime.sources.base.Frame`).

    Args:
        decoded: The stamp [ns] of each image, or None if it has none, and the image, in the order of display.
        period_ns: The nominal time between two frames, for those without a stamp.
        start_ns: The stamp of the first frame.
        frame_id: The ``frame_id`` of the first part.
    """
    images: deque[Image] = deque()
    stamps: list[int] = []
    newest, oldest, shift, origin, last, part, sequence = -period_ns, -math.inf, 0, 0, 0, 0, 0

    def take() -> Frame:
        nonlocal oldest, origin, last, sequence
        oldest = stamp = heappop(stamps)
        if sequence == 0:
            origin = stamp
        elif stamp <= last:
            # A repeated stamp: the frame belongs between the previous one and the next.
            stamp = last + max(1, period_ns // 2)
        last = stamp
        frame = Frame(images.popleft(), start_ns + last - origin, view_name(frame_id, part), sequence)
        sequence += 1
        return frame

    for stamp_ns, image in decoded:
        shown_ns = newest + period_ns if stamp_ns is None else stamp_ns + shift
        if shown_ns < oldest:
            while images:
                yield take()
            part += 1
            newest = last + period_ns
            shift += newest - shown_ns
            shown_ns = newest
        newest = max(newest, shown_ns)
        heappush(stamps, shown_ns)
        images.append(image)
        if len(images) > _WINDOW:
            yield take()
    while images:
        yield take()
