"""Probes of one process (CPU time, memory, faults, switches, descriptors) and of the machine's memory."""

from __future__ import annotations

import os
from pathlib import Path

from jepa_runtime.telemetry.probes import MIN_TICKS, Machine, Probe, ProbeOrReading, rate, since_first

# Positions after the command's closing parenthesis in /proc/PID/stat (proc_pid_stat(5)).
_MINOR_FAULTS, _MAJOR_FAULTS, _USER_TICKS, _SYSTEM_TICKS = 7, 9, 11, 12
_KB_TO_MB = 1024 / 1e6


def process_probes(machine: Machine) -> list[ProbeOrReading]:
    """Return the probes of the process and of the machine's memory.

    Process: busy cores, current and peak resident memory, page faults and context switches since the first
    sample, descriptors, threads. Machine: available memory, used swap.
    """
    files, folder = machine.files, f"proc/{machine.pid}"
    ticks_per_s = os.sysconf("SC_CLK_TCK")

    def stat(position: int) -> float:
        values = files.text(f"{folder}/stat").rpartition(")")[2].split()
        if position >= len(values):
            raise ValueError(f"/{folder}/stat has {len(values)} values, expected at least {position + 1}")
        return float(values[position])

    def cpu_s() -> float:
        return (stat(_USER_TICKS) + stat(_SYSTEM_TICKS)) / ticks_per_s

    def status(key: str) -> float:
        return files.field(f"{folder}/status", key)

    def meminfo(key: str) -> float:
        return files.field("proc/meminfo", key)

    # Listing the descriptors of this process opens another one.
    own = int(machine.pid == os.getpid() and files.root == Path("/"))
    switches = _Switches(machine)
    return [
        Probe("process busy", "cores", rate(cpu_s, machine.clock, min_interval_s=MIN_TICKS / ticks_per_s)),
        Probe("rss", "MB", lambda: status("VmRSS") * _KB_TO_MB),
        Probe("peak rss", "MB", lambda: status("VmHWM") * _KB_TO_MB),
        Probe("minor faults", "count", since_first(lambda: stat(_MINOR_FAULTS))),
        Probe("major faults", "count", since_first(lambda: stat(_MAJOR_FAULTS))),
        Probe("voluntary switches", "count", since_first(lambda: switches.count("voluntary"))),
        Probe("involuntary switches", "count", since_first(lambda: switches.count("nonvoluntary"))),
        Probe("descriptors", "count", lambda: len(files.names(f"{folder}/fd")) - own),
        Probe("threads", "count", lambda: status("Threads")),
        Probe("memory available", "MB", lambda: meminfo("MemAvailable") * _KB_TO_MB),
        Probe("swap used", "MB", lambda: (meminfo("SwapTotal") - meminfo("SwapFree")) * _KB_TO_MB),
    ]


class _Switches:
    """Counts context switches of all threads; /proc/PID/status has only those of the main thread.

    The last known counts of exited threads remain in the sum.
    """

    def __init__(self, machine: Machine) -> None:
        self._files = machine.files
        self._tasks = f"proc/{machine.pid}/task"
        self._seen: dict[tuple[str, str], float] = {}

    def count(self, kind: str) -> float:
        for thread in self._files.names(self._tasks):
            try:
                count = self._files.field(f"{self._tasks}/{thread}/status", f"{kind}_ctxt_switches")
            except (FileNotFoundError, ProcessLookupError):
                continue  # exited after the listing
            self._seen[thread, kind] = count
        return sum(count for (_, seen), count in self._seen.items() if seen == kind)
