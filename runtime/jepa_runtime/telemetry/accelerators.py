"""Probes of GPU and NPU: load and clock frequency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jepa_runtime.telemetry.nvml import GPU_LOAD, GPU_MEMORY, GPU_POWER, Cards
from jepa_runtime.telemetry.probes import Machine, Probe, ProbeOrReading, absent, number_in, rate
from jepa_runtime.telemetry.sysfs import Files

NPU_BUSY = "npu busy"

# JetPack 4 to 7 on Nano, TX2, Xavier and Orin, in per mille. Several of these link to the same file.
_JETSON_LOAD = (
    "sys/class/devfreq/*.gpu/device/load",
    "sys/class/devfreq/*.g[amvp][0-9]*b/device/load",
    "sys/devices/platform/*gpu*/load",
    "sys/devices/platform/bus@0/*.gpu/load",
    "sys/devices/gpu.0/load",
)
_JETSON_CLOCK = (
    "sys/class/devfreq/*.gpu/cur_freq",
    "sys/class/devfreq/*.g[amvp][0-9]*b/cur_freq",
    "sys/class/devfreq/gpu-gpc-0/cur_freq",  # Thor
)
# Idle time in ms and clock in MHz, of the drivers i915 and xe.
_INTEL = (
    ("sys/class/drm/card*/gt/gt0/rc6_residency_ms", "rps_act_freq_mhz"),
    ("sys/class/drm/card*/device/tile0/gt0/gtidle/idle_residency_ms", "../freq0/act_freq"),
)
# More frequent reads of the counter would delay job submission (kernel: ivpu_sysfs.c).
_NPU_PERIOD_S = 1.0
_NPU_ATTRIBUTES = (
    ("npu frequency", "MHz", "npu_current_frequency_mhz", 1.0),
    ("npu memory", "MB", "npu_memory_utilization", 1e-6),
)


def is_jetson(files: Files) -> bool:
    """Return whether the machine has the GPU of a Jetson."""
    return bool(_jetson(files))


def accelerator_probes(machine: Machine, cards: Cards) -> list[ProbeOrReading]:
    """Return the probes of all accelerators and the reasons for those that are absent.

    Load and clock of a Jetson's GPU, active time and clock of an Intel GPU, the readings of ``cards``, busy
    time, clock and memory of an Intel NPU.
    """
    return _gpu(machine, cards) + _npu(machine)


def _gpu(machine: Machine, cards: Cards) -> list[ProbeOrReading]:
    if found := _jetson(machine.files):
        in_ram = "a Jetson's GPU has no dedicated memory: its use is included in system memory"
        by_rails = "a Jetson measures power rails, most of which feed other devices in addition to the GPU"
        return [*found, absent(GPU_MEMORY, "MB", in_ram), absent(GPU_POWER, "W", by_rails)]
    found = _intel(machine)
    if cards.readings:
        return [*(replace(each, name=f"integrated {each.name}") for each in found), *cards.readings]
    missing = {GPU_MEMORY: "MB", GPU_POWER: "W"} | ({} if found else {GPU_LOAD: "%"})
    reason = "no GPU reports load, memory or power in sysfs (Jetson devfreq, Intel i915 or xe)"
    if found:
        reason = "not read from Intel GPUs; that of an integrated GPU is included in RAM and package power"
    return [*found, *(absent(name, unit, reason) for name, unit in missing.items())]


def _jetson(files: Files) -> list[ProbeOrReading]:
    found: list[ProbeOrReading] = []
    if load := _first(files, _JETSON_LOAD):
        found.append(Probe(GPU_LOAD, "%", number_in(files, load, scale=0.1)))
    if clock := _first(files, _JETSON_CLOCK):
        if load is None:
            found.append(absent(GPU_LOAD, "%", "this kernel has no file 'load' for the GPU"))
        found.append(Probe("gpu frequency", "MHz", number_in(files, clock, scale=1e-6)))
    return found


def _intel(machine: Machine) -> list[ProbeOrReading]:
    found: list[ProbeOrReading] = []
    for pattern, clock in _INTEL:
        for idle_file in machine.files.find(pattern)[:1]:
            idle_rate = rate(number_in(machine.files, idle_file), machine.clock)
            found.append(Probe("gpu awake", "%", _proportion(idle_rate, 1e3, complement=True)))
            path = f"{idle_file.rpartition('/')[0]}/{clock}"
            if machine.files.exists(path):
                found.append(Probe("gpu frequency", "MHz", number_in(machine.files, path)))
    return found


def _proportion(
    rate_of: Callable[[], float | None], full: float, *, complement: bool = False
) -> Callable[[], float | None]:
    """Return a reader of a time counter's rate in % of ``full``, or of the complement."""

    def read() -> float | None:
        now = rate_of()
        if now is None:
            return None
        proportion = min(100.0, 100 * now / full)
        return 100 - proportion if complement else proportion

    return read


def _npu(machine: Machine) -> list[ProbeOrReading]:
    files = machine.files
    devices = files.find("sys/class/accel/accel*/device")
    if not devices:
        names = {NPU_BUSY: "%"} | {name: unit for name, unit, *_ in _NPU_ATTRIBUTES}
        return [absent(name, unit, "no NPU in /sys/class/accel") for name, unit in names.items()]
    busy_file = f"{devices[0]}/npu_busy_time_us"
    found: list[ProbeOrReading] = []
    if files.exists(busy_file):
        busy_rate = rate(number_in(files, busy_file), machine.clock, min_interval_s=_NPU_PERIOD_S)
        found.append(Probe(NPU_BUSY, "%", _proportion(busy_rate, 1e6)))
    else:
        found.append(absent(NPU_BUSY, "%", f"/{busy_file} does not exist: Linux 6.10 or later is required"))
    for name, unit, file, scale in _NPU_ATTRIBUTES:
        path = f"{devices[0]}/{file}"
        if files.exists(path):
            found.append(Probe(name, unit, number_in(files, path, scale=scale)))
        else:
            found.append(absent(name, unit, f"/{path} does not exist: a newer intel_vpu driver is required"))
    return found


def _first(files: Files, patterns: tuple[str, ...]) -> str | None:
    return next((path for pattern in patterns for path in files.find(pattern)), None)
