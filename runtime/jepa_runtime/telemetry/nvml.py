"""Probes of discrete NVIDIA GPUs, read through NVML, the library of their driver."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

from jepa_runtime.telemetry.probes import Probe, ProbeOrReading, absent, reason_of, since_first

GPU_LOAD = "gpu load"
GPU_MEMORY = "gpu memory"
GPU_POWER = "gpu power"
# Exists where NVIDIA's driver is loaded, which includes some Jetsons.
NVIDIA_DRIVER = "proc/driver/nvidia/version"

_INSTALL = "pip install 'jepa-edge[nvml]'"
_UNITS = {
    "load": "%",
    "memory": "MB",
    "power": "W",
    "frequency": "MHz",
    "temperature": "°C",
    "held back": "%",
}
_NOTES = {
    "load": "proportion of the last 1/6 to 1 s in which a kernel ran, as measured by the driver",
    "memory": "memory of the card used by all processes",
    "held back": "100 if power or heat limited the clock at the time of the sample, else 0",
}


@dataclass(frozen=True)
class Cards:
    """Probes of the GPUs, or why there are none, and counters of energy in J by name of the GPU."""

    readings: list[ProbeOrReading] = field(default_factory=list)
    energy: dict[str, Callable[[], float]] = field(default_factory=dict)


def nvidia_cards(stack: ExitStack) -> Cards:
    """Return the probes of all GPUs of the driver in bus order; ``stack`` shuts NVML down.

    If there are several, their names contain their number: ``gpu 1 load``.
    """
    try:
        import pynvml as nvml
    except ImportError:
        return _absent(f"reading an NVIDIA GPU requires NVML: {_INSTALL}")
    if not hasattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons"):
        return _absent(f"the installed pynvml is too old: {_INSTALL}")
    try:
        _call(nvml, nvml.nvmlInitWithFlags, 0)
        stack.callback(_shutdown, nvml)
        count = _call(nvml, nvml.nvmlDeviceGetCount)
    except OSError as error:
        return _absent(reason_of(error))
    cards = Cards()
    for index in range(count):
        name = "gpu" if count == 1 else f"gpu {index}"
        try:
            gpu = _call(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
        except OSError as error:  # lost, or reserved for other accounts
            cards.readings.extend(_absent(reason_of(error), name).readings)
            continue
        cards.readings.extend(_probe(name, what, read) for what, read in _readers(nvml, gpu).items())
        counter = partial(_call, nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, gpu)
        with suppress(OSError):  # not supported before Volta
            counter()
            cards.energy[name] = _joules(counter)
    return cards if cards.readings else _absent("NVML: the driver reports no GPU")


def _readers(nvml: ModuleType, gpu: Any) -> dict[str, Callable[[], float]]:
    held_back = (
        nvml.nvmlClocksEventReasonSwPowerCap
        | nvml.nvmlClocksEventReasonHwSlowdown
        | nvml.nvmlClocksEventReasonSwThermalSlowdown
        | nvml.nvmlClocksEventReasonHwThermalSlowdown
        | nvml.nvmlClocksEventReasonHwPowerBrakeSlowdown
    )

    def get(function: Callable[..., Any], *arguments: int) -> Any:
        return _call(nvml, function, gpu, *arguments)

    return {
        "load": lambda: float(get(nvml.nvmlDeviceGetUtilizationRates).gpu),
        "memory": lambda: float(get(nvml.nvmlDeviceGetMemoryInfo).used) / 1e6,
        "power": lambda: float(get(nvml.nvmlDeviceGetPowerUsage)) / 1e3,
        "frequency": lambda: float(get(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM)),
        "temperature": lambda: float(get(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)),
        "held back": lambda: 100.0 if get(nvml.nvmlDeviceGetCurrentClocksEventReasons) & held_back else 0.0,
    }


def _probe(gpu: str, what: str, read: Callable[[], float]) -> ProbeOrReading:
    """Return a probe, or an absent reading if the GPU or its driver does not support this quantity."""
    try:
        read()
    except OSError as error:
        return absent(f"{gpu} {what}", _UNITS[what], reason_of(error))
    return Probe(f"{gpu} {what}", _UNITS[what], read, note=_NOTES.get(what, ""))


def _absent(reason: str, gpu: str = "gpu") -> Cards:
    return Cards([absent(f"{gpu} {what}", _UNITS[what], reason) for what in ("load", "memory", "power")])


def _joules(millijoules: Callable[[], int]) -> Callable[[], float]:
    """Count from the first call; the driver counts from when it was loaded."""
    return since_first(lambda: millijoules() / 1e3)


def _shutdown(nvml: ModuleType) -> None:
    # The driver may have been unloaded.
    with suppress(nvml.NVMLError):
        nvml.nvmlShutdown()


def _call(nvml: ModuleType, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except nvml.NVMLError as error:
        raise OSError(f"NVML: {error}") from error
