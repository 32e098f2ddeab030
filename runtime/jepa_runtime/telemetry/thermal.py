"""Probes of temperatures and of thermal throttling events."""

from __future__ import annotations

from functools import partial

from jepa_runtime.telemetry.cpu import allowed_cores
from jepa_runtime.telemetry.probes import Machine, Probe, ProbeOrReading, absent, number_in, since_first
from jepa_runtime.telemetry.sysfs import Files

_CPU = "sys/devices/system/cpu"
_CHIPS = ("coretemp", "k10temp", "zenpower")


def thermal_probes(machine: Machine) -> list[ProbeOrReading]:
    """Return probes of thermal zones, CPU sensors, and throttling events since the first sample."""
    return _temperatures(machine.files) + _throttling(machine)


def _temperatures(files: Files) -> list[ProbeOrReading]:
    sensors = []
    for path in files.find("sys/class/thermal/thermal_zone*/temp"):
        kind = files.get(path.removesuffix("temp") + "type") or path.split("/")[-2]
        # The name is CPU-therm in JetPack 4 and 5, cpu-thermal in JetPack 6.
        sensors.append((kind.removesuffix("-thermal").removesuffix("-therm").lower(), path))
    for path in files.find("sys/class/hwmon/hwmon*/temp*_input"):
        chip = files.get(path.rpartition("/")[0] + "/name")
        label = files.get(path.removesuffix("input") + "label") or ""
        # A package's value is that of its hottest core, so the cores are omitted.
        if chip in _CHIPS and not label.startswith("Core "):
            sensors.append((f"{chip} {label}".strip(), path))
    if not sensors:
        reason = f"no /sys/class/thermal/thermal_zone*, and none of {', '.join(_CHIPS)} in /sys/class/hwmon"
        return [absent("temperature", "°C", reason)]
    return [Probe(f"{name} temperature", "°C", number_in(files, path, scale=1e-3)) for name, path in sensors]


def _throttling(machine: Machine) -> list[ProbeOrReading]:
    """Return probes of throttling events.

    Intel counts thermal events of each core and package (kernel: therm_throt.c). Orin counts events of its
    power supply in hwmon soctherm_oc: oc1 undervoltage, oc2 average and oc3 instantaneous overcurrent.
    """
    files = machine.files
    counters: list[tuple[str, list[str]]] = []
    allowed = allowed_cores(machine)
    for kind in ("core", "package"):
        paths = [f"{_CPU}/cpu{core}/thermal_throttle/{kind}_throttle_count" for core in allowed]
        paths = [path for path in paths if files.exists(path)]
        # All cores of a package show the same counter of the package.
        counters.append((f"{kind} throttle events", paths if kind == "core" else paths[:1]))
    for path in files.find("sys/class/hwmon/hwmon*/oc*_event_cnt"):
        counters.append((f"{path.rpartition('/')[2].split('_')[0]} throttle events", [path]))
    found: list[ProbeOrReading] = [
        Probe(name, "count", since_first(partial(_sum, files, paths))) for name, paths in counters if paths
    ]
    reason = f"no /{_CPU}/cpu*/thermal_throttle, and no oc*_event_cnt (Jetson Orin) in /sys/class/hwmon"
    return found or [absent("throttle events", "count", reason)]


def _sum(files: Files, paths: list[str]) -> float:
    return sum(files.number(path) for path in paths)
