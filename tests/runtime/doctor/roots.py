"""Roots of healthy robot computers; README.md in this folder lists their sources."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jepa_runtime.doctor import Diagnosis, RecordedFacts, Requirements, System, examine
from tests.runtime.machines import Tree

_LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max locked memory         unlimited            unlimited            bytes
Max nice priority         0                    0
Max realtime priority     98                   98
Max realtime timeout      unlimited            unlimited            us"""
_CPU = "sys/devices/system/cpu"
NPU = "sys/devices/pci0000:00/0000:00:0b.0"
GPU = "sys/class/devfreq/17000000.gpu"
PYTHON = "opt/jepa-edge/lib/python3.12/site-packages"
DPKG = "var/lib/dpkg/status"


class Root(Tree):
    """A file tree, with facts that no file contains in ``facts``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.facts: dict[str, Any] = {
            "schema": 1,
            "account": {"name": "robot", "uid": 1000, "groups": ["robot", "video", "render"]},
            "nodes": {"/dev/video0": {"owner": "root", "group": "video", "mode": "0660"}},
            "free_bytes": {"/": 21_474_836_480},
            "clock_synchronized": True,
        }

    def node(self, path: str, group: str, mode: str = "0660") -> None:
        """A device node."""
        self.facts["nodes"][path] = {"owner": "root", "group": group, "mode": mode}

    def packages(self, versions: dict[str, str]) -> None:
        """The list of Debian's packages."""
        fields = "Package: {}\nStatus: install ok installed\nArchitecture: any\nVersion: {}"
        self.write({DPKG: "\n\n".join(fields.format(*item) for item in versions.items())})

    def python(self, name: str, version: str, folder: str = PYTHON) -> None:
        """A Python package."""
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"
        self.write({f"{folder}/{name}-{version}.dist-info/METADATA": metadata})

    def zone(self, number: int, name: str, temperature: int, trips: dict[str, int]) -> None:
        """A thermal zone; temperatures in m°C."""
        folder = f"sys/class/thermal/thermal_zone{number}"
        self.write({f"{folder}/type": name, f"{folder}/temp": temperature})
        for index, (kind, limit) in enumerate(trips.items()):
            trip = f"{folder}/trip_point_{index}"
            self.write({f"{trip}_type": kind, f"{trip}_temp": limit})

    def policies(self, governor: str, low: int, high: int, cores: int = 2) -> None:
        """Set the clocks of the cores, in kHz."""
        for core in range(cores):
            policy = f"{_CPU}/cpu{core}/cpufreq"
            names = ("governor", "min_freq", "max_freq")
            values = zip(names, (governor, low, high), strict=True)
            self.write({f"{policy}/scaling_{name}": value for name, value in values})

    def diagnose(self, needs: Requirements | None = None) -> Diagnosis:
        """Run the doctor on this root."""
        self.root.with_name(f"{self.root.name}.json").write_text(json.dumps(self.facts))
        return examine(System(self.root, RecordedFacts(self.root)), needs)


def _linux(path: Path, architecture: str, kernel: str, processor: str) -> Root:
    root = Root(path)
    root.facts |= {"architecture": architecture, "kernel": kernel}
    root.write(
        {
            "proc/cpuinfo": processor,
            "proc/meminfo": "MemTotal:        7802668 kB\nMemFree:  900000 kB\nMemAvailable:    5200000 kB",
            "proc/mounts": "/dev/nvme0n1p1 / ext4 rw,relatime 0 0\ntmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0",
            "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority",
            "proc/uptime": "86400.12 500000.00",
            "proc/self/limits": _LIMITS,
            "proc/self/status": "Name:\tjepa-runtime\nCapEff:\t0000000000000000\nThreads:\t1",
            "proc/sys/net/core/rmem_max": 33554432,
            "proc/sys/net/core/wmem_max": 8388608,
            "proc/sys/net/ipv4/ipfrag_time": 3,
            "proc/sys/net/ipv4/ipfrag_high_thresh": 134217728,
            "run/systemd/timesync/synchronized": "",
            f"{_CPU}/isolated": "",
        }
    )
    root.python("openvino", "2025.4.1")
    return root


