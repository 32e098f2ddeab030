"""Room on the disk and in memory."""

from __future__ import annotations

from jepa_runtime.doctor.finding import Check, Context, Evidence, Severity, Verdict, info, ok
from jepa_runtime.errors import UndeterminedError

# What serves, the way back, and a candidate (jepa_runtime.ota.storage.slots). Without a bundle to go by, 1
# GiB.
_COPIES, _WITHOUT_BUNDLE = 3, 1 << 30
# An engine keeps weights packed beside its own graph (README.md, Limits).
_PACKED = 2


def memory_kb(context: Context, name: str) -> int:
    """A line of /proc/meminfo.

    Raises:
        UndeterminedError: there is none.
    """
    line = rf"^{name}:\s*([0-9]{{1,15}}) kB$"
    return int(context.system.field("proc/meminfo", line, f"has no line {name}"))


def _disk(context: Context, path: str, what: str) -> Verdict:
    place, free = context.system.facts.free_bytes(path)
    wanted = _WITHOUT_BUNDLE if context.needs is None else _COPIES * context.needs.bytes
    seen = Evidence(f"df {place}", f"{free / 1e6:.0f} MB free")
    if free >= wanted:
        return ok(f"there is room for {what}", seen)
    return Verdict(
        Severity.WARNING,
        f"{what} may take {wanted / 1e6:.0f} MB at {path}, where {free / 1e6:.0f} MB are free",
        (seen,),
        ("sudo apt-get clean", "# what else is large: sudo du -xh / | sort -h | tail -n 30"),
    )


def _state(context: Context) -> Verdict:
    return _disk(context, "/var/lib/jepa-edge", "updates")


def _cache(context: Context) -> Verdict:
    return _disk(context, "/var/cache/jepa-edge", "compiled models")


def _memory(context: Context) -> Verdict:
    assert context.needs is not None
    available = memory_kb(context, "MemAvailable") << 10
    wanted = _PACKED * context.needs.graph_bytes
    seen = (
        Evidence("/proc/meminfo", f"MemAvailable {available / 1e6:.0f} MB"),
        Evidence("jepa-runtime info", f"graphs of {context.needs.graph_bytes / 1e6:.1f} MB"),
    )
    if available >= wanted:
        return ok("the model fits into memory", *seen)
    return Verdict(
        Severity.WARNING,
        f"the model may take {wanted / 1e6:.0f} MB of memory, and {available / 1e6:.0f} MB are available",
        seen,
        ("# end what else runs: ps -eo rss,comm --sort=-rss | head, or take a smaller model",),
    )


def _swap(context: Context) -> Verdict:
    lines = context.system.text("proc/swaps").splitlines()
    if lines[0].split() != ["Filename", "Type", "Size", "Used", "Priority"]:
        raise UndeterminedError("/proc/swaps is damaged")
    names = [line.split()[0] for line in lines[1:] if line.strip()]
    seen = Evidence("/proc/swaps", ", ".join(names) or "none")
    if any("/zram" not in name for name in names):
        return info("memory may be swapped to a disk; lock_memory keeps the model's pages out of it", seen)
    return info("memory is compressed where it runs short (zram)" if names else "there is no swap", seen)


CHECKS = (
    Check(
        "disk.state",
        "room for three bundles, or 1 GiB if none is named",
        "`/var/lib/jepa-edge`, or the nearest folder above that exists",
        "`apt-get clean`",
        _state,
    ),
    Check(
        "disk.cache",
        "room for three bundles, or 1 GiB if none is named",
        "`/var/cache/jepa-edge`, or the nearest folder above that exists",
        "`apt-get clean`",
        _cache,
    ),
    Check(
        "memory.bundle",
        "the bundle's graphs fit twice into what is available",
        "`/proc/meminfo`",
        "ending what else runs",
        _memory,
        lambda context: context.needs is not None,
    ),
    Check("memory.swap", "told only: swap, and whether it is zram", "`/proc/swaps`", "none", _swap),
)
