"""Energy per frame, from power readings of the idle and of the busy machine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from jepa_runtime.telemetry.measurements import Energy, Reading
from jepa_runtime.telemetry.power import TOTAL_ENERGY, TOTAL_POWER

IDLE_S = 6.0
"""How long a Monitor must observe the idle machine; yields a few samples more than required."""
_MIN_S = 1.0
_MIN_SAMPLES = 10  # of sampled power: fewer miss too much of what was drawn between them


def measures_power(readings: Sequence[Reading]) -> bool:
    """Return whether the readings include total energy or total power."""
    return any(each.name in (TOTAL_ENERGY, TOTAL_POWER) and each.absent is None for each in readings)


def measure_energy(
    idle: Sequence[Reading], busy: Sequence[Reading], *, frames: int, duration_s: float
) -> Energy:
    """Return the energy per frame in J: ``(busy_w - idle_w) * duration_s / frames``.

    Each power is the energy of a phase divided by its duration. The energy is the difference of counters
    where the machine has them (RAPL; NVML for NVIDIA cards), else the integral of the sampled power
    (trapezoidal rule; power monitors of a Jetson). It covers CPU package, memory and cards, or the Jetson
    module, not the whole device.

    Args:
        idle: Readings of a phase in which nothing else ran.
        busy: Readings of the run.
        frames: The number of frames processed.
        duration_s: The duration of the run.
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
        reason = f"the run drew no more power than the idle machine: {busy_w:.3g} W and {idle_w:.3g} W"
    else:
        return Energy(per_frame_j=(busy_w - idle_w) * duration_s / frames, idle_w=idle_w, busy_w=busy_w)
    return Energy(per_frame_j=None, idle_w=idle_w, busy_w=busy_w, absent=reason)


def _power_w(readings: Sequence[Reading]) -> tuple[float | None, str | None]:
    """Return the mean power in W, or None and the reason."""
    by_name = {reading.name: reading for reading in readings}
    counted, sampled = by_name.get(TOTAL_ENERGY), by_name.get(TOTAL_POWER)
    for reading in (counted, sampled):
        if reading is None or reading.absent is not None:
            continue
        span_s = reading.times_s[-1] - reading.times_s[0]
        if span_s < _MIN_S:
            return None, f"{reading.name} covers only {span_s:.3g} s, at least {_MIN_S:g} s are required"
        if reading is counted:
            return (reading.values[-1] - reading.values[0]) / span_s, None
        if len(reading.values) < _MIN_SAMPLES:
            return None, (
                f"{reading.name} has only {len(reading.values)} samples, at least {_MIN_SAMPLES} are required"
            )
        return _integral(reading) / span_s, None
    reasons = [reading.absent for reading in (counted, sampled) if reading is not None and reading.absent]
    return None, reasons[0] if reasons else "the machine has no power sensor"


def _integral(reading: Reading) -> float:
    intervals = pairwise(zip(reading.times_s, reading.values, strict=True))
    return sum((end - start) * (first + last) / 2 for (start, first), (end, last) in intervals)
