"""Play a source in open loop: each frame is due at its own time, whatever became of the ones before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Event

from jepa_runtime.sources.base import Frame, Source


def paced(
    source: Source,
    *,
    rate_hz: float,
    duration_s: float | None,
    stopping: Event,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> Iterator[tuple[Frame, float]]:
    """The frames of ``source``, each with how late it is in ms.

    Frame i is due at i / rate_hz after the first; it is read ahead of that moment and then waited for. A live
    source sets its own pace and is never late. Ends with the source, after ``duration_s``, or when
    ``stopping`` is set.

    Raises:
        SourceError: the source failed.
    """
    start_ns = clock_ns()
    for index, frame in enumerate(source.frames()):
        if index == 0:
            # Opening and decoding the first frame is not part of the schedule.
            start_ns = clock_ns()
        due_ns = clock_ns() if source.live else start_ns + round(index * 1e9 / rate_hz)
        if duration_s is not None and due_ns - start_ns >= duration_s * 1e9:
            return
        wait_s = (due_ns - clock_ns()) / 1e9
        if stopping.is_set() or (wait_s > 0 and stopping.wait(wait_s)):
            return
        yield frame, max(0.0, (clock_ns() - due_ns) / 1e6)
