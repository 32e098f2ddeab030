"""Cores: how busy, how fast."""

from __future__ import annotations

import re
from functools import partial

from jepa_runtime.telemetry.probes import Found, Machine, Probe, absent, number_in, percentage
from jepa_runtime.telemetry.sysfs import Files, cores

_CPU = "sys/devices/system/cpu"
# Positions in a line of /proc/stat: user nice system idle iowait irq softirq steal (proc_stat(5)). The guest
# times that follow are contained in user and nice.
_IDLE, _IOWAIT, _STEAL, _COUNTED = 3, 4, 7, 8


def cpu_probes(machine: Machine) -> list[Found]:
    """Busy time of the whole machine and of the cores that the process may use, and their frequencies;
    stolen is the time that a hypervisor gave to others."""
    files, allowed = machine.files, allowed_cores(machine)
    rows = ["cpu", *(f"cpu{core}" for core in allowed)]
    busy = [Probe(f"{row} busy", "%", percentage(partial(_ticks, files, row))) for row in rows]
    stolen = Probe("cpu stolen", "%", percentage(partial(_ticks, files, "cpu", stolen=True)))
    return [*busy, stolen, *_frequencies(files, allowed)]


def allowed_cores(machine: Machine) -> list[int]:
    """The cores on which the process may run.

    Raises:
        OSError: there is no such process.
        ValueError: its status does not tell.
    """
    status = machine.files.text(f"proc/{machine.pid}/status")
    match = re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.MULTILINE)
    if match is None:
        raise ValueError(f"proc/{machine.pid}/status: no line Cpus_allowed_list")
    return cores(match[1])


def _ticks(files: Files, row: str, *, stolen: bool = False) -> tuple[float, float]:
    match = re.search(rf"^{row} (.+)$", files.text("proc/stat"), re.MULTILINE)
    if match is None:
        raise ValueError(f"{row} is not in /proc/stat: the core is off")
    ticks = [float(value) for value in match[1].split()[:_COUNTED]]
    if len(ticks) < _COUNTED:
        raise ValueError(f"/proc/stat: {row} has {len(ticks)} columns, expected at least {_COUNTED}")
    total = sum(ticks)
    return (ticks[_STEAL] if stolen else total - ticks[_IDLE] - ticks[_IOWAIT] - ticks[_STEAL]), total


def _frequencies(files: Files, allowed: list[int]) -> list[Found]:
    scaling = [(core, f"{_CPU}/cpu{core}/cpufreq/scaling_cur_freq") for core in allowed]
    found: list[Found] = [
        Probe(f"cpu{core} frequency", "MHz", number_in(files, path, scale=1e-3))
        for core, path in scaling
        if files.exists(path)
    ]
    if found:
        return found
    info = files.get("proc/cpuinfo") or ""
    if is_virtual_machine(info):
        reason = "a hypervisor hides the clock: no cpufreq, and /proc/cpuinfo has the nominal frequency only"
    elif "cpu MHz" not in info:
        reason = f"no /{_CPU}/cpu*/cpufreq, and /proc/cpuinfo tells no frequency"
    else:
        return [Probe(f"cpu{core} frequency", "MHz", partial(_measured, files, core)) for core in allowed]
    return [absent("cpu frequency", "MHz", reason)]


def is_virtual_machine(cpuinfo: str) -> bool:
    """Whether the processor says that it is a hypervisor's (x86; Arm has no such flag)."""
    return re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) is not None


def _measured(files: Files, core: int) -> float:
    for block in files.text("proc/cpuinfo").split("\n\n"):
        number = re.search(r"^processor\s*: ([0-9]+)$", block, re.MULTILINE)
        clock = re.search(r"^cpu MHz\s*: ([0-9.]+)$", block, re.MULTILINE)
        if number and clock and int(number[1]) == core:
            return float(clock[1])
    raise ValueError(f"/proc/cpuinfo: no frequency of core {core}")
