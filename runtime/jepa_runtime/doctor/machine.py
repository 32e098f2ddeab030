"""Detect the kind of machine: NVIDIA Jetson, a PC with an Intel NPU, or a plain computer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jepa_runtime.doctor.system import System
from jepa_runtime.errors import UndeterminedError
from jepa_runtime.telemetry.cpu import is_virtual_machine

Kind = Literal["jetson", "intel_npu", "plain"]

# Modules by the part number in the device tree's "compatible" (NVIDIA, Jetson Linux Developer Guide).
_MODULES = {
    "p3767-0000": "Orin NX 16GB",
    "p3767-0001": "Orin NX 8GB",
    "p3767-0003": "Orin Nano 8GB",
    "p3767-0004": "Orin Nano 4GB",
    "p3767-0005": "Orin Nano 8GB of the developer kit",
    "p3701-0000": "AGX Orin",
    "p3701-0004": "AGX Orin 32GB",
    "p3701-0005": "AGX Orin 64GB",
    "p3701-0008": "AGX Orin Industrial",
    "p3834-0008": "Thor T5000",
}
_INTEL = "0x8086"


@dataclass(frozen=True)
class Npu:
    """A generation of the Intel NPU.

    Attributes:
        platform: OpenVINO's name of the platform.
        product: The processor family.
        firmware: The firmware generation.
        min_kernel: The first Linux release whose driver supports it.
    """

    platform: str
    product: str
    firmware: str
    min_kernel: tuple[int, int] = (6, 6)


# Linux: drivers/accel/ivpu/ivpu_drv.h, ivpu_fw.c.
NPUS = {
    "0x7d1d": Npu("3720", "Meteor Lake", "37xx"),
    "0xad1d": Npu("3720", "Arrow Lake", "37xx"),
    "0x643e": Npu("4000", "Lunar Lake", "40xx"),
    # In 6.12 since the stable updates of June 2025.
    "0xb03e": Npu("5010", "Panther Lake", "50xx", (6, 12)),
    "0xfd3e": Npu("50xx", "Wildcat Lake", "50xx", (6, 17)),
}


@dataclass(frozen=True)
class Machine:
    """The detected machine.

    Attributes:
        kind: Decides which checks apply.
        name: A human-readable description.
        architecture: As ``uname -m`` prints it, or "unknown architecture".
        npu: The generation of the Intel NPU, or None.
        npu_device: The sysfs folder of the NPU, or an empty string.
        uncertainty: What could not be read during detection, or an empty string. If set, ``kind`` may be
            wrong.
    """

    kind: Kind
    name: str
    architecture: str
    npu: Npu | None = None
    npu_device: str = ""
    uncertainty: str = ""


def detect(system: System) -> Machine:
    """Return the machine of ``system``; never raises."""
    unreadable: list[str] = []
    architecture = _read_or_empty(system.facts.architecture) or "unknown architecture"
    try:
        if (jetson := _jetson(system, architecture)) is not None:
            return Machine("jetson", jetson, architecture)
    except UndeterminedError as error:
        unreadable.append(str(error))
    name = _processor(system) or "unknown processor"
    for device in system.find("sys/bus/pci/devices/*"):
        try:
            if system.text(f"{device}/vendor") != _INTEL:
                continue
            npu = NPUS.get(system.text(f"{device}/device"))
        except UndeterminedError as error:
            unreadable.append(str(error))
            continue
        if npu is not None:
            return Machine(
                "intel_npu",
                f"{name}, NPU {npu.platform} ({npu.product})",
                architecture,
                npu,
                device,
                "; ".join(unreadable),
            )
    return Machine("plain", name, architecture, uncertainty="; ".join(unreadable))


def _jetson(system: System, architecture: str) -> str | None:
    """Return the model, module and release of a Jetson, or None for any other machine."""
    compatible = []
    if system.exists("proc/device-tree/compatible"):
        compatible = system.strings("proc/device-tree/compatible")
        if not any(entry.startswith("nvidia,tegra") for entry in compatible):
            return None
    # A mounted disk has no device tree, and containers cannot see it. On x86, nv_tegra_release belongs to a
    # cross-build environment.
    elif architecture == "x86_64" or not (
        system.exists("etc/nv_tegra_release")
        or _read_or_empty(system.text, "sys/devices/soc0/family").lower().startswith("tegra")
    ):
        return None
    model = _read_or_empty(system.text, "proc/device-tree/model") or _read_or_empty(
        system.text, "sys/devices/soc0/machine"
    )
    parts = [model or "NVIDIA Jetson"]
    parts += [f"module {name}" for part, name in _MODULES.items() if part in " ".join(compatible)]
    release = _read_or_empty(system.text, "etc/nv_tegra_release")
    if found := re.match(r"# R([0-9]+) \(release\), REVISION: ([0-9.]+)", release):
        parts.append(f"L4T {found[1]}.{found[2]}")
    if jetpack := _read_or_empty(lambda: system.debian.get("nvidia-jetpack")):
        parts.append(f"JetPack {jetpack}")
    return ", ".join(parts)


def _processor(system: System) -> str:
    text = _read_or_empty(system.text, "proc/cpuinfo")
    # /proc/cpuinfo on Arm has no model name; boards have it in the device tree.
    named = re.search(r"^(?:model name|Model)\s*: (.+)$", text, re.MULTILINE)
    name = named[1].strip() if named else _read_or_empty(system.text, "proc/device-tree/model")
    return f"{name} (virtual machine)" if name and is_virtual_machine(text) else name


def _read_or_empty(read: Callable[..., str | None], *path: str) -> str:
    """Return what ``read`` returns, or an empty string if it cannot be determined."""
    try:
        return read(*path) or ""
    except UndeterminedError:
        return ""
