"""A probe tells one quantity at a time; how probes are made from counters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jepa_runtime.telemetry.measurements import Reading
from jepa_runtime.telemetry.sysfs import Files


@dataclass(frozen=True)
class Probe:
    """One quantity of the machine.

    Attributes:
        name, unit: as in :class:`~jepa_runtime.telemetry.measurements.Reading`.
        read: its value now; None where there is none at this moment (a rate needs two calls). Raises
            OSError or ValueError where it cannot be had.
        note: what a reader of its values must know; may be empty.
    """

    name: str
    unit: str
    read: Callable[[], float | None]
    note: str = ""


@dataclass(frozen=True)
class Machine:
    """Where probes look: at files, at one process, and at a clock that counts seconds."""

    files: Files
    pid: int
    clock: Callable[[], float]


# Processor time is counted in ticks of mostly 10 ms: over fewer than these a share of it says nothing.
LEAST_TICKS = 5

# What a search for probes yields: probes, and readings that say why there are none.
Found = Probe | Reading


def absent(name: str, unit: str, reason: str) -> Reading:
    """A reading without values, and why."""
    return Reading(name=name, unit=unit, absent=reason)


def reason_of(error: OSError | ValueError) -> str:
    """What an error of a probe says: the file and what was wrong with it."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def number_in(files: Files, path: str, *, scale: float = 1.0) -> Callable[[], float]:
    """The number in a file, times ``scale``."""
    return lambda: files.number(path) * scale


def rate(
    counter: Callable[[], float], clock: Callable[[], float], *, least_s: float = 0.0
) -> Callable[[], float | None]:
    """How fast ``counter`` rises, per second, between calls at least ``least_s`` apart; None before that.

    A counter that fell was reset: that interval has no rate.
    """
    last: tuple[float, float] | None = None

    def read() -> float | None:
        nonlocal last
        if last is not None and clock() - last[0] < least_s:
            return None
        before, last = last, (clock(), counter())
        if before is None or last[0] <= before[0] or last[1] < before[1]:
            return None
        return (last[1] - before[1]) / (last[0] - before[0])

    return read


def since_first(counter: Callable[[], float]) -> Callable[[], float]:
    """How far ``counter`` has risen since the first call."""
    first: float | None = None

    def read() -> float:
        nonlocal first
        now = counter()
        first = now if first is None else first
        return now - first

    return read


def percentage(parts: Callable[[], tuple[float, float]]) -> Callable[[], float | None]:
    """The share, in %, that the first of two counters of ticks had in the rise of the second since the last
    call; None while that is below :data:`LEAST_TICKS`."""
    last: tuple[float, float] | None = None

    def read() -> float | None:
        nonlocal last
        now = parts()
        if last is not None and 0 <= now[1] - last[1] < LEAST_TICKS:
            return None
        before, last = last, now
        if before is None or last[1] <= before[1]:
            return None
        return min(100.0, max(0.0, 100 * (last[0] - before[0]) / (last[1] - before[1])))

    return read
