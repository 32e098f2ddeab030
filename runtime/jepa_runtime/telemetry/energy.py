"""Energy of one frame, from what the machine told while it was idle and while it ran."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from jepa_runtime.telemetry.measurements import Energy, Reading
from jepa_runtime.telemetry.power import TOTAL_ENERGY, TOTAL_POWER

# For so long a Monitor has to watch an idle machine: it then has a few samples more than are needed.
IDLE_S = 6.0
_LEAST_S = 1.0
_LEAST_SAMPLES = 10  # of power: a few say little of what was drawn between them


def tells_power(readings: Sequence[Reading]) -> bool:
    """Whether it is worth watching this machine idle, from one sample on."""
    return any(each.name in (TOTAL_ENERGY, TOTAL_POWER) and each.absent is None for each in readings)


def energy(idle: Sequence[Reading], busy: Sequence[Reading], *, frames: int, duration_s: float) -> Energy:
    """What a frame took above what the machine takes idle: ``(busy_w - idle_w) * duration_s / frames``, in J.

    Each power is the energy of its phase over its time: the difference of the counters where the machine has
    counters (RAPL; NVML of NVIDIA's cards), else the integral of the sampled power (trapezoids; Jetson's
    monitors). It is that of package, memory and cards, or of the module: not that of the whole device.

    Args:
        idle: readings of a phase in which nothing else ran.
        busy: readings of the run.
        frames: how many frames the run processed.
        duration_s: how long the run took.
    """
    idle_w, idle_absent = _power_w(idle)
    busy_w, busy_absent = _power_w(busy)
    if busy_w is None:
        reason = f"while busy: {busy_absent}"
    elif idle_w is None:
        reason = f"while idle: {idle_absent}"
    elif frames < 1:
        reason = "no frame was processed"
    elif busy_w <= idle_w:
        reason = f"the run took no more than idling: {busy_w:.3g} W against {idle_w:.3g} W"
    else:
        return Energy(per_frame_j=(busy_w - idle_w) * duration_s / frames, idle_w=idle_w, busy_w=busy_w)
    return Energy(per_frame_j=None, idle_w=idle_w, busy_w=busy_w, absent=reason)


def _power_w(readings: Sequence[Reading]) -> tuple[float | None, str | None]:
    """Mean power in W, or None and the reason."""
    named = {reading.name: reading for reading in readings}
    counted, sampled = named.get(TOTAL_ENERGY), named.get(TOTAL_POWER)
    for reading in (counted, sampled):
        if reading is None or reading.absent is not None:
            continue
        span_s = reading.times_s[-1] - reading.times_s[0]
        if span_s < _LEAST_S:
            return None, f"{reading.name} over {span_s:.3g} s only: it takes {_LEAST_S:g} s"
        if reading is counted:
            return (reading.values[-1] - reading.values[0]) / span_s, None
        if len(reading.values) < _LEAST_SAMPLES:
            return None, f"{len(reading.values)} samples of {reading.name}: it takes {_LEAST_SAMPLES}"
        return _integral(reading) / span_s, None
    reasons = [reading.absent for reading in (counted, sampled) if reading is not None and reading.absent]
    return None, reasons[0] if reasons else "the machine tells no power"


def _integral(reading: Reading) -> float:
    moments = pairwise(zip(reading.times_s, reading.values, strict=True))
    return sum((end - start) * (first + last) / 2 for (start, first), (end, last) in moments)
