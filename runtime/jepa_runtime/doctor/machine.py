"""Which machine this is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jepa_runtime.doctor.system import System
from jepa_runtime.errors import UndeterminedError
from jepa_runtime.telemetry.cpu import virtual

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
    """A generation of Intel's NPU: the platform as OpenVINO counts it, the firmware's generation, and the
    first Linux that drives it."""

    platform: str
    product: str
    firmware: str
    linux: tuple[int, int] = (6, 6)


# Linux: drivers/accel/ivpu/ivpu_drv.h, ivpu_fw.c.
NPUS = {
    "0x7d1d": Npu("3720", "Meteor Lake", "37xx"),
    "0xad1d": Npu("3720", "Arrow Lake", "37xx"),
    "0x643e": Npu("4000", "Lunar Lake", "40xx"),
    # Of 6.12 the updates from June 2025 on.
    "0xb03e": Npu("5010", "Panther Lake", "50xx", (6, 12)),
    "0xfd3e": Npu("50xx", "Wildcat Lake", "50xx", (6, 17)),
}


@dataclass(frozen=True)
class Machine:
    """What was detected.

    Attributes:
        name: for people.
        architecture: as ``uname -m``, or "unknown architecture".
        npu: generation of the Intel NPU, if it has one, and ``npu_device`` its folder in sysfs.
        doubt: what could not be told on the way; the machine may be another kind then.
    """

    kind: Kind
    name: str
    architecture: str
    npu: Npu | None = None
    npu_device: str = ""
    doubt: str = ""


def detect(system: System) -> Machine:
    """The machine of ``system``; never fails."""
    doubts: list[str] = []
    architecture = _known(system.facts.architecture) or "unknown architecture"
    try:
        if (jetson := _jetson(system, architecture)) is not None:
            return Machine("jetson", jetson, architecture)
    except UndeterminedError as error:
        doubts.append(str(error))
    name = _processor(system) or "processor unknown"
    for device in system.find("sys/bus/pci/devices/*"):
        try:
            if system.text(f"{device}/vendor") != _INTEL:
                continue
            npu = NPUS.get(system.text(f"{device}/device"))
        except UndeterminedError as error:
            doubts.append(str(error))
            continue
        if npu is not None:
            return Machine(
                "intel_npu",
                f"{name}, NPU {npu.platform} ({npu.product})",
                architecture,
                npu,
                device,
                "; ".join(doubts),
            )
    return Machine("plain", name, architecture, doubt="; ".join(doubts))


def _jetson(system: System, architecture: str) -> str | None:
    """Model, module and system; None if it is none."""
    compatible = []
    if system.exists("proc/device-tree/compatible"):
        compatible = system.strings("proc/device-tree/compatible")
        if not any(entry.startswith("nvidia,tegra") for entry in compatible):
            return None
    # A disk in a reader has no device tree, and containers are not shown it; on a PC, such a file belongs to
    # what is built there.
    elif architecture == "x86_64" or not (
        system.exists("etc/nv_tegra_release")
        or _known(system.text, "sys/devices/soc0/family").lower().startswith("tegra")
    ):
        return None
    model = _known(system.text, "proc/device-tree/model") or _known(system.text, "sys/devices/soc0/machine")
    parts = [model or "NVIDIA Jetson"]
    parts += [f"module {name}" for part, name in _MODULES.items() if part in " ".join(compatible)]
    release = _known(system.text, "etc/nv_tegra_release")
    if found := re.match(r"# R([0-9]+) \(release\), REVISION: ([0-9.]+)", release):
        parts.append(f"L4T {found[1]}.{found[2]}")
    if jetpack := _known(lambda: system.debian.get("nvidia-jetpack")):
        parts.append(f"JetPack {jetpack}")
    return ", ".join(parts)


def _processor(system: System) -> str:
    text = _known(system.text, "proc/cpuinfo")
    # Arm's cpuinfo names no model; boards have it in the device tree.
    named = re.search(r"^(?:model name|Model)\s*: (.+)$", text, re.MULTILINE)
    name = named[1].strip() if named else _known(system.text, "proc/device-tree/model")
    return f"{name} (virtual machine)" if name and virtual(text) else name


def _known(read: Callable[..., str | None], *path: str) -> str:
    """What only decorates a name; empty where it cannot be told."""
    try:
        return read(*path) or ""
    except UndeterminedError:
        return ""
