"""Checks of an Intel NPU: kernel, firmware, driver, device node, libraries."""

from __future__ import annotations

import re

from jepa_runtime.doctor.checks.access import check_access
from jepa_runtime.doctor.finding import (
    Check,
    Context,
    Evidence,
    Severity,
    Verdict,
    apply_system_files,
    info,
    ok,
)
from jepa_runtime.doctor.machine import Npu
from jepa_runtime.errors import UndeterminedError

# The first Linux release that reports the NPU's busy time.
_REPORTS_BUSY_TIME = (6, 10)
# The hardware enablement kernel of Ubuntu 22.04.
_UBUNTU_2204_HWE = (6, 8)
_RELEASES = "https://github.com/intel/linux-npu-driver/releases"
# The kernel's firmware search path (Documentation/driver-api/firmware/fw_search_path), compressed or not.
_FIRMWARE = ("lib/firmware/updates", "lib/firmware")
_COMPILER = "intel-driver-compiler-npu"
# Packages of Intel's driver, each with a library to look for in case it was installed by other means.
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
        raise UndeterminedError(
            f"uname -r prints {text!r}, which is not a Linux release", code="doctor.malformed"
        )
    return text, (int(found[1]), int(found[2]))


def _kernel(context: Context) -> Verdict:
    npu = context.machine.npu
    assert npu is not None
    text, release = _release(context)
    evidence = Evidence("uname -r", text)
    # Distributions backport drivers to earlier kernels.
    if release < npu.min_kernel and _driver(context) != "intel_vpu":
        required = "{}.{}".format(*npu.min_kernel)
        ubuntu = "22.04" if npu.min_kernel <= _UBUNTU_2204_HWE else "24.04"
        return Verdict(
            Severity.ERROR,
            f"Linux {text} has no driver for the NPU of {npu.product}: Linux {required} or later is required",
            (evidence,),
            (
                f"# on Ubuntu {ubuntu}; on other systems, install Linux {required} or later",
                f"sudo apt-get install linux-generic-hwe-{ubuntu}",
                "# then reboot",
            ),
        )
    if release < _REPORTS_BUSY_TIME:
        return info(f"Linux {text} supports the NPU but does not report its busy time (6.10 does)", evidence)
    return ok(f"Linux {text} supports the NPU and reports its busy time", evidence)


def _firmware_files(context: Context, npu: Npu) -> list[str]:
    names = (f"intel/vpu/vpu_{npu.firmware}_v*.bin*", f"vpu_{npu.firmware}.bin*")
    patterns = (f"{folder}/{name}" for folder in _FIRMWARE for name in names)
    return [path for pattern in patterns for path in context.system.find_nonempty(pattern)]


def _driver(context: Context) -> str | None:
    return context.system.link_name(f"{context.machine.npu_device}/driver")


def _firmware(context: Context) -> Verdict:
    assert context.machine.npu is not None
    name = f"vpu_{context.machine.npu.firmware}"
    if found := _firmware_files(context, context.machine.npu):
        return ok(f"NPU firmware {name} is installed", *(Evidence(f"/{path}", "present") for path in found))
    if not context.system.exists("lib/firmware"):
        raise UndeterminedError("/lib/firmware does not exist: this system stores its firmware elsewhere")
    runs = _driver(context) == "intel_vpu"
    return Verdict(
        Severity.WARNING if runs else Severity.ERROR,
        f"NPU firmware {name} is missing: "
        + ("the NPU works now but will not after a reboot" if runs else "the NPU cannot start"),
        (Evidence(f"/lib/firmware/intel/vpu/{name}_v*.bin", "not found"),),
        (
            f"# download the package from {_RELEASES}",
            "sudo apt-get install ./intel-fw-npu_*.deb",
            "# then reboot",
        ),
    )


