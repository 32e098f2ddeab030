"""Checks of the kernel settings and shared memory that image topics over DDS need."""

from __future__ import annotations

import re
from importlib.resources import files

from jepa_runtime.doctor.checks.storage import memory_kb
from jepa_runtime.doctor.finding import Check, Context, Evidence, Severity, Verdict, apply_system_files, ok
from jepa_runtime.errors import UndeterminedError

# The segments (jepa_bringup/config/fastdds*.xml), including overhead: 17 MiB each for a camera and a viewer,
# 9 MiB each for model, planner and monitor.
_SHARED_BYTES = 64 << 20
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def _shipped_sysctls() -> dict[str, int]:
    """Return the settings of the shipped sysctl file."""
    path = files("jepa_runtime").joinpath(
        "system_files/firmware_configs/common/etc/sysctl.d/60-jepa-dds.conf"
    )
    lines = re.findall(r"^([a-z0-9_.]+)\s*=\s*([0-9]+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: int(value) for name, value in lines}


def _buffers(context: Context) -> Verdict:
    evidence, wrong = [], []
    for name, expected in _shipped_sysctls().items():
        path = f"proc/sys/{name.replace('.', '/')}"
        value = context.system.integer(path)
        evidence.append(Evidence(f"/{path}", str(value)))
        # A reassembly time must not be larger, a size not smaller. With a time of 0 all fragments are lost.
        if not 0 < value <= expected if name.endswith("_time") else value < expected:
            wrong.append(f"{name} is {value} instead of {expected}")
    if not wrong:
        return ok("socket buffers are large enough for images from other machines over DDS", *evidence)
    return Verdict(
        Severity.WARNING,
        f"DDS may lose images from other machines: {'; '.join(wrong)}",
        tuple(evidence),
        (apply_system_files(context, "common"), "sudo sysctl --system > /dev/null"),
    )


def _shared_memory(context: Context) -> Verdict:
    mounts = [line.split() for line in context.system.text("proc/mounts").splitlines()]
    if any(len(mount) != 6 for mount in mounts):
        raise UndeterminedError("/proc/mounts is malformed", code="doctor.malformed")
    options = [mount[3] for mount in mounts if mount[1] == "/dev/shm" and mount[2] == "tmpfs"]
    remedy = (
        f"sudo mount -o remount,size={_SHARED_BYTES >> 20}M /dev/shm",
        f"# in a container: start it with --shm-size={_SHARED_BYTES >> 20}m; elsewhere, add the size to "
        "/etc/fstab to keep it after a reboot",
    )
    if not options:
        return Verdict(
            Severity.WARNING,
            "/dev/shm is not a tmpfs: DDS may send images between processes through sockets, which is slower",
            (Evidence("/proc/mounts", "no tmpfs at /dev/shm"),),
            (
                "sudo mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm",
                "# add it to /etc/fstab to keep it after a reboot",
            ),
        )
    size = _tmpfs_bytes(context, options[-1])
    evidence = (Evidence("/proc/mounts", f"/dev/shm {options[-1]}"),)
    if size >= _SHARED_BYTES:
        return ok(f"shared memory has {size >> 20} MiB", *evidence)
    return Verdict(
        Severity.WARNING,
        f"shared memory has only {size >> 20} MiB; a camera and the nodes need {_SHARED_BYTES >> 20} MiB",
        evidence,
        remedy,
    )


def _tmpfs_bytes(context: Context, options: str) -> int:
    """Return the capacity of a tmpfs in bytes; half of the memory by default (tmpfs(5))."""
    memory = memory_kb(context, "MemTotal") << 10
    if (found := re.search(r"(?:^|,)size=([0-9]{1,15})([kmg%]?)(?:,|$)", options)) is None:
        if "size=" in options:
            raise UndeterminedError(
                f"/proc/mounts has an invalid size of /dev/shm: {options[:80]!r}", code="doctor.malformed"
            )
        return memory // 2
    number = int(found[1])
    return memory * number // 100 if found[2] == "%" else number * _UNITS[found[2]]


CHECKS = (
    Check(
        "dds.buffers",
        "the values of `firmware_configs/common/etc/sysctl.d/60-jepa-dds.conf`, or better",
        "`/proc/sys/net`",
        "`configs apply --device common`",
        _buffers,
    ),
    Check(
        "dds.shared_memory",
        f"shared memory has {_SHARED_BYTES >> 20} MiB or more",
        "`/proc/mounts`",
        "`mount -o remount`",
        _shared_memory,
    ),
)
