"""NVIDIA's GPUs outside a Jetson: their driver's library, NVML, tells what no file does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

from jepa_runtime.telemetry.probes import Found, Probe, absent, reason_of, since_first

GPU_LOAD = "gpu load"
GPU_MEMORY = "gpu memory"
GPU_POWER = "gpu power"
# There on a machine with an NVIDIA GPU whose driver is loaded, some Jetsons among them.
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
    "load": "time in which any kernel ran, of the last 1/6 to 1 s, as the driver counts",
    "memory": "what all processes use of that of the card",
    "held back": "100 where power or heat held its clock back as it was sampled, else 0",
}


@dataclass(frozen=True)
class Cards:
    """What the GPUs tell: readings, or why there are none, and counters of energy in J by the GPU's name."""

    readings: list[Found] = field(default_factory=list)
    energy: dict[str, Callable[[], float]] = field(default_factory=dict)


def nvidia_cards(stack: ExitStack) -> Cards:
    """All GPUs that the driver shows, in the order of their places on the bus; ``stack`` lets go of NVML. Of
    several each has its number in the names: ``gpu 1 load``."""
    try:
        import pynvml as nvml
    except ImportError:
        return _none(f"an NVIDIA GPU tells it through NVML: {_INSTALL}")
    if not hasattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons"):
        return _none(f"the pynvml that is installed is too old: {_INSTALL}")
    try:
        _ask(nvml, nvml.nvmlInitWithFlags, 0)
        stack.callback(_let_go, nvml)
        count = _ask(nvml, nvml.nvmlDeviceGetCount)
    except OSError as error:
        return _none(reason_of(error))
    cards = Cards()
    for index in range(count):
        name = "gpu" if count == 1 else f"gpu {index}"
        try:
            gpu = _ask(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
        except OSError as error:  # it is lost, or others alone may use it
            cards.readings.extend(_none(reason_of(error), name).readings)
            continue
        cards.readings.extend(_probe(name, what, read) for what, read in _reads(nvml, gpu).items())
        counter = partial(_ask, nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, gpu)
        with suppress(OSError):  # not before Volta
            counter()
            cards.energy[name] = _joules(counter)
    return cards if cards.readings else _none("NVML: the driver shows no GPU")


def _reads(nvml: ModuleType, gpu: Any) -> dict[str, Callable[[], float]]:
    held_back = (
        nvml.nvmlClocksEventReasonSwPowerCap
        | nvml.nvmlClocksEventReasonHwSlowdown
        | nvml.nvmlClocksEventReasonSwThermalSlowdown
        | nvml.nvmlClocksEventReasonHwThermalSlowdown
        | nvml.nvmlClocksEventReasonHwPowerBrakeSlowdown
    )

    def ask(function: Callable[..., Any], *what: int) -> Any:
        return _ask(nvml, function, gpu, *what)

    return {
        "load": lambda: float(ask(nvml.nvmlDeviceGetUtilizationRates).gpu),
        "memory": lambda: float(ask(nvml.nvmlDeviceGetMemoryInfo).used) / 1e6,
        "power": lambda: float(ask(nvml.nvmlDeviceGetPowerUsage)) / 1e3,
        "frequency": lambda: float(ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM)),
        "temperature": lambda: float(ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)),
        "held back": lambda: 100.0 if ask(nvml.nvmlDeviceGetCurrentClocksEventReasons) & held_back else 0.0,
    }


def _probe(gpu: str, what: str, read: Callable[[], float]) -> Found:
    """Of what this GPU or its driver does not tell at all, the reason."""
    try:
        read()
    except OSError as error:
        return absent(f"{gpu} {what}", _UNITS[what], reason_of(error))
    return Probe(f"{gpu} {what}", _UNITS[what], read, note=_NOTES.get(what, ""))


def _none(reason: str, gpu: str = "gpu") -> Cards:
    return Cards([absent(f"{gpu} {what}", _UNITS[what], reason) for what in ("load", "memory", "power")])


def _joules(millijoules: Callable[[], int]) -> Callable[[], float]:
    """Since the first call: the driver counts from its own start."""
    return since_first(lambda: millijoules() / 1e3)


def _let_go(nvml: ModuleType) -> None:
    # Of a driver that is gone by now there is nothing to let go of.
    with suppress(nvml.NVMLError):
        nvml.nvmlShutdown()


def _ask(nvml: ModuleType, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except nvml.NVMLError as error:
        raise OSError(f"NVML: {error}") from error