def _module(context: Context) -> Verdict:
    assert context.machine.npu is not None
    system, device = context.system, context.machine.npu_device
    driver = _driver(context)
    evidence = Evidence(f"/{device}/driver", driver or "no driver")
    if driver == "intel_vpu":
        return ok("kernel module intel_vpu is bound to the NPU", evidence)
    if driver is not None:
        return Verdict(
            Severity.ERROR,
            f"the NPU is bound to driver {driver} instead of intel_vpu: models cannot run on it",
            (evidence,),
            (f"# unbind it from {driver}; it was bound on purpose, for example for a virtual machine",),
        )
    if _release(context)[1] < context.machine.npu.min_kernel:
        raise UndeterminedError("the kernel has no driver for the NPU (fix npu.kernel first)")
    if not system.exists("sys/module/intel_vpu"):
        return Verdict(
            Severity.ERROR,
            "kernel module intel_vpu is not loaded: models cannot run on the NPU",
            (Evidence("/sys/module/intel_vpu", "not found"), evidence),
            (apply_system_files(context, "intel_npu"), "sudo modprobe intel_vpu"),
        )
    if not _firmware_files(context, context.machine.npu):
        raise UndeterminedError("the NPU firmware is not installed (fix npu.firmware first)")
    return Verdict(
        Severity.ERROR,
        "kernel module intel_vpu is loaded but could not start the NPU",
        (Evidence("/sys/module/intel_vpu", "present"), evidence),
        (
            "# to see the driver's messages: sudo dmesg | grep intel_vpu",
            "sudo modprobe -r intel_vpu",
            "sudo modprobe intel_vpu",
        ),
    )


def _node(context: Context) -> Verdict:
    if _driver(context) != "intel_vpu":
        raise UndeterminedError("intel_vpu is not bound to the NPU (fix npu.module first)")
    nodes = context.system.facts.nodes("/dev/accel/accel*")
    if not nodes:
        return Verdict(
            Severity.ERROR,
            "the NPU has no device node: models cannot run on it",
            (Evidence("/dev/accel/accel*", "not found"),),
            ("sudo udevadm trigger --subsystem-match=accel", "sudo udevadm settle"),
        )
    return check_access(context, nodes, "the NPU", "render", "intel_npu")


def _libraries(context: Context) -> Verdict:
    debian = context.system.debian if context.system.exists("var/lib/dpkg/status") else {}
    evidence, missing = [], []
    for package, names in _LIBRARIES.items():
        files = [
            path
            for folder in _FOLDERS
            for name in names
            for path in context.system.find_nonempty(f"{folder}/{name}")
        ]
        if package in debian:
            evidence.append(Evidence(f"dpkg -s {package}", debian[package]))
        elif files:
            evidence.append(Evidence(f"/{files[0]}", "present"))
        else:
            missing.append(package)
    if not missing:
        return ok("the NPU's driver, compiler and loader libraries are installed", *evidence)
    intel = [f"sudo apt-get install ./{package}_*.deb" for package in missing if package.startswith("intel-")]
    remedy = ([f"# download the packages from {_RELEASES}", *intel] if intel else []) + (
        ["sudo apt-get install libze1"] if "libze1" in missing else []
    )
    only_compiler = missing == [_COMPILER]
    return Verdict(
        Severity.WARNING if only_compiler else Severity.ERROR,
        f"{_COMPILER} is not installed: only bundles with a precompiled blob for this NPU can run on it"
        if only_compiler
        else f"OpenVINO cannot use the NPU: {', '.join(missing)} not installed",
        tuple(Evidence(f"dpkg -s {package}", "not installed") for package in missing),
        tuple(remedy),
    )


CHECKS = (
    Check(
        "npu.kernel",
        "Linux supports this NPU: 6.6 or later, Panther Lake 6.12, Wildcat Lake 6.17 (busy time from 6.10)",
        "`uname -r`",
        "install a newer kernel",
        _kernel,
        _is_npu,
    ),
    Check(
        "npu.firmware",
        "the firmware of this NPU generation is installed",
        "`/lib/firmware/intel/vpu`, `/lib/firmware/updates`",
        "install intel-fw-npu",
        _firmware,
        _is_npu,
    ),
    Check(
        "npu.module",
        "kernel module intel_vpu is bound to the NPU",
        "`/sys/bus/pci/devices/*/driver`, `/sys/module/intel_vpu`",
        "`configs apply --device intel_npu`, modprobe",
        _module,
        _is_npu,
    ),
    Check(
        "npu.node",
        "the account can open the NPU",
        "`/dev/accel/accel*`",
        "`usermod -aG render`, `configs apply --device intel_npu`",
        _node,
        _is_npu,
    ),
    Check(
        "npu.libraries",
        "the driver, compiler and loader libraries are installed",
        "`/var/lib/dpkg/status`, `/usr/lib`",
        "install intel-level-zero-npu, intel-driver-compiler-npu, libze1",
        _libraries,
        _is_npu,
    ),
)
