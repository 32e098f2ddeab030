"""Rising rates, each for some seconds, until most frames come late: the knee lies before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Event

from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling.profile import Run, Sweep, SweepPoint
from jepa_runtime.profiling.run_statistics import describe, responses

_MAX_LATE = 0.01


def sweep(
    measure: Callable[[float], Run],
    rates_hz: Iterable[float],
    stopping: Event,
    *,
    ended: Callable[[str], None] = lambda _: None,
) -> Sweep:
    """Open-loop passes, by ``measure``, at rising rates until most frames come late.

    Args:
        stopping: set from elsewhere to end it: the rates that were measured to their end are kept.
        ended: told why it ended before its last rate, because it was stopped or a rate failed.

    Raises:
        ProfileError: the first rate failed, or it was stopped at that.
    """
    points: list[SweepPoint] = []
    knee_hz: float | None = None
    for rate_hz in rates_hz:
        why = ""
        try:
            run = measure(rate_hz)
        except ProfileError as error:
            why = f"{rate_hz:g} Hz could not be measured: {error}"
        if stopping.is_set():
            why = "it was stopped: the knee may be higher" if points else "it was stopped at its first rate"
        if why and not points:
            raise ProfileError(why)
        if why:
            ended(why)
            break
        late = int((responses(run) > 1e3 / rate_hz).sum())
        told = describe(run).response
        points.append(
            SweepPoint(
                rate_hz=rate_hz, frames=told.n, dropped=len(run.dropped_s), misses=late,
                p50_ms=told.p50.value, p99_ms=told.p99.value, max_ms=told.max,
            )
        )  # fmt: skip
        if late <= _MAX_LATE * told.n:
            knee_hz = rate_hz
        elif late > 0.5 * told.n:
            break
    return Sweep(points=points, max_late=_MAX_LATE, knee_hz=knee_hz)
