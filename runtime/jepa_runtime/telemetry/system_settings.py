"""What a system is set to that changes how fast it is: what a comparison of two profiles must know."""

from __future__ import annotations

import re
from pathlib import Path

from jepa_runtime.telemetry.cpu import is_virtual_machine
from jepa_runtime.telemetry.sysfs import Files

_CPU = "sys/devices/system/cpu"
_INTEL = "0x8086"  # among the makers of PCI devices
_POLICY = {
    "governor": "scaling_governor",
    "energy preference": "energy_performance_preference",
    "least frequency": "scaling_min_freq",
    "greatest frequency": "scaling_max_freq",
}


def settings(root: Path = Path("/")) -> dict[str, str]:
    """The settings that can be read below ``root``; the others are left out.

    Keys: ``governor``, ``energy preference``, ``least frequency`` and ``greatest frequency`` (kHz, as the
    governor may choose), ``turbo``, ``smt``, ``isolated cores``, ``cpu quota`` (of this process's control
    groups, as docker's ``--cpus`` sets it), ``gpu`` (NVIDIA's by name, Intel's by the
    number of the model), ``power mode`` (Jetson's nvpmodel), ``platform profile``, ``preemption``, ``swap``,
    ``board``, ``container``, ``virtual machine``.
    """
    files = Files(root)
    found = {name: _of_all_cores(files, file) for name, file in _POLICY.items()} | {
        "turbo": _turbo(files),
        "smt": files.get(f"{_CPU}/smt/control"),
        "isolated cores": files.get(f"{_CPU}/isolated"),
        "cpu quota": _quota(files),
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


def _of_all_cores(files: Files, name: str) -> str | None:
    values = {files.get(path) for path in files.find(f"{_CPU}/cpu[0-9]*/cpufreq/{name}")}
    return ", ".join(sorted(value for value in values if value)) or None


def _turbo(files: Files) -> str | None:
    if no_turbo := files.get(f"{_CPU}/intel_pstate/no_turbo"):
        return "off" if no_turbo == "1" else "on"
    if boost := files.get(f"{_CPU}/cpufreq/boost"):
        return "on" if boost == "1" else "off"
    return None


def _quota(files: Files) -> str | None:
    """The least of this process's control group and of those that hold it, in version 2 and in version 1."""
    found = []
    for line in (files.get("proc/self/cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        for folder in (Path(group), *Path(group).parents):
            if not controllers:
                told = files.get(f"sys/fs/cgroup{folder}/cpu.max") or ""
            elif "cpu" in controllers.split(","):
                own = f"sys/fs/cgroup/cpu{folder}/cpu.cfs"
                told = f"{files.get(f'{own}_quota_us')} {files.get(f'{own}_period_us')}"
            else:
                break
            if limit := re.fullmatch(r"([0-9]+) ([0-9]+)", told):
                found.append(int(limit[1]) / int(limit[2]))
    return f"{min(found):g} cores" if found else None


def _gpus(files: Files) -> str | None:
    told = [files.get(path) or "" for path in files.find("proc/driver/nvidia/gpus/*/information")]
    nvidia = [match[1] for text in told if (match := re.search(r"^Model:\s*(\S.*)$", text, re.MULTILINE))]
    cards = files.find("sys/class/drm/card[0-9]*/device/vendor")
    intel = [
        f"Intel {files.get(path.removesuffix('vendor') + 'device')}"
        for path in cards
        if files.get(path) == _INTEL
    ]
    return ", ".join(nvidia + intel) or None


def _power_mode(files: Files) -> str | None:
    """nvpmodel keeps the number of the mode in its state; the modes' names are in its configuration."""
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
