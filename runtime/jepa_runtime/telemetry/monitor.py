"""Samples the machine beside a run."""

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
from jepa_runtime.telemetry.probes import Found, Machine, Probe, reason_of
from jepa_runtime.telemetry.process import process_probes
from jepa_runtime.telemetry.sysfs import Files
from jepa_runtime.telemetry.tegrastats import Tegrastats
from jepa_runtime.telemetry.thermal import thermal_probes


@dataclass
class _Series:
    """What one probe has told so far."""

    probe: Probe
    name: str
    times_s: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    failures: int = 0
    reason: str = "sampled too few times"

    def sample(self, now_s: float) -> None:
        try:
            value = self.probe.read()
            if value is not None and not math.isfinite(value):
                raise ValueError(f"it was {value}")
        except (OSError, ValueError) as error:
            self.failures += 1
            self.reason = reason_of(error)
            return
        if value is not None:
            self.times_s.append(round(now_s, 4))
            self.values.append(round(value, 6))

    def reading(self, later_s: float) -> Reading:
        """With moments that count from ``later_s`` after the opening."""
        if not self.values:
            return Reading(name=self.name, unit=self.probe.unit, absent=self.reason)
        return Reading(
            name=self.name,
            unit=self.probe.unit,
            times_s=[round(moment - later_s, 4) for moment in self.times_s],
            values=list(self.values),
        )


class Monitor:
    """Reads every probe of the machine once a period, on a thread of its own, while its context is open.

    Moments count from the opening; the first sample is taken then and the last at the close. A probe that
    fails is asked again with each sample: what it told stands, and :meth:`notes` tells of the rest.

    Args:
        period_s: time between samples. A sample takes about 1 ms of processor time.
        root: where proc, sys, etc and usr are: a recorded tree of another machine, or this one.
        pid: the process to watch; None for the own.
        clock: seconds, rising.
        probes: instead of all that the machine has.
    """

    def __init__(
        self,
        *,
        period_s: float = 0.5,
        root: Path = Path("/"),
        pid: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        probes: Iterable[Found] | None = None,
    ) -> None:
        if not period_s > 0:
            raise ProfileError(f"period_s must be a time above 0 s, got {period_s}")
        self._period_s = period_s
        self._machine = Machine(Files(root), os.getpid() if pid is None else pid, clock)
        self._given = None if probes is None else list(probes)
        self._series: list[_Series] = []
        self._absent: list[Reading] = []
        self._lock = Lock()
        self._stack = ExitStack()
        self._start_s = 0.0

    def __enter__(self) -> Monitor:
        """Find the probes, take the first sample, and start.

        Raises:
            ProfileError: process ``pid`` does not run.
        """
        with ExitStack() as stack:
            found = self._discover(stack) if self._given is None else self._given
            self._absent = [entry for entry in found if isinstance(entry, Reading)]
            self._series = _named(entry for entry in found if isinstance(entry, Probe))
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
            self._machine.files.forget()
            now_s = self._machine.clock() - self._start_s
            for series in self._series:
                series.sample(now_s)

    def readings(self, *, since_s: float | None = None) -> list[Reading]:
        """What was read so far, during or after the run: one entry a probe, and those that are absent.

        Args:
            since_s: moments count from then, by the clock, not from the opening; those before are negative.
        """
        later_s = 0.0 if since_s is None else since_s - self._start_s
        with self._lock:
            return [series.reading(later_s) for series in self._series] + self._absent

    def notes(self) -> list[str]:
        """What whoever reads the readings must know: what totals consist of, which samples are missing."""
        with self._lock:
            told = [series for series in self._series if series.values]
            return [f"{series.name}: {series.probe.note}" for series in told if series.probe.note] + [
                f"{series.name}: {series.failures} samples are missing, the last one because {series.reason}"
                for series in told
                if series.failures
            ]

    def _run(self, stop: Event) -> None:
        while not stop.wait(self._period_s):
            self.sample()

    def _discover(self, stack: ExitStack) -> list[Found]:
        machine = self._machine
        driven = machine.files.exists(NVIDIA_DRIVER) and not is_jetson(machine.files)
        cards = nvidia_cards(stack) if driven else Cards()
        try:
            found = [
                *cpu_probes(machine),
                *process_probes(machine),
                *thermal_probes(machine),
                *power_probes(machine, cards.energy),
                *accelerator_probes(machine, cards),
            ]
        except (OSError, ValueError) as error:
            raise ProfileError(
                f"process {machine.pid} cannot be watched: {reason_of(error)}; give one that runs"
            ) from error
        told = {entry.name for entry in found if isinstance(entry, Probe)}
        if GPU_LOAD in told and {TOTAL_ENERGY, TOTAL_POWER} & told:
            return found
        try:
            tool = Tegrastats(machine.files, period_s=self._period_s)
        except OSError:
            return found  # no Jetson; what is absent has its reason already
        stack.callback(tool.close)
        more = [entry for entry in tool.probes() if entry.name not in told]
        replaced = {entry.name for entry in more}
        return [entry for entry in found if entry.name not in replaced] + more


def _named(probes: Iterable[Probe]) -> list[_Series]:
    """Series with names that occur once: machines have two sensors of one name."""
    seen: Counter[str] = Counter()
    series = []
    for probe in probes:
        seen[probe.name] += 1
        count = seen[probe.name]
        series.append(_Series(probe, probe.name if count == 1 else f"{probe.name} {count}"))
    return series
