"""What something was measured on: processor, cores, versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jepa_runtime.telemetry.measurements import Environment
from jepa_runtime.telemetry.system_settings import settings

_CPUINFO = Path("/proc/cpuinfo")
_PACKAGES = (
    "jepa-edge", "numpy", "openvino", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13-libs",
    "opencv-python", "opencv-python-headless",
)  # fmt: skip


def environment() -> Environment:
    """This machine as a profile names it: processor, versions, and what the system is set to."""
    return Environment(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        architecture=platform.machine(),
        versions=versions(),
        settings=settings(),
    )


def cpu() -> dict[str, str | int]:
    """Model name, cores this process may use, and architecture."""
    return {"model": _cpu_model(), "cores": len(os.sched_getaffinity(0)), "architecture": platform.machine()}


def versions() -> dict[str, str]:
    """Versions of Python, the system, and the installed packages that matter for speed."""
    found = {"python": platform.python_version(), "kernel": platform.release(), "system": _system()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_rss_mb(pid: int | None = None) -> float:
    """The most memory that a process (None: this one) has held since it was loaded, in MB (10^6 bytes). What
    getrusage tells includes the memory of the process that started it.

    Raises:
        ProcessLookupError: it has ended.
    """
    path = Path(f"/proc/{pid or 'self'}/status")
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(f"process {pid} has ended")


def _cpu_model() -> str:
    """As the processor calls itself, and which one it is where it tells (x86: family and model; Arm:
    implementer and part, or parts): virtual machines give processors of twice the speed the same name, and
    most of Arm have none."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    pairs = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    told = dict(pairs)
    name = told.get("model name") or told.get("Model") or platform.processor() or platform.machine()
    which = ("cpu family", "model") if "cpu family" in told else ("CPU implementer", "CPU part")
    known = [
        f"{key.split()[-1]} {', '.join(dict.fromkeys(value for of, value in pairs if of == key))}"
        for key in which
        if key in told
    ]
    return f"{name} ({', '.join(known)})" if known else name


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()
