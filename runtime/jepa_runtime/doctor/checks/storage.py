"""Checks of disk space, memory and swap."""

from __future__ import annotations

from jepa_runtime.doctor.finding import Check, Context, Evidence, Severity, Verdict, info, ok
from jepa_runtime.errors import UndeterminedError

# The active model, the previous one and a candidate (jepa_runtime.ota.storage.slots); 1 GiB if no bundle is
# given.
_COPIES, _DEFAULT_BYTES = 3, 1 << 30
# An engine holds packed weights in addition to its graph (README.md, Limits).
_PACKED = 2


def memory_kb(context: Context, name: str) -> int:
    """Return a value of /proc/meminfo in kB.

    Raises:
        UndeterminedError: The file cannot be read, or has no such value.
    """
    line = rf"^{name}:\s*([0-9]{{1,15}}) kB$"
    return int(context.system.field("proc/meminfo", line, name))


def _disk(context: Context, path: str, what: str) -> Verdict:
    place, free = context.system.facts.free_bytes(path)
    required = _DEFAULT_BYTES if context.requirements is None else _COPIES * context.requirements.bytes
    evidence = Evidence(f"df {place}", f"{free / 1e6:.0f} MB free")
    if free >= required:
        return ok(f"the disk has enough space for {what}", evidence)
    return Verdict(
        Severity.WARNING,
        f"{what} need up to {required / 1e6:.0f} MB in {path}, but only {free / 1e6:.0f} MB are free",
        (evidence,),
        ("sudo apt-get clean", "# to find large folders: sudo du -xh / | sort -h | tail -n 30"),
    )


def _state(context: Context) -> Verdict:
    return _disk(context, "/var/lib/jepa-edge", "updates")


def _cache(context: Context) -> Verdict:
    return _disk(context, "/var/cache/jepa-edge", "compiled models")


def _memory(context: Context) -> Verdict:
    assert context.requirements is not None
    graph_bytes = context.requirements.graph_bytes
    available = memory_kb(context, "MemAvailable") << 10
    required = _PACKED * graph_bytes
    evidence = (
        Evidence("/proc/meminfo", f"MemAvailable {available / 1e6:.0f} MB"),
        Evidence("jepa-runtime info", f"graphs of {graph_bytes / 1e6:.1f} MB"),
    )
    if available >= required:
        return ok("the model fits into memory", *evidence)
    return Verdict(
        Severity.WARNING,
        f"the model needs up to {required / 1e6:.0f} MB of memory, but only {available / 1e6:.0f} MB are "
        "available",
        evidence,
        ("# stop other programs (ps -eo rss,comm --sort=-rss | head), or use a smaller model",),
    )


def _swap(context: Context) -> Verdict:
    lines = context.system.text("proc/swaps").splitlines()
    if lines[0].split() != ["Filename", "Type", "Size", "Used", "Priority"]:
        raise UndeterminedError("/proc/swaps is malformed", code="doctor.malformed")
    names = [line.split()[0] for line in lines[1:] if line.strip()]
    evidence = Evidence("/proc/swaps", ", ".join(names) or "none")
    if any("/zram" not in name for name in names):
        return info("memory can be swapped to disk; lock_memory exempts the model's pages", evidence)
    return info("swap is compressed memory (zram)" if names else "swap is disabled", evidence)


CHECKS = (
    Check(
        "disk.state",
        "space for three bundles, or 1 GiB if no bundle is given",
        "`/var/lib/jepa-edge`, or its nearest existing parent folder",
        "`apt-get clean`",
        _state,
    ),
    Check(
        "disk.cache",
        "space for three bundles, or 1 GiB if no bundle is given",
        "`/var/cache/jepa-edge`, or its nearest existing parent folder",
        "`apt-get clean`",
        _cache,
    ),
    Check(
        "memory.bundle",
        "twice the size of the bundle's graphs is available",
        "`/proc/meminfo`",
        "stop other programs",
        _memory,
        lambda context: context.requirements is not None,
    ),
    Check("memory.swap", "informational: swap, and whether it is zram", "`/proc/swaps`", "none", _swap),
)
