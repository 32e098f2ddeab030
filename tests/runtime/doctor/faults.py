"""Faults to inject into a healthy root, each with the check that reports it and the remedy it names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from tests.runtime.doctor.roots import DPKG, GPU, NPU, PYTHON, Root

_ZONE = "sys/class/thermal/thermal_zone{}/temp"
_LIMITS = "proc/self/limits"


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        hides: Checks that cannot be decided while this fault exists.
        also: Further checks that report this fault.
    """

    name: str
    check: str
    remedy: str
    plant: Callable[[Root], object]
    severity: str = "warning"
    hides: frozenset[str] = frozenset()
    also: frozenset[str] = frozenset()


def _write(path: str, content: object) -> Callable[[Root], None]:
    return lambda root: root.write({path: content})


def _replace(path: str, old: str, new: str) -> Callable[[Root], None]:
    def plant(root: Root) -> None:
        text = (root.root / path).read_text()
        assert old in text
        (root.root / path).write_text(text.replace(old, new))

    return plant


def _remove(*paths: str) -> Callable[[Root], None]:
    def plant(root: Root) -> None:
        for path in paths:
            place = root.root / path
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink()

    return plant


def _free(path: str) -> Callable[[Root], None]:
    return lambda root: root.facts["free_bytes"].update({path: 1 << 20})


def _fact(key: str, value: object) -> Callable[[Root], None]:
    return lambda root: root.facts.update({key: value})


def _without_group(name: str) -> Callable[[Root], None]:
    return lambda root: root.facts["account"]["groups"].remove(name)


def _without_nodes(prefix: str) -> Callable[[Root], None]:
    def plant(root: Root) -> None:
        root.facts["nodes"] = {
            path: node for path, node in root.facts["nodes"].items() if not path.startswith(prefix)
        }

    return plant


def _hot(*zones: int) -> Callable[[Root], None]:
    return lambda root: root.write({_ZONE.format(zone): 106000 for zone in zones})


def _version(name: str, old: str, new: str) -> Callable[[Root], None]:
    def plant(root: Root) -> None:
        _remove(f"{PYTHON}/{name}-{old}.dist-info")(root)
        root.python(name, new)

    return plant


COMMON = (
    Fault(
        "small socket buffers",
        "dds.buffers",
        "configs apply --device common",
        _write("proc/sys/net/core/rmem_max", 212992),
    ),
    Fault(
        "fragments wait for long",
        "dds.buffers",
        "sysctl --system",
        _write("proc/sys/net/ipv4/ipfrag_time", 30),
    ),
    Fault(
        "fragments are not waited for",
        "dds.buffers",
        "sysctl --system",
        _write("proc/sys/net/ipv4/ipfrag_time", 0),
    ),
    Fault(
        "shared memory of a container",
        "dds.shared_memory",
        "remount,size=64M",
        _replace("proc/mounts", "rw,nosuid,nodev", "rw,nosuid,nodev,noexec,relatime,size=32768k"),
    ),
    Fault(
        "no shared memory",
        "dds.shared_memory",
        "mount -t tmpfs",
        _replace("proc/mounts", "/dev/shm", "/tmp"),
    ),
    Fault(
        "no real-time priority",
        "limits.priority",
        "usermod -aG jepa robot",
        _replace(_LIMITS, "priority     98 ", "priority     0  "),
    ),
    Fault(
        "little may be locked",
        "limits.memlock",
        "configs apply --device common",
        _replace(_LIMITS, "memory         unlimited", "memory         8388608  "),
    ),
    Fault("full disk", "disk.state", "apt-get clean", _free("/var/lib")),
    Fault(
        "full disk of the cache",
        "disk.cache",
        "apt-get clean",
        _free("/var/cache"),
    ),
    Fault(
        "clock without a reference", "clock.synchronized", "timedatectl", _fact("clock_synchronized", False)
    ),
    Fault(
        "old OpenVINO",
        "engine.openvino",
        "pip install",
        _version("openvino", "2025.4.1", "2024.6.0"),
        "error",
    ),
    Fault(
        "OpenVINO is not installed",
        "engine.openvino",
        "pip install",
        _remove(f"{PYTHON}/openvino-2025.4.1.dist-info"),
        "error",
    ),
)