def _jetson(path: Path, kernel: str, model: str, compatible: str, release: str) -> Root:
    root = _linux(path, "aarch64", kernel, "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd42")
    root.write(
        {
            "proc/device-tree/model": f"{model}\0",
            "proc/device-tree/compatible": compatible,
            "etc/nv_tegra_release": release,
            "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 650228 0 5",
        }
    )
    root.node("/dev/nvmap", "video")
    root.python("pycuda", "2025.1.2")
    return root


def _orin(path: Path, model: str, compatible: str, modes: dict[str, int]) -> Root:
    release = (
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 "
        "01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia"
    )
    root = _jetson(path, "5.15.148-tegra", model, compatible, release)
    root.packages(
        {
            "nvidia-jetpack": "6.2+b77",
            "nvidia-l4t-core": "36.4.3-20250107174145",
            "libnvinfer10": "10.3.0.30-1+cuda12.5",
        }
    )
    root.write(
        {
            "etc/nvpmodel.conf": nvpmodel(modes),
            "var/lib/nvpmodel/status": f"pmode:{max(modes.items(), key=_is_best)[1]:04d}",
            "sys/module/nvgpu/refcnt": 12,
            f"{GPU}/min_freq": 1020000000,
            f"{GPU}/max_freq": 1020000000,
            "sys/class/hwmon/hwmon5/oc1_event_cnt": 0,
            "sys/class/hwmon/hwmon5/oc3_event_cnt": 0,
        }
    )
    for name in ("nvhost-gpu", "nvhost-ctrl-gpu", "nvgpu/igpu0/ctrl", "nvgpu/igpu0/as"):
        root.node(f"/dev/{name}", "video")
    for number in (128, 129):
        root.node(f"/dev/dri/renderD{number}", "render")
    root.policies("schedutil", 1728000, 1728000)
    for number, name in enumerate(("cpu-thermal", "gpu-thermal", "tj-thermal")):
        root.zone(number, name, 47500, {"passive": 99000, "critical": 104500})
    # JetPack's own bindings are for Python 3.10; these were built for ours.
    root.python("tensorrt", "10.3.0")
    return root


def _is_best(mode: tuple[str, int]) -> tuple[bool, bool]:
    return mode[0] == "MAXN_SUPER", mode[0] == "MAXN"


def nvpmodel(modes: dict[str, int]) -> str:
    """Return a configuration of nvpmodel with these modes."""
    blocks = [
        f"< POWER_MODEL ID={number} NAME={name} >\nCPU_ONLINE CORE_0 1\nGPU MAX_FREQ 1020000000\n"
        for name, number in modes.items()
    ]
    return "# modes\n< PARAM TYPE=FILE NAME=CPU_ONLINE >\n" + "\n".join([*blocks, "< PM_CONFIG DEFAULT=0 >"])


def orin_nano(path: Path) -> Root:
    """A Jetson Orin Nano developer kit, JetPack 6.2."""
    return _orin(
        path,
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
        {"15W": 0, "25W": 1, "MAXN_SUPER": 2},
    )


def agx_orin(path: Path) -> Root:
    """A Jetson AGX Orin developer kit, JetPack 6.2."""
    return _orin(
        path,
        "NVIDIA Jetson AGX Orin Developer Kit",
        "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0",
        {"MAXN": 0, "MODE_15W": 1, "MODE_30W": 2, "MODE_50W": 3},
    )


def thor(path: Path) -> Root:
    """A Jetson AGX Thor developer kit, JetPack 7: the driver of NVIDIA's other GPUs, the system's Python."""
    root = _jetson(
        path,
        "6.8.12-tegra",
        "NVIDIA Jetson AGX Thor Developer Kit",
        "nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0",
        "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64",
    )
    root.write(
        {
            "etc/nvpmodel.conf": nvpmodel({"MAXN": 0, "120W": 1, "90W": 2, "70W": 3}),
            "var/lib/nvpmodel/status": "pmode:0000",
            "sys/module/nvidia/refcnt": 12,
            "sys/class/devfreq/gpu-gpc-0/min_freq": 1575000000,
            "sys/class/devfreq/gpu-gpc-0/max_freq": 1575000000,
            "opt/jepa-edge/pyvenv.cfg": "home = /usr/bin\ninclude-system-site-packages = true",
        }
    )
    root.node("/dev/nvmap", "video", "0440")
    root.node("/dev/nvidia0", "video")
    root.node("/dev/nvidiactl", "video")
    root.policies("performance", 54000, 2601000)
    root.zone(0, "cpu-thermal", 41000, {"passive": 99000, "critical": 104500})
    root.python("tensorrt", "10.13.3.9", "usr/lib/python3.12/dist-packages")
    return root


