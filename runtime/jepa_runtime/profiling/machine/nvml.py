"""NVIDIA's GPUs outside a Jetson: their driver's library, NVML, tells what no file does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

from jepa_runtime.profiling.machine.probes import Found, Probe, absent, reason_of, since_first

GPU_LOAD = "gpu load"
GPU_MEMORY = "gpu memory"
GPU_POWER = "gpu power"
GPU_FREQUENCY = "gpu frequency"
# There on a machine with an NVIDIA GPU whose driver is loaded, some Jetsons among them.
NVIDIA_DRIVER = "proc/driver/nvidia/version"

_UNITS = {
    GPU_LOAD: "%",
    GPU_MEMORY: "MB",
    GPU_POWER: "W",
    GPU_FREQUENCY: "MHz",
    "gpu temperature": "°C",
    "gpu held back": "%",
}
_NOTES = {
    GPU_LOAD: "time in which any kernel ran, of the last 1/6 to 1 s, as the driver counts",
    GPU_MEMORY: "what all processes use of that of the card",
    "gpu held back": "100 where power or heat held its clock back as it was sampled, else 0",
}


@dataclass(frozen=True)
class Cards:
    """What the GPUs tell: readings, or why there are none, and counters of energy in J by the GPU's name."""

    readings: list[Found] = field(default_factory=list)
    energy: dict[str, Callable[[], float]] = field(default_factory=dict)


def nvidia_cards(stack: ExitStack) -> Cards:
    """All GPUs that the driver shows, in the order of their places on the bus; ``stack`` lets go of NVML."""
    try:
        import pynvml as nvml
    except ImportError:
        return _none("an NVIDIA GPU tells it through NVML: pip install 'jepa-edge[nvml]'")
    try:
        _ask(nvml, nvml.nvmlInitWithFlags, 0)
        stack.callback(nvml.nvmlShutdown)
        count = _ask(nvml, nvml.nvmlDeviceGetCount)
        gpus = [_ask(nvml, nvml.nvmlDeviceGetHandleByIndex, index) for index in range(count)]
    except OSError as error:
        return _none(reason_of(error))
    if not gpus:
        return _none("NVML: the driver shows no GPU")
    cards = Cards()
    for index, gpu in enumerate(gpus):
        for name, read in _reads(nvml, gpu).items():
            cards.readings.append(_probe(name, read))
        counter = partial(_ask, nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, gpu)
        with suppress(OSError):  # not before Volta
            counter()
            cards.energy[f"GPU {index}"] = _joules(counter)
    return cards


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
        GPU_LOAD: lambda: float(ask(nvml.nvmlDeviceGetUtilizationRates).gpu),
        GPU_MEMORY: lambda: float(ask(nvml.nvmlDeviceGetMemoryInfo).used) / 1e6,
        GPU_POWER: lambda: float(ask(nvml.nvmlDeviceGetPowerUsage)) / 1e3,
        GPU_FREQUENCY: lambda: float(ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM)),
        "gpu temperature": lambda: float(ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)),
        "gpu held back": lambda: (
            100.0 if ask(nvml.nvmlDeviceGetCurrentClocksEventReasons) & held_back else 0.0
        ),
    }


def _probe(name: str, read: Callable[[], float]) -> Found:
    """Of what this GPU or its driver does not tell at all, the reason."""
    try:
        read()
    except OSError as error:
        return absent(name, _UNITS[name], reason_of(error))
    return Probe(name, _UNITS[name], read, note=_NOTES.get(name, ""))


def _none(reason: str) -> Cards:
    return Cards([absent(name, _UNITS[name], reason) for name in (GPU_LOAD, GPU_MEMORY, GPU_POWER)])


def _joules(millijoules: Callable[[], int]) -> Callable[[], float]:
    """Since the first call: the driver counts from its own start."""
    return since_first(lambda: millijoules() / 1e3)


def _ask(nvml: ModuleType, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except nvml.NVMLError as error:
        raise OSError(f"NVML: {error}") from error
