"""Intel's NPU: kernel, firmware, driver, device node, libraries."""

from __future__ import annotations

import re

from jepa_runtime.doctor.checks.access import access
from jepa_runtime.doctor.finding import Check, Context, Evidence, Severity, Verdict, configs, info, ok
from jepa_runtime.doctor.machine import Npu
from jepa_runtime.errors import UndeterminedError

_COUNTS = (6, 10)
# What Ubuntu 22.04 offers beside its own kernel.
_OF_JAMMY = (6, 8)
_RELEASES = "https://github.com/intel/linux-npu-driver/releases"
# Where the kernel looks for firmware (Documentation/driver-api/firmware/fw_search_path), compressed or not.
_FIRMWARE = ("lib/firmware/updates", "lib/firmware")
_COMPILER = "intel-driver-compiler-npu"
# Each package of Intel's driver, and a library by which it is known where it did not come as a package.
_LIBRARIES = {
    "intel-level-zero-npu": ("libze_intel_npu.so*", "libze_intel_vpu.so*"),
    _COMPILER: ("libnpu_driver_compiler.so*", "libopenvino_intel_npu_compiler*.so*"),
    "libze1": ("libze_loader.so.1*",),
}
_FOLDERS = ("usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib", "usr/local/lib")


def _is_npu(context: Context) -> bool:
    return context.machine.npu is not None


def _release(context: Context) -> tuple[str, tuple[int, int]]:
    text = context.system.facts.kernel()
    found = re.match(r"([0-9]{1,9})\.([0-9]{1,9})", text)
    if found is None:
        raise UndeterminedError(f"uname -r says {text!r}, which is no release of Linux")
    return text, (int(found[1]), int(found[2]))


def _kernel(context: Context) -> Verdict:
    npu = context.machine.npu
    assert npu is not None
    text, release = _release(context)
    seen = Evidence("uname -r", text)
    # Distributions bring drivers to earlier kernels.
    if release < npu.linux and _driver(context) != "intel_vpu":
        needed, ubuntu = "{}.{}".format(*npu.linux), "22.04" if npu.linux <= _OF_JAMMY else "24.04"
        return Verdict(
            Severity.ERROR,
            f"Linux {text} has no driver for the NPU of {npu.product}: it takes {needed} or later",
            (seen,),
            (
                f"# Ubuntu {ubuntu}; other systems: install a kernel of {needed} or later",
                f"sudo apt-get install linux-generic-hwe-{ubuntu}",
                "# then restart",
            ),
        )
    if release < _COUNTS:
        return info(f"Linux {text} drives the NPU and does not count its busy time, as 6.10 does", seen)
    return ok(f"Linux {text} drives the NPU and counts its busy time", seen)


def _found_firmware(context: Context, npu: Npu) -> list[str]:
    names = (f"intel/vpu/vpu_{npu.firmware}_v*.bin*", f"vpu_{npu.firmware}.bin*")
    patterns = (f"{folder}/{name}" for folder in _FIRMWARE for name in names)
    return [path for pattern in patterns for path in context.system.filled(pattern)]


def _driver(context: Context) -> str | None:
    return context.system.link_name(f"{context.machine.npu_device}/driver")


def _firmware(context: Context) -> Verdict:
    assert context.machine.npu is not None
    name = f"vpu_{context.machine.npu.firmware}"
    if found := _found_firmware(context, context.machine.npu):
        return ok(f"the firmware {name} is there", *(Evidence(f"/{path}", "is there") for path in found))
    if not context.system.exists("lib/firmware"):
        raise UndeterminedError("there is no /lib/firmware: this system keeps its firmware elsewhere")
    runs = _driver(context) == "intel_vpu"
    return Verdict(
        Severity.WARNING if runs else Severity.ERROR,
        f"the NPU's firmware {name} is missing"
        + (": the NPU runs now, and will not after a restart" if runs else ""),
        (Evidence(f"/lib/firmware/intel/vpu/{name}_v*.bin", "no such file"),),
        (f"# from {_RELEASES}", "sudo apt-get install ./intel-fw-npu_*.deb", "# then restart"),
    )


