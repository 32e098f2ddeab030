"""System settings that affect speed, recorded so that two profiles can be compared."""

from __future__ import annotations

import re
from pathlib import Path

from jepa_runtime.telemetry.cpu import is_virtual_machine
from jepa_runtime.telemetry.sysfs import Files

_CPU = "sys/devices/system/cpu"
_INTEL = "0x8086"  # PCI vendor id
_POLICY = {
    "governor": "scaling_governor",
    "energy preference": "energy_performance_preference",
    "least frequency": "scaling_min_freq",
    "greatest frequency": "scaling_max_freq",
}


def settings(root: Path = Path("/")) -> dict[str, str]:
    """Return the settings that can be read below ``root``; the others are omitted.

    Keys: ``governor``, ``energy preference``, ``least frequency`` and ``greatest frequency`` (the governor's
    range in kHz), ``turbo``, ``smt``, ``isolated cores``, ``cpu quota`` (of this process's control groups, as
    set by docker's ``--cpus``), ``gpu`` (NVIDIA by name, Intel by device id), ``power mode`` (Jetson's
    nvpmodel), ``platform profile``, ``preemption``, ``swap``, ``board``, ``container``, ``virtual machine``.
    """
    files = Files(root)
    found = {name: _cpufreq_values(files, file) for name, file in _POLICY.items()} | {
        "turbo": _turbo(files),
        "smt": files.get(f"{_CPU}/smt/control"),
        "isolated cores": files.get(f"{_CPU}/isolated"),
        "cpu quota": _cpu_quota(files),
        "gpu": _gpus(files),
        "power mode": _power_mode(files),
        "platform profile": files.get("sys/firmware/acpi/platform_profile"),
        "preemption": _preemption(files),
        "swap": _swap(files),
        "board": files.get("proc/device-tree/model") or files.get("sys/class/dmi/id/product_name"),
        "container": _container(files),
        "virtual machine": "yes" if is_virtual_machine(files.get("proc/cpuinfo") or "") else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _cpufreq_values(files: Files, name: str) -> str | None:
    values = {files.get(path) for path in files.find(f"{_CPU}/cpu[0-9]*/cpufreq/{name}")}
    return ", ".join(sorted(value for value in values if value)) or None


def _turbo(files: Files) -> str | None:
    if no_turbo := files.get(f"{_CPU}/intel_pstate/no_turbo"):
        return "off" if no_turbo == "1" else "on"
    if boost := files.get(f"{_CPU}/cpufreq/boost"):
        return "on" if boost == "1" else "off"
    return None


def _cpu_quota(files: Files) -> str | None:
    """Return the smallest quota of this process's control group and its parents (cgroup version 1 and 2)."""
    found = []
    for line in (files.get("proc/self/cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        for folder in (Path(group), *Path(group).parents):
            if not controllers:
                quota = files.get(f"sys/fs/cgroup{folder}/cpu.max") or ""
            elif "cpu" in controllers.split(","):
                prefix = f"sys/fs/cgroup/cpu{folder}/cpu.cfs"
                quota = f"{files.get(f'{prefix}_quota_us')} {files.get(f'{prefix}_period_us')}"
            else:
                break
            if limit := re.fullmatch(r"([0-9]+) ([0-9]+)", quota):
                found.append(int(limit[1]) / int(limit[2]))
    return f"{min(found):g} cores" if found else None


def _gpus(files: Files) -> str | None:
    texts = [files.get(path) or "" for path in files.find("proc/driver/nvidia/gpus/*/information")]
    nvidia = [match[1] for text in texts if (match := re.search(r"^Model:\s*(\S.*)$", text, re.MULTILINE))]
    cards = files.find("sys/class/drm/card[0-9]*/device/vendor")
    intel = [
        f"Intel {files.get(path.removesuffix('vendor') + 'device')}"
        for path in cards
        if files.get(path) == _INTEL
    ]
    return ", ".join(nvidia + intel) or None


def _power_mode(files: Files) -> str | None:
    """Return the name of nvpmodel's mode; its state has the number, its configuration the names."""
    state = re.search(r"pmode:([0-9]+)", files.get("var/lib/nvpmodel/status") or "")
    if state is None:
        return None
    number = int(state[1])
    models = re.findall(
        r"^\s*<\s*POWER_MODEL\s+ID=([0-9]+)\s+NAME=(\S+)\s*>",
        files.get("etc/nvpmodel.conf") or "",
        re.MULTILINE,
    )
    return next((name for identity, name in models if int(identity) == number), f"mode {number}")


def _preemption(files: Files) -> str | None:
    if files.get("sys/kernel/realtime") == "1":
        return "PREEMPT_RT"
    version = files.get("proc/version")
    if version is None:
        return None
    match = re.search(r"\bPREEMPT(?:_\w+)?\b", version)
    return match[0] if match else "none"


def _swap(files: Files) -> str | None:
    table = files.get("proc/swaps")
    return None if table is None else ("on" if len(table.splitlines()) > 1 else "off")


def _container(files: Files) -> str | None:
    if name := files.get("run/systemd/container"):
        return name
    if files.exists(".dockerenv"):
        return "docker"
    if files.exists("run/.containerenv"):
        return "podman"
    match = re.search(r"\b(docker|kubepods|lxc|containerd)\b", files.get("proc/1/cgroup") or "")
    return match[1] if match else None
