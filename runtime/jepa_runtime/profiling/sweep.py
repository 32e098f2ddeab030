"""Rising rates, each for some seconds, until most frames come late: the knee lies before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Event

from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling.describe import describe, responses
from jepa_runtime.profiling.profile import Run, Sweep, SweepPoint

MAX_LATE = 0.01
# Of the highest rate that is expected.
_SHARES = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)


def rates_up_to(fastest_hz: float) -> list[float]:
    """From a quarter of ``fastest_hz`` to a little more than that."""
    return [round(share * fastest_hz, 1) or 0.1 for share in _SHARES]


def sweep(measure: Callable[[float], Run], rates_hz: Iterable[float], stopping: Event) -> Sweep:
    """Open-loop passes, by ``measure``, at rising rates until most frames come late. Stopped, it keeps the
    rates that it has measured to their end.

    Raises:
        ProfileError: a rate could not be measured, or it was stopped before the first was.
    """
    points: list[SweepPoint] = []
    knee_hz: float | None = None
    for rate_hz in rates_hz:
        try:
            run = measure(rate_hz)
        except ProfileError:
            if not stopping.is_set():
                raise
        if stopping.is_set():
            break
        late = int((responses(run) > 1e3 / rate_hz).sum())
        told = describe(run).response
        points.append(
            SweepPoint(
                rate_hz=rate_hz, frames=told.n, dropped=len(run.dropped_s), misses=late,
                p50_ms=told.p50.value, p99_ms=told.p99.value, max_ms=told.max,
            )
        )  # fmt: skip
        if late <= MAX_LATE * told.n:
            knee_hz = rate_hz
        elif late > 0.5 * told.n:
            break
    if not points:
        raise ProfileError("it was stopped at its first rate")
    return Sweep(points=points, max_late=MAX_LATE, knee_hz=knee_hz)
