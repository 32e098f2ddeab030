"""Sample all sensors of the machine during a run."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread

from jepa_runtime.errors import ProfileError
from jepa_runtime.telemetry.accelerators import accelerator_probes, is_jetson
from jepa_runtime.telemetry.cpu import cpu_probes
from jepa_runtime.telemetry.measurements import Reading
from jepa_runtime.telemetry.nvml import GPU_LOAD, NVIDIA_DRIVER, Cards, nvidia_cards
from jepa_runtime.telemetry.power import TOTAL_ENERGY, TOTAL_POWER, power_probes
from jepa_runtime.telemetry.probes import Machine, Probe, ProbeOrReading, reason_of
from jepa_runtime.telemetry.process import process_probes
from jepa_runtime.telemetry.sysfs import Files
from jepa_runtime.telemetry.tegrastats import Tegrastats
from jepa_runtime.telemetry.thermal import thermal_probes


@dataclass
class _Series:
    """The samples of one probe."""

    probe: Probe
    name: str
    times_s: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    failures: int = 0
    reason: str = "too few samples"

    def sample(self, now_s: float) -> None:
        try:
            value = self.probe.read()
            if value is not None and not math.isfinite(value):
                raise ValueError(f"the value is {value}")
        except (OSError, ValueError) as error:
            self.failures += 1
            self.reason = reason_of(error)
            return
        if value is not None:
            self.times_s.append(round(now_s, 4))
            self.values.append(round(value, 6))

    def reading(self, offset_s: float) -> Reading:
        """Return the samples with times relative to ``offset_s`` after the start."""
        if not self.values:
            return Reading(name=self.name, unit=self.probe.unit, absent=self.reason)
        return Reading(
            name=self.name,
            unit=self.probe.unit,
            times_s=[round(time_s - offset_s, 4) for time_s in self.times_s],
            values=list(self.values),
        )


class Monitor:
    """A context manager that reads every probe of the machine periodically on a background thread.

    Times are relative to the start of the context; the first sample is taken there and the last at its end. A
    probe that fails is read again with the next sample: its earlier values remain, and :meth:`notes` reports
    the failures.

    Args:
        period_s: Time between samples. A sample takes about 1 ms of CPU time.
        root: The folder of proc, sys, etc and usr: this machine, or a recorded tree of another one.
        pid: The process to observe, or None for this one.
        clock: A monotonic clock in seconds.
        probes: Replace the probes found on the machine.

    Raises:
        ProfileError: ``period_s`` is not positive.
    """

    def __init__(
        self,
        *,
        period_s: float = 0.5,
        root: Path = Path("/"),
        pid: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        probes: Iterable[ProbeOrReading] | None = None,
    ) -> None:
        if not period_s > 0:
            raise ProfileError(f"period_s is {period_s}, but must be positive", code="profile.invalid_period")
        self._period_s = period_s
        self._machine = Machine(Files(root), os.getpid() if pid is None else pid, clock)
        self._given = None if probes is None else list(probes)
        self._series: list[_Series] = []
        self._absent: list[Reading] = []
        self._lock = Lock()
        self._stack = ExitStack()
        self._start_s = 0.0

    def __enter__(self) -> Monitor:
        """Find the probes, take the first sample, and start the thread.

        Raises:
            ProfileError: The process ``pid`` is not running.
        """
        with ExitStack() as stack:
            found = self._discover(stack) if self._given is None else self._given
            self._absent = [entry for entry in found if isinstance(entry, Reading)]
            self._series = _unique_series(entry for entry in found if isinstance(entry, Probe))
            self._start_s = self._machine.clock()
            self.sample()
            stop = Event()
            thread = Thread(target=self._run, args=(stop,), name="machine monitor", daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(stop.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.sample()
        self._stack.close()

    def sample(self) -> None:
        """Read every probe now."""
        with self._lock:
            self._machine.files.clear_cache()
            now_s = self._machine.clock() - self._start_s
            for series in self._series:
                series.sample(now_s)

    def readings(self, *, since_s: float | None = None) -> list[Reading]:
        """Return the samples so far: one reading for each probe, then the absent ones. Works at any time.

        Args:
            since_s: A time of the clock that readings are relative to instead of the start; earlier times are
                negative.
        """
        offset_s = 0.0 if since_s is None else since_s - self._start_s
        with self._lock:
            return [series.reading(offset_s) for series in self._series] + self._absent

    def notes(self) -> list[str]:
        """Return what is needed to interpret the readings: the composition of totals, and missing samples."""
        with self._lock:
            present = [series for series in self._series if series.values]
            return [f"{series.name}: {series.probe.note}" for series in present if series.probe.note] + [
                f"{series.name}: {series.failures} samples are missing; last error: {series.reason}"
                for series in present
                if series.failures
            ]

    def _run(self, stop: Event) -> None:
        while not stop.wait(self._period_s):
            self.sample()

    def _discover(self, stack: ExitStack) -> list[ProbeOrReading]:
        machine = self._machine
        has_cards = machine.files.exists(NVIDIA_DRIVER) and not is_jetson(machine.files)
        cards = nvidia_cards(stack) if has_cards else Cards()
        try:
            found: list[ProbeOrReading] = [
                *cpu_probes(machine),
                *process_probes(machine),
                *thermal_probes(machine),
                *power_probes(machine, cards.energy),
                *accelerator_probes(machine, cards),
            ]
        except (OSError, ValueError) as error:
            raise ProfileError(
                f"cannot observe process {machine.pid}: {reason_of(error)}: pass a process that is running",
                code="profile.process_not_found",
            ) from error
        present = {entry.name for entry in found if isinstance(entry, Probe)}
        if GPU_LOAD in present and {TOTAL_ENERGY, TOTAL_POWER} & present:
            return found
        try:
            tool = Tegrastats(machine.files, period_s=self._period_s)
        except OSError:
            return found  # not a Jetson; absent readings already have their reason
        stack.callback(tool.close)
        more = [entry for entry in tool.probes() if entry.name not in present]
        replaced = {entry.name for entry in more}
        return [entry for entry in found if entry.name not in replaced] + more


def _unique_series(probes: Iterable[Probe]) -> list[_Series]:
    """Return a series for each probe; the second sensor of a name gets the suffix 2, and so on."""
    seen: Counter[str] = Counter()
    series = []
    for probe in probes:
        seen[probe.name] += 1
        count = seen[probe.name]
        series.append(_Series(probe, probe.name if count == 1 else f"{probe.name} {count}"))
    return series
