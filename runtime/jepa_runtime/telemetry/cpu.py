"""Probes of the CPU cores: busy time and clock frequency."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from statistics import fmean

from jepa_runtime.telemetry.measurements import Reading
from jepa_runtime.telemetry.probes import Machine, Probe, ProbeOrReading, absent, number_in, percentage
from jepa_runtime.telemetry.sysfs import Files, parse_cpu_list

_CPU = "sys/devices/system/cpu"
# Columns of /proc/stat: user nice system idle iowait irq softirq steal (proc_stat(5)). The guest times that
# follow are included in user and nice.
_IDLE, _IOWAIT, _STEAL, _COUNTED = 3, 4, 7, 8


def cpu_probes(machine: Machine) -> list[ProbeOrReading]:
    """Return probes of the busy time of the machine and of each core that the process may use.

    Further probes are the cores' frequencies, and the time that a hypervisor gave to other machines (stolen).
    """
    files, allowed = machine.files, allowed_cores(machine)
    rows = ["cpu", *(f"cpu{core}" for core in allowed)]
    busy = [Probe(f"{row} busy", "%", percentage(partial(_ticks, files, row))) for row in rows]
    stolen = Probe("cpu stolen", "%", percentage(partial(_ticks, files, "cpu", stolen=True)))
    return [*busy, stolen, *_frequencies(files, allowed)]


def busy_by_others(readings: Iterable[Reading]) -> float | None:
    """Return how many of the cores that the process may use other processes used; None: unknown.

    Args:
        readings: Those of all probes of a :class:`~jepa_runtime.telemetry.monitor.Monitor`.
    """
    means = {reading.name: fmean(reading.values) for reading in readings if reading.values}
    cores = [mean / 100 for name, mean in means.items() if re.fullmatch(r"cpu\d+ busy", name)]
    own = means.get("process busy")
    return None if own is None or not cores else max(0.0, sum(cores) - own)


def allowed_cores(machine: Machine) -> list[int]:
    """Return the cores on which the process may run.

    Raises:
        OSError: The process does not exist.
        ValueError: Its status has no line Cpus_allowed_list.
    """
    status = machine.files.text(f"proc/{machine.pid}/status")
    match = re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.MULTILINE)
    if match is None:
        raise ValueError(f"/proc/{machine.pid}/status has no line Cpus_allowed_list")
    return parse_cpu_list(match[1])


def _ticks(files: Files, row: str, *, stolen: bool = False) -> tuple[float, float]:
    match = re.search(rf"^{row} (.+)$", files.text("proc/stat"), re.MULTILINE)
    if match is None:
        raise ValueError(f"/proc/stat has no line {row}: the core is offline")
    ticks = [float(value) for value in match[1].split()[:_COUNTED]]
    if len(ticks) < _COUNTED:
        raise ValueError(f"/proc/stat has {len(ticks)} columns for {row}, expected at least {_COUNTED}")
    total = sum(ticks)
    return (ticks[_STEAL] if stolen else total - ticks[_IDLE] - ticks[_IOWAIT] - ticks[_STEAL]), total


def _frequencies(files: Files, allowed: list[int]) -> list[ProbeOrReading]:
    scaling = [(core, f"{_CPU}/cpu{core}/cpufreq/scaling_cur_freq") for core in allowed]
    found: list[ProbeOrReading] = [
        Probe(f"cpu{core} frequency", "MHz", number_in(files, path, scale=1e-3))
        for core, path in scaling
        if files.exists(path)
    ]
    if found:
        return found
    info = files.get("proc/cpuinfo") or ""
    if is_virtual_machine(info):
        reason = "a hypervisor hides the clock: no cpufreq, and /proc/cpuinfo has only the nominal frequency"
    elif "cpu MHz" not in info:
        reason = f"/{_CPU}/cpu*/cpufreq does not exist, and /proc/cpuinfo has no frequency"
    else:
        return [Probe(f"cpu{core} frequency", "MHz", partial(_cpuinfo_mhz, files, core)) for core in allowed]
    return [absent("cpu frequency", "MHz", reason)]


def is_virtual_machine(cpuinfo: str) -> bool:
    """Return whether the CPU flags include ``hypervisor`` (x86 only; Arm has no such flag)."""
    return re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) is not None


def _cpuinfo_mhz(files: Files, core: int) -> float:
    for block in files.text("proc/cpuinfo").split("\n\n"):
        number = re.search(r"^processor\s*: ([0-9]+)$", block, re.MULTILINE)
        clock = re.search(r"^cpu MHz\s*: ([0-9.]+)$", block, re.MULTILINE)
        if number and clock and int(number[1]) == core:
            return float(clock[1])
    raise ValueError(f"/proc/cpuinfo has no frequency of core {core}")
