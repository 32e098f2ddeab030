"""What images over DDS need of the kernel."""

from __future__ import annotations

import re
from importlib.resources import files

from jepa_runtime.doctor.checks.storage import memory_kb
from jepa_runtime.doctor.finding import Check, Context, Evidence, Severity, Verdict, configs, ok
from jepa_runtime.errors import UndeterminedError

# The segments (jepa_bringup/config/fastdds*.xml) of a camera and of a process that looks on, 17 MiB each with
# what manages them, and of model, planner and monitor, 9 MiB each.
_SHARED_BYTES = 64 << 20
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def _wanted_sysctls() -> dict[str, int]:
    """What our own file of firmware_configs sets."""
    path = files("jepa_runtime").joinpath(
        "system_files/firmware_configs/common/etc/sysctl.d/60-jepa-dds.conf"
    )
    lines = re.findall(r"^([a-z0-9_.]+)\s*=\s*([0-9]+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: int(value) for name, value in lines}


def _buffers(context: Context) -> Verdict:
    seen, wrong = [], []
    for name, wanted in _wanted_sysctls().items():
        path = f"proc/sys/{name.replace('.', '/')}"
        value = context.system.integer(path)
        seen.append(Evidence(f"/{path}", str(value)))
        # A time to wait is an upper limit, a size a lower one; without any, all fragments are lost.
        if not 0 < value <= wanted if name.endswith("_time") else value < wanted:
            wrong.append(f"{name} is {value}, not {wanted}")
    if not wrong:
        return ok("socket buffers hold images that come over DDS from other machines", *seen)
    return Verdict(
        Severity.WARNING,
        f"images over DDS between machines may be lost: {'; '.join(wrong)}",
        tuple(seen),
        (configs(context, "common"), "sudo sysctl --system > /dev/null"),
    )


def _shared_memory(context: Context) -> Verdict:
    mounts = [line.split() for line in context.system.text("proc/mounts").splitlines()]
    if any(len(mount) != 6 for mount in mounts):
        raise UndeterminedError("/proc/mounts is damaged")
    options = [mount[3] for mount in mounts if mount[1] == "/dev/shm" and mount[2] == "tmpfs"]
    remedy = (
        f"sudo mount -o remount,size={_SHARED_BYTES >> 20}M /dev/shm",
        f"# in a container: start it with --shm-size={_SHARED_BYTES >> 20}m; for good: a line in /etc/fstab",
    )
    if not options:
        return Verdict(
            Severity.WARNING,
            "there is no shared memory of its own: images between processes may go through sockets",
            (Evidence("/proc/mounts", "no tmpfs at /dev/shm"),),
            (
                "sudo mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm",
                "# for good: a line in /etc/fstab",
            ),
        )
    size = _size(context, options[-1])
    seen = (Evidence("/proc/mounts", f"/dev/shm {options[-1]}"),)
    if size >= _SHARED_BYTES:
        return ok(f"shared memory may take {size >> 20} MiB", *seen)
    return Verdict(
        Severity.WARNING,
        f"shared memory may take {size >> 20} MiB; a camera and our nodes take {_SHARED_BYTES >> 20}",
        seen,
        remedy,
    )


def _size(context: Context, options: str) -> int:
    """Bytes that a tmpfs may take; half of the memory where nothing is said (tmpfs(5))."""
    memory = memory_kb(context, "MemTotal") << 10
    if (found := re.search(r"(?:^|,)size=([0-9]{1,15})([kmg%]?)(?:,|$)", options)) is None:
        if "size=" in options:
            raise UndeterminedError(
                f"/proc/mounts tells no size of /dev/shm that is understood: {options[:80]!r}"
            )
        return memory // 2
    number = int(found[1])
    return memory * number // 100 if found[2] == "%" else number * _UNITS[found[2]]


CHECKS = (
    Check(
        "dds.buffers",
        "what `firmware_configs/common/etc/sysctl.d/60-jepa-dds.conf` sets, or better",
        "`/proc/sys/net`",
        "`configs apply --device common`",
        _buffers,
    ),
    Check(
        "dds.shared_memory",
        f"{_SHARED_BYTES >> 20} MiB or more of shared memory",
        "`/proc/mounts`",
        "`mount -o remount`",
        _shared_memory,
    ),
)