def _module(context: Context) -> Verdict:
    assert context.machine.npu is not None
    system, device = context.system, context.machine.npu_device
    driver = _driver(context)
    seen = Evidence(f"/{device}/driver", driver or "no driver")
    if driver == "intel_vpu":
        return ok("the kernel module intel_vpu drives the NPU", seen)
    if driver is not None:
        return Verdict(
            Severity.ERROR,
            f"the NPU is held by the driver {driver} instead of intel_vpu",
            (seen,),
            (f"# give it back: it was bound to {driver} on purpose, for a virtual machine say",),
        )
    if _release(context)[1] < context.machine.npu.linux:
        raise UndeterminedError("cannot be told before the kernel has the driver (npu.kernel)")
    if not system.exists("sys/module/intel_vpu"):
        return Verdict(
            Severity.ERROR,
            "the kernel module intel_vpu is not loaded",
            (Evidence("/sys/module/intel_vpu", "no such folder"), seen),
            (configs(context, "intel_npu"), "sudo modprobe intel_vpu"),
        )
    if not _found_firmware(context, context.machine.npu):
        raise UndeterminedError("cannot be told before the firmware is there (npu.firmware)")
    return Verdict(
        Severity.ERROR,
        "the kernel module intel_vpu is loaded, but did not start the NPU",
        (Evidence("/sys/module/intel_vpu", "is there"), seen),
        (
            "# what it said: sudo dmesg | grep intel_vpu",
            "sudo modprobe -r intel_vpu",
            "sudo modprobe intel_vpu",
        ),
    )


def _node(context: Context) -> Verdict:
    if _driver(context) != "intel_vpu":
        raise UndeterminedError("cannot be told before intel_vpu drives the NPU (npu.module)")
    nodes = context.system.facts.nodes("/dev/accel/accel*")
    if not nodes:
        return Verdict(
            Severity.ERROR,
            "the NPU has no device node",
            (Evidence("/dev/accel/accel*", "no such device"),),
            ("sudo udevadm trigger --subsystem-match=accel", "sudo udevadm settle"),
        )
    return access(context, nodes, "the NPU", "render", "intel_npu")


def _libraries(context: Context) -> Verdict:
    debian = context.system.debian if context.system.exists("var/lib/dpkg/status") else {}
    seen, missing = [], []
    for package, names in _LIBRARIES.items():
        files = [
            path
            for folder in _FOLDERS
            for name in names
            for path in context.system.filled(f"{folder}/{name}")
        ]
        if package in debian:
            seen.append(Evidence(f"dpkg -s {package}", debian[package]))
        elif files:
            seen.append(Evidence(f"/{files[0]}", "is there"))
        else:
            missing.append(package)
    if not missing:
        return ok("driver, compiler and loader of the NPU are installed", *seen)
    own = [f"sudo apt-get install ./{package}_*.deb" for package in missing if package.startswith("intel-")]
    remedy = ([f"# from {_RELEASES}", *own] if own else []) + (
        ["sudo apt-get install libze1"] if "libze1" in missing else []
    )
    needless = missing == [_COMPILER]
    return Verdict(
        Severity.WARNING if needless else Severity.ERROR,
        f"{_COMPILER} is not installed: only bundles with a blob for this NPU run on it"
        if needless
        else f"OpenVINO cannot reach the NPU: {', '.join(missing)} not installed",
        tuple(Evidence(f"dpkg -s {package}", "not installed") for package in missing),
        tuple(remedy),
    )


CHECKS = (
    Check(
        "npu.kernel",
        "Linux has this NPU's driver: 6.6, Panther Lake 6.12, Wildcat Lake 6.17 (6.10 counts busy time)",
        "`uname -r`",
        "a newer kernel by apt",
        _kernel,
        _is_npu,
    ),
    Check(
        "npu.firmware",
        "the firmware of this generation is there",
        "`/lib/firmware/intel/vpu`, `/lib/firmware/updates`",
        "package intel-fw-npu",
        _firmware,
        _is_npu,
    ),
    Check(
        "npu.module",
        "intel_vpu drives the NPU",
        "`/sys/bus/pci/devices/*/driver`, `/sys/module/intel_vpu`",
        "`configs apply --device intel_npu`, modprobe",
        _module,
        _is_npu,
    ),
    Check(
        "npu.node",
        "the account may open the device",
        "`/dev/accel/accel*`",
        "`usermod -aG render`, `configs apply --device intel_npu`",
        _node,
        _is_npu,
    ),
    Check(
        "npu.libraries",
        "driver, compiler and loader are installed",
        "`/var/lib/dpkg/status`, `/usr/lib`",
        "packages intel-level-zero-npu, intel-driver-compiler-npu, libze1",
        _libraries,
        _is_npu,
    ),
)