JETSON = (
    Fault(
        "driver not loaded",
        "jetson.driver",
        "modprobe nvgpu",
        _remove("sys/module/nvgpu"),
        "error",
        frozenset({"jetson.node", "jetson.render"}),
    ),
    Fault(
        "account not in the group video",
        "jetson.node",
        "usermod -aG video robot",
        _without_group("video"),
        "error",
        also=frozenset({"camera.node"}),
    ),
    Fault(
        "account not in the group render",
        "jetson.render",
        "usermod -aG render robot",
        _without_group("render"),
        "error",
    ),
    Fault(
        "GPU not passed to a container", "jetson.node", "--runtime nvidia", _without_nodes("/dev/nv"), "error"
    ),
    Fault(
        "device of another group",
        "jetson.node",
        "configs apply --device jetson",
        lambda root: root.node("/dev/nvhost-gpu", "root"),
        "error",
    ),
    Fault(
        "power mode 15W",
        "jetson.power_mode",
        "nvpmodel -m 2",
        _write("var/lib/nvpmodel/status", "pmode:0000"),
    ),
    Fault(
        "clocks not held",
        "jetson.gpu_clock",
        "systemctl enable --now jepa-clocks.service",
        _write(f"{GPU}/min_freq", 306000000),
    ),
    Fault(
        "cores follow the load",
        "cpu.governor",
        "systemctl enable --now jepa-clocks.service",
        lambda root: root.policies("schedutil", 115200, 1728000),
    ),
    Fault("too hot", "cpu.temperature", "systemctl enable --now jepa-fan-profile.service", _hot(0, 1, 2)),
    Fault(
        "TensorRT not seen by this Python",
        "engine.tensorrt",
        "python3-libnvinfer",
        _remove(f"{PYTHON}/tensorrt-10.3.0.dist-info"),
        "error",
    ),
    Fault(
        "TensorRT of JetPack 5",
        "engine.tensorrt",
        "python3-libnvinfer",
        _version("tensorrt", "10.3.0", "8.5.2.2"),
        "error",
    ),
    Fault(
        "TensorRT too new",
        "engine.tensorrt",
        "# install TensorRT 10.3 to 11",
        _version("tensorrt", "10.3.0", "12.0.1"),
        "error",
    ),
    Fault(
        "no PyCUDA",
        "engine.pycuda",
        "sudo env PATH=/usr/local/cuda/bin:$PATH /opt/jepa-edge/bin/python3 -m pip install --upgrade "
        "'pycuda>=2024.1'",
        _remove(f"{PYTHON}/pycuda-2025.1.2.dist-info"),
        "error",
    ),
    *COMMON,
)

NPU_LAPTOP = (
    Fault(
        "kernel without the driver",
        "npu.kernel",
        "linux-generic-hwe-22.04",
        lambda root: (_fact("kernel", "6.5.0-45-generic")(root), _remove(f"{NPU}/driver")(root))[0],
        "error",
        frozenset({"npu.module", "npu.node"}),
    ),
    Fault(
        "module not loaded",
        "npu.module",
        "modprobe intel_vpu",
        _remove(f"{NPU}/driver", "sys/module/intel_vpu"),
        "error",
        frozenset({"npu.node"}),
    ),
    Fault(
        "module did not start the NPU",
        "npu.module",
        "dmesg | grep intel_vpu",
        _remove(f"{NPU}/driver"),
        "error",
        frozenset({"npu.node"}),
    ),
    Fault(
        "firmware without content",
        "npu.firmware",
        "./intel-fw-npu_*.deb",
        lambda root: (root.root / "usr/lib/firmware/updates/intel/vpu/vpu_37xx_v0.0.bin").write_bytes(b""),
    ),
    Fault(
        "firmware missing for the next start",
        "npu.firmware",
        "./intel-fw-npu_*.deb",
        _remove("usr/lib/firmware/updates/intel"),
    ),
    Fault(
        "firmware missing",
        "npu.firmware",
        "./intel-fw-npu_*.deb",
        _remove("usr/lib/firmware/updates/intel", f"{NPU}/driver"),
        "error",
        frozenset({"npu.module", "npu.node"}),
    ),
    Fault("no device node", "npu.node", "udevadm trigger", _without_nodes("/dev/accel"), "error"),
    Fault(
        "account not in the group render",
        "npu.node",
        "usermod -aG render robot",
        _without_group("render"),
        "error",
    ),
    Fault(
        "device of root alone",
        "npu.node",
        "configs apply --device intel_npu",
        lambda root: root.node("/dev/accel/accel0", "root", "0600"),
        "error",
    ),
    Fault(
        "compiler not installed",
        "npu.libraries",
        "./intel-driver-compiler-npu_*.deb",
        _replace(DPKG, "intel-driver-compiler-npu", "another"),
    ),
    Fault(
        "loader removed, its settings kept",
        "npu.libraries",
        "apt-get install libze1",
        _replace(DPKG, "libze1\nStatus: install ok installed", "libze1\nStatus: deinstall ok config-files"),
        "error",
    ),
    Fault(
        "governor powersave",
        "cpu.governor",
        "configs apply --device intel_npu",
        lambda root: root.policies("powersave", 400000, 4800000),
    ),
    Fault("too hot", "cpu.temperature", "fan", _hot(0)),
    Fault(
        "slowed down by heat",
        "cpu.throttling",
        "fan",
        _write("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_total_time_ms", 4_000_000),
    ),
    Fault(
        "camera of another group",
        "camera.node",
        "usermod -aG video robot",
        _without_group("video"),
    ),
    *COMMON,
)
