"""Open-loop playback of a source: frames follow a schedule, independent of their processing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Event

from jepa_runtime.sources.base import Frame, Source


def paced_frames(
    source: Source,
    *,
    rate_hz: float,
    duration_s: float | None,
    stopping: Event,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> Iterator[tuple[Frame, float]]:
    """Yield the frames of ``source``, each with its delay in ms.

    Frame i is scheduled at i / rate_hz after the first. It is read ahead of that time, then yielded on
    schedule. A live source has no schedule and no delay. The iteration ends with the source, after
    ``duration_s``, or when ``stopping`` is set.

    Raises:
        SourceError: The source failed.
    """
    start_ns = clock_ns()
    for index, frame in enumerate(source.frames()):
        if index == 0:
            # Opening and decoding the first frame is not part of the schedule.
            start_ns = clock_ns()
        scheduled_ns = clock_ns() if source.live else start_ns + round(index * 1e9 / rate_hz)
        if duration_s is not None and scheduled_ns - start_ns >= duration_s * 1e9:
            return
        wait_s = (scheduled_ns - clock_ns()) / 1e9
        if stopping.is_set() or (wait_s > 0 and stopping.wait(wait_s)):
            return
        yield frame, max(0.0, (clock_ns() - scheduled_ns) / 1e6)
