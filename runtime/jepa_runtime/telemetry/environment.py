"""The machine that a measurement ran on: CPU, cores, versions, settings."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jepa_runtime.backends.registry import packages
from jepa_runtime.telemetry.measurements import Environment
from jepa_runtime.telemetry.system_settings import settings

_CPUINFO = Path("/proc/cpuinfo")
# In addition to those of the engines.
_PACKAGES = ("jepa-edge", "numpy", "opencv-python", "opencv-python-headless")


def read_environment() -> Environment:
    """Return CPU, versions and system settings of this machine, as profiles record them."""
    return Environment(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        architecture=platform.machine(),
        versions=package_versions(),
        settings=settings(),
    )


def cpu_info() -> dict[str, str | int]:
    """Return the CPU model, the number of cores this process may use, and the architecture."""
    return {"model": _cpu_model(), "cores": len(os.sched_getaffinity(0)), "architecture": platform.machine()}


def package_versions() -> dict[str, str]:
    """Return the versions of Python, kernel, operating system, and packages that affect speed."""
    found = {"python": platform.python_version(), "kernel": platform.release(), "system": _system()}
    for package in dict.fromkeys((*_PACKAGES, *(each.name for each in packages()))):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_rss_mb(pid: int | None = None) -> float:
    """Return the peak resident memory of a process since exec, in MB (10^6 bytes).

    The value of getrusage would include the memory of the parent process before exec.

    Args:
        pid: The process, or None for this one.

    Raises:
        ProcessLookupError: The process has exited.
    """
    path = Path(f"/proc/{pid or 'self'}/status")
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(f"process {pid} has exited")


def _cpu_model() -> str:
    """Return the CPU's name with its family and model (x86), or its implementer and parts (Arm).

    The name alone is ambiguous: virtual machines report the same name for CPUs that differ in speed by a
    factor of two, and most Arm CPUs have none.
    """
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    pairs = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    fields = dict(pairs)
    name = fields.get("model name") or fields.get("Model") or platform.processor() or platform.machine()
    keys = ("cpu family", "model") if "cpu family" in fields else ("CPU implementer", "CPU part")
    details = [
        f"{key.split()[-1]} {', '.join(dict.fromkeys(value for other, value in pairs if other == key))}"
        for key in keys
        if key in fields
    ]
    return f"{name} ({', '.join(details)})" if details else name


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()