def _laptop(path: Path, kernel: str, processor: str, device: str) -> Root:
    root = _linux(
        path, "x86_64", kernel, f"processor\t: 0\nmodel name\t: {processor}\nflags\t\t: fpu vme sse2 avx_vnni"
    )
    root.write(
        {
            f"{NPU}/vendor": "0x8086",
            f"{NPU}/device": device,
            "sys/devices/pci0000:00/0000:00:02.0/vendor": "0x8086",
            "sys/devices/pci0000:00/0000:00:02.0/device": "0x7d55",
            "sys/module/intel_vpu/refcnt": 0,
            "sys/bus/pci/drivers/intel_vpu/uevent": "",
            f"{_CPU}/cpu0/thermal_throttle/package_throttle_total_time_ms": 0,
        }
    )
    for name in ("0000:00:02.0", "0000:00:0b.0"):
        root.link(f"sys/bus/pci/devices/{name}", f"sys/devices/pci0000:00/{name}")
    root.link(f"{NPU}/driver", "sys/bus/pci/drivers/intel_vpu")
    root.node("/dev/accel/accel0", "render")
    root.policies("performance", 400000, 4800000)
    # thermald sets the passive trips of x86_pkg_temp to be woken: the temperature may lie above them.
    root.zone(0, "acpitz", 52000, {"critical": 105000})
    root.zone(1, "x86_pkg_temp", 61000, {"passive": 58000})
    return root


def meteor_lake(path: Path) -> Root:
    """A laptop with a Core Ultra 7 155H, Ubuntu 24.04, Intel's driver as packages."""
    root = _laptop(path, "6.11.0-25-generic", "Intel(R) Core(TM) Ultra 7 155H", "0x7d1d")
    root.write(
        {
            "usr/lib/firmware/updates/intel/vpu/vpu_37xx_v0.0.bin": "firmware",
            "usr/lib/x86_64-linux-gnu/libze_intel_npu.so.1": "library",
        }
    )
    root.link("lib", "usr/lib")
    own = ("intel-fw-npu", "intel-level-zero-npu", "intel-driver-compiler-npu")
    root.packages({name: "1.17.0.20250508-14912879441" for name in own} | {"libze1": "1.20.6"})
    return root


def lunar_lake(path: Path) -> Root:
    """A laptop with a Core Ultra 7 258V and a system without Debian's packages."""
    root = _laptop(path, "6.14.5-300.fc42.x86_64", "Intel(R) Core(TM) Ultra 7 258V", "0x643e")
    libraries = ("libze_intel_npu.so.1.17.0", "libnpu_driver_compiler.so", "libze_loader.so.1.21.9")
    root.write(
        {"usr/lib/firmware/intel/vpu/vpu_40xx_v0.0.bin.xz": "firmware"}
        | {f"usr/lib64/{name}": "library" for name in libraries}
    )
    root.link("lib", "usr/lib")
    return root


def desktop(path: Path) -> Root:
    """A PC without an accelerator of ours."""
    processor = "processor\t: 0\nmodel name\t: AMD Ryzen 7 7700X 8-Core Processor\n"
    root = _linux(path, "x86_64", "6.12.41+deb13-amd64", f"{processor}flags\t\t: fpu vme sse2 avx512_vnni")
    root.policies("performance", 545000, 5573000)
    return root


def raspberry_pi(path: Path) -> Root:
    """An Arm board without an accelerator of ours."""
    processor = "processor\t: 0\nCPU part\t: 0xd0b\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0"
    root = _linux(path, "aarch64", "6.12.34+rpt-rpi-2712", processor)
    root.write({"proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0"})
    root.policies("performance", 1500000, 2400000)
    root.zone(0, "cpu-thermal", 49000, {"critical": 110000})
    return root


HEALTHY: tuple[Callable[[Path], Root], ...] = (
    orin_nano,
    agx_orin,
    thor,
    meteor_lake,
    lunar_lake,
    desktop,
    raspberry_pi,
)
