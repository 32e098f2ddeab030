"""Probes of power and energy: RAPL counters (Intel, AMD) and the power monitors of Jetson modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from jepa_runtime.telemetry.nvml import NVIDIA_DRIVER
from jepa_runtime.telemetry.probes import Machine, Probe, ProbeOrReading, absent, number_in, rate, reason_of
from jepa_runtime.telemetry.sysfs import Files

TOTAL_ENERGY = "total energy"
TOTAL_POWER = "total power"

_ZONES = "sys/class/powercap/intel-rapl:*"
# The input rail, which feeds all others: Xavier NX, Orin Nano and NX, TX2; Thor; Nano.
_INPUTS = ("VDD_IN", "VIN", "POM_5V_IN")
_NO_RAPL = "no RAPL counters in /sys/class/powercap"
# Part of another rail: of VIN_SYS_5V0 on AGX Orin (NVIDIA's documentation).
_CONTAINED = ("VDDQ_VDD2_1V8AO",)


def power_probes(machine: Machine, cards: Mapping[str, Callable[[], float]]) -> list[ProbeOrReading]:
    """Return probes of the power of each RAPL zone or rail, and of the whole machine.

    The whole machine is :data:`TOTAL_ENERGY` (J since discovery) where there are counters, and
    :data:`TOTAL_POWER` (W) where there are power monitors.

    Args:
        machine: The machine.
        cards: Energy counters in J that the total includes in addition to RAPL: those of discrete GPUs.
    """
    zones, counters, missing = _rapl(machine)
    if counters:
        note = f"sum of {', '.join(counters)} (RAPL)"
        if cards:
            note += f" and {', '.join(cards)} (NVML)"
        elif machine.files.exists(NVIDIA_DRIVER):
            note += "; excludes the NVIDIA GPU"
        counted = [*counters.values(), *cards.values()]
        zones.append(Probe(TOTAL_ENERGY, "J", lambda: sum(read() for read in counted), note=note))
    elif missing or cards:
        # A total of the cards alone would be mistaken for that of the machine.
        zones.append(absent(TOTAL_ENERGY, "J", missing or _NO_RAPL))
    found = zones + _rails(machine.files)
    return found or [absent(TOTAL_POWER, "W", f"{_NO_RAPL} and no INA power monitor in /sys/class/hwmon")]


def rail_probes(rails: Mapping[str, Callable[[], float | None]]) -> list[ProbeOrReading]:
    """Return probes of all rails and of the module's total.

    The total is the power of the input rail, or else the sum of all rails that are not part of another.

    Args:
        rails: Readers of the power in W, by label of the rail.
    """
    inputs = [label for label in _INPUTS if label in rails]
    summed = inputs[:1] or [label for label in rails if label not in _CONTAINED]

    def total() -> float | None:
        values = [rails[label]() for label in summed]
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    each = [Probe(f"{label} power", "W", read) for label, read in rails.items()]
    return [*each, Probe(TOTAL_POWER, "W", total, note=f"sum of {', '.join(summed)}")] if summed else []


class _Energy:
    """A RAPL counter in J since construction, corrected for wrapping at ``max_energy_range_uj``."""

    def __init__(self, files: Files, zone: str) -> None:
        self._files = files
        self._path = f"{zone}/energy_uj"
        self._range = files.number(f"{zone}/max_energy_range_uj")
        self._last = files.number(self._path)
        self._total = 0.0

    def __call__(self) -> float:
        now = self._files.number(self._path)
        self._total += now - self._last + (self._range if now < self._last else 0)
        self._last = now
        return self._total / 1e6


@dataclass(frozen=True)
class _Zone:
    name: str
    path: str
    in_total: bool


def _zones(files: Files) -> list[_Zone]:
    """Return all RAPL zones. The total has the packages and their memory; other subzones are in the package.

    The zone ``psys`` covers more, but what it includes depends on the board: it is reported and not added.
    """
    zones = []
    for path in files.find(_ZONES):
        name = files.get(f"{path}/name") or PurePath(path).name
        parent = path.rpartition(":")[0]
        if files.exists(f"{parent}/name"):
            zones.append(_Zone(f"{files.get(f'{parent}/name')} {name}", path, in_total=name == "dram"))
        else:
            zones.append(_Zone(name, path, in_total=name.startswith("package")))
    return zones


def _rapl(machine: Machine) -> tuple[list[ProbeOrReading], dict[str, Callable[[], float]], str]:
    """Return the power of each zone, the counters of the total by name, and why there are none."""
    zones = _zones(machine.files)
    if not zones:
        return [], {}, ""
    try:
        counters = {zone: _Energy(machine.files, zone.path) for zone in zones}
    except PermissionError as error:
        hint = "allow it until the next boot: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
        return [], {}, f"{reason_of(error)}; {hint}"
    except (OSError, ValueError) as error:
        return [], {}, reason_of(error)
    found: list[ProbeOrReading] = [
        Probe(f"{zone.name} power", "W", rate(counter, machine.clock)) for zone, counter in counters.items()
    ]
    counted: dict[str, Callable[[], float]] = {
        zone.name: counter for zone, counter in counters.items() if zone.in_total
    }
    return found, counted, "" if counted else "RAPL has no zone of a whole CPU package on this machine"


def _rails(files: Files) -> list[ProbeOrReading]:
    """Return the rails of INA3221 (three rails: mV times mA) and INA238 (one rail: uW) in hwmon.

    JetPack 4 has the INA3221 in iio (mW). Channels without a current are sums of shunt voltages, not rails.
    """
    rails: dict[str, Callable[[], float | None]] = {}
    for name in files.find("sys/class/hwmon/hwmon*/name"):
        chip = name.removesuffix("/name")
        if not (files.get(name) or "").startswith("ina"):
            continue
        for label in files.find(f"{chip}/in*_label"):
            channel = PurePath(label).name[2 : -len("_label")]
            volts, amperes = f"{chip}/in{channel}_input", f"{chip}/curr{channel}_input"
            if files.exists(amperes):
                rails[files.get(label) or label] = _product(files, volts, amperes)
        if files.exists(f"{chip}/label") and files.exists(f"{chip}/power1_input"):
            rails[files.get(f"{chip}/label") or chip] = number_in(files, f"{chip}/power1_input", scale=1e-6)
    for label in files.find("sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*"):
        folder, channel = label.rpartition("/")[0], label.rpartition("_")[2]
        rails[files.get(label) or label] = number_in(files, f"{folder}/in_power{channel}_input", scale=1e-3)
    return rail_probes({label: read for label, read in rails.items() if label != "NC"})


def _product(files: Files, volts: str, amperes: str) -> Callable[[], float]:
    return lambda: files.number(volts) * files.number(amperes) / 1e6
