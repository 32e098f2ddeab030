"""GPU and NPU: how much of the time they were busy, and their clocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jepa_runtime.telemetry.nvml import GPU_LOAD, GPU_MEMORY, GPU_POWER, Cards
from jepa_runtime.telemetry.probes import Found, Machine, Probe, absent, number_in, rate
from jepa_runtime.telemetry.sysfs import Files

NPU_BUSY = "npu busy"

# JetPack 4 to 7 on Nano, TX2, Xavier and Orin; per mille. Several are links to the same file.
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
# Time asleep, in ms, and the clock in MHz: the drivers i915 and xe.
_INTEL = (
    ("sys/class/drm/card*/gt/gt0/rc6_residency_ms", "rps_act_freq_mhz"),
    ("sys/class/drm/card*/device/tile0/gt0/gtidle/idle_residency_ms", "../freq0/act_freq"),
)
# The driver asks not to read its counter more often, for the sake of job submission (kernel: ivpu_sysfs.c).
_NPU_PERIOD_S = 1.0
_NPU_MORE = (
    ("npu frequency", "MHz", "npu_current_frequency_mhz", 1.0),
    ("npu memory", "MB", "npu_memory_utilization", 1e-6),
)


def is_jetson(files: Files) -> bool:
    """Whether the GPU is one of a Jetson."""
    return bool(_jetson(files))


def accelerator_probes(machine: Machine, cards: Cards) -> list[Found]:
    """Load of a Jetson's GPU, time awake of an Intel GPU, what ``cards`` tell, busy time of an Intel NPU;
    their clocks. What they do not tell is absent with the reason: memory and power of a GPU are in no file.
    """
    return _gpu(machine, cards) + _npu(machine)


def _gpu(machine: Machine, cards: Cards) -> list[Found]:
    if found := _jetson(machine.files):
        in_ram = "a Jetson's GPU has no memory of its own: what it uses is part of that of the system"
        by_rails = "a Jetson tells it by its rails, most of which feed other parts too"
        return [*found, absent(GPU_MEMORY, "MB", in_ram), absent(GPU_POWER, "W", by_rails)]
    found = _intel(machine)
    if cards.readings:
        return [*(replace(each, name=f"integrated {each.name}") for each in found), *cards.readings]
    missing = {GPU_MEMORY: "MB", GPU_POWER: "W"} | ({} if found else {GPU_LOAD: "%"})
    reason = "no GPU that tells its load, memory or power in sysfs (Jetson devfreq, Intel i915 or xe)"
    if found:
        reason = "of an Intel GPU it is not read; where it is in the processor, ram and package power hold it"
    return [*found, *(absent(name, unit, reason) for name, unit in missing.items())]


def _jetson(files: Files) -> list[Found]:
    found: list[Found] = []
    if load := _first(files, _JETSON_LOAD):
        found.append(Probe(GPU_LOAD, "%", number_in(files, load, scale=0.1)))
    if clock := _first(files, _JETSON_CLOCK):
        if load is None:
            found.append(absent(GPU_LOAD, "%", "this kernel has no file 'load' of the GPU"))
        found.append(Probe("gpu frequency", "MHz", number_in(files, clock, scale=1e-6)))
    return found


def _intel(machine: Machine) -> list[Found]:
    found: list[Found] = []
    for pattern, clock in _INTEL:
        for asleep in machine.files.find(pattern)[:1]:
            sleeping = rate(number_in(machine.files, asleep), machine.clock)
            found.append(Probe("gpu awake", "%", _share(sleeping, 1e3, of_rest=True)))
            path = f"{asleep.rpartition('/')[0]}/{clock}"
            if machine.files.exists(path):
                found.append(Probe("gpu frequency", "MHz", number_in(machine.files, path)))
    return found


def _share(
    pace: Callable[[], float | None], full: float, *, of_rest: bool = False
) -> Callable[[], float | None]:
    """In %: of the pace ``full`` at which a counter of time rises that never stands still."""

    def read() -> float | None:
        now = pace()
        if now is None:
            return None
        share = min(100.0, 100 * now / full)
        return 100 - share if of_rest else share

    return read


def _npu(machine: Machine) -> list[Found]:
    files = machine.files
    devices = files.find("sys/class/accel/accel*/device")
    if not devices:
        names = {NPU_BUSY: "%"} | {name: unit for name, unit, *_ in _NPU_MORE}
        return [absent(name, unit, "no NPU under /sys/class/accel") for name, unit in names.items()]
    busy = f"{devices[0]}/npu_busy_time_us"
    found: list[Found] = []
    if files.exists(busy):
        pace = rate(number_in(files, busy), machine.clock, least_s=_NPU_PERIOD_S)
        found.append(Probe(NPU_BUSY, "%", _share(pace, 1e6)))
    else:
        found.append(absent(NPU_BUSY, "%", f"no /{busy}: it takes intel_vpu of Linux 6.10 or later"))
    for name, unit, file, scale in _NPU_MORE:
        path = f"{devices[0]}/{file}"
        if files.exists(path):
            found.append(Probe(name, unit, number_in(files, path, scale=scale)))
        else:
            found.append(absent(name, unit, f"no /{path}: it takes a later intel_vpu"))
    return found


def _first(files: Files, patterns: tuple[str, ...]) -> str | None:
    return next((path for pattern in patterns for path in files.find(pattern)), None)
