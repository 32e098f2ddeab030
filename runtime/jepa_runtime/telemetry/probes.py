"""Probes, each of which reads one quantity, and helpers that derive probes from counters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jepa_runtime.telemetry.measurements import Reading
from jepa_runtime.telemetry.sysfs import Files


@dataclass(frozen=True)
class Probe:
    """One quantity of the machine.

    Attributes:
        name: As in :class:`~jepa_runtime.telemetry.measurements.Reading`.
        unit: As in :class:`~jepa_runtime.telemetry.measurements.Reading`.
        read: Returns the current value, or None if there is none yet (a rate needs two calls). Raises OSError
            or ValueError if it cannot be read.
        note: What is needed to interpret the values, or an empty string.
    """

    name: str
    unit: str
    read: Callable[[], float | None]
    note: str = ""


@dataclass(frozen=True)
class Machine:
    """What probes read: files, one process, and a clock in seconds."""

    files: Files
    pid: int
    clock: Callable[[], float]


# CPU time is counted in ticks of usually 10 ms: a proportion over fewer ticks is meaningless.
MIN_TICKS = 5

# The result of discovery: a probe, or an absent reading with the reason.
ProbeOrReading = Probe | Reading


def absent(name: str, unit: str, reason: str) -> Reading:
    """Return a reading without values."""
    return Reading(name=name, unit=unit, absent=reason)


def reason_of(error: OSError | ValueError) -> str:
    """Return the file and the cause of a probe's error."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def number_in(files: Files, path: str, *, scale: float = 1.0) -> Callable[[], float]:
    """Return a function that reads the number in a file and multiplies it by ``scale``."""
    return lambda: files.number(path) * scale


def rate(
    counter: Callable[[], float], clock: Callable[[], float], *, min_interval_s: float = 0.0
) -> Callable[[], float | None]:
    """Return a function that computes the increase of ``counter`` per second since its last call.

    It returns None on the first call, within ``min_interval_s`` of the last one, and if the counter
    decreased, which means that it was reset.
    """
    last: tuple[float, float] | None = None

    def read() -> float | None:
        nonlocal last
        if last is not None and clock() - last[0] < min_interval_s:
            return None
        before, last = last, (clock(), counter())
        if before is None or last[0] <= before[0] or last[1] < before[1]:
            return None
        return (last[1] - before[1]) / (last[0] - before[0])

    return read


def since_first(counter: Callable[[], float]) -> Callable[[], float]:
    """Return a function that computes the increase of ``counter`` since its first call."""
    first: float | None = None

    def read() -> float:
        nonlocal first
        now = counter()
        first = now if first is None else first
        return now - first

    return read


def percentage(parts: Callable[[], tuple[float, float]]) -> Callable[[], float | None]:
    """Return a function that computes the increase of a part in % of that of the total since its last call.

    It returns None while the total has increased by less than :data:`MIN_TICKS`.

    Args:
        parts: Reads two counters of ticks, the part and the total.
    """
    last: tuple[float, float] | None = None

    def read() -> float | None:
        nonlocal last
        now = parts()
        if last is not None and 0 <= now[1] - last[1] < MIN_TICKS:
            return None
        before, last = last, now
        if before is None or last[1] <= before[1]:
            return None
        return min(100.0, max(0.0, 100 * (last[0] - before[0]) / (last[1] - before[1])))

    return read
