"""A sweep of rising rates that finds the highest sustained one, the knee."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Event

from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling.profile import Run, Sweep, SweepPoint
from jepa_runtime.profiling.run_statistics import describe, late_frames

_MAX_LATE = 0.01


def run_sweep(
    measure: Callable[[float], Run],
    rates_hz: Iterable[float],
    stopping: Event,
    *,
    on_early_end: Callable[[str], None] = lambda _: None,
) -> Sweep:
    """Measure rising rates in open loop until most frames are late.

    Args:
        measure: Runs an open-loop pass at a rate [Hz].
        rates_hz: The rates.
        stopping: When it is set, the sweep ends; rates that are complete count.
        on_early_end: Called with the reason if the sweep ends before its last rate.

    Raises:
        ProfileError: The sweep failed or was stopped at its first rate.
    """
    points: list[SweepPoint] = []
    knee_hz: float | None = None
    for rate_hz in rates_hz:
        reason = ""
        try:
            run = measure(rate_hz)
        except ProfileError as error:
            reason = f"{rate_hz:g} Hz could not be measured: {error}"
        if stopping.is_set():
            reason = "stopped: the knee may be higher" if points else "stopped at its first rate"
        if reason and not points:
            raise ProfileError(reason, code="profile.sweep_failed")
        if reason:
            on_early_end(reason)
            break
        missed = late_frames(run, 1e3 / rate_hz)
        late = 0 if missed is None else int(missed.sum())
        response = describe(run).response
        points.append(
            SweepPoint(
                rate_hz=rate_hz, frames=response.n, dropped=len(run.dropped_s), misses=late,
                p50_ms=response.p50.value, p99_ms=response.p99.value, max_ms=response.max,
            )
        )  # fmt: skip
        if late <= _MAX_LATE * response.n:
            knee_hz = rate_hz
        elif late > 0.5 * response.n:
            break
    return Sweep(points=points, max_late=_MAX_LATE, knee_hz=knee_hz)
