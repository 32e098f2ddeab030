"""Open-loop playback of a source: frames follow a schedule, independent of their processing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Event

from jepa_runtime.sources.base import Frame, Source

_MAX_PAUSE_NS = 60_000_000_000


def paced_frames(
    source: Source,
    *,
    rate_hz: float,
    by_stamps: bool = False,
    duration_s: float | None,
    stopping: Event,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> Iterator[tuple[Frame, float]]:
    """Yield the frames of ``source``, each with its delay in ms.

    Frame i is scheduled at i / rate_hz after the first. With ``by_stamps``, the time between two frames is
    instead the difference of their stamps, or 1 / rate_hz where it is not positive, or longer than 60 s. A
    frame is read ahead of that time, then yielded on schedule. A live source has no schedule and no
    delay. The iteration ends with the source, after ``duration_s``, or when ``stopping`` is set.

    Raises:
        SourceError: The source failed.
    """
    start_ns = clock_ns()
    due_ns, stamp_ns = 0.0, None
    for frame in source.frames():
        if stamp_ns is None:
            # Opening and decoding the first frame is not part of the schedule.
            start_ns = clock_ns()
        else:
            step_ns = frame.stamp_ns - stamp_ns
            due_ns += step_ns if by_stamps and 0 < step_ns <= _MAX_PAUSE_NS else 1e9 / rate_hz
        stamp_ns = frame.stamp_ns
        scheduled_ns = clock_ns() if source.live else start_ns + round(due_ns)
        if duration_s is not None and scheduled_ns - start_ns >= duration_s * 1e9:
            return
        wait_s = (scheduled_ns - clock_ns()) / 1e9
        if stopping.is_set() or (wait_s > 0 and stopping.wait(wait_s)):
            return
        yield frame, max(0.0, (clock_ns() - scheduled_ns) / 1e6)
