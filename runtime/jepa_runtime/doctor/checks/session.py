"""What a process of this account may ask of the kernel, and the clock."""

from __future__ import annotations

from jepa_runtime.doctor.checks.access import join
from jepa_runtime.doctor.finding import Check, Context, Evidence, Severity, Verdict, configs, ok

# From <linux/capability.h>: who has them is above the limits.
_CAPABILITIES = {"CAP_IPC_LOCK": 14, "CAP_SYS_NICE": 23}
# Shows what adjtimex(2) tells.
_SHOW_CLOCK = "timedatectl show --property NTPSynchronized"


def _limit(context: Context, name: str) -> float:
    """The soft limit of this process."""
    line = rf"^{name}\s+([0-9]{{1,20}}|unlimited)\s"
    limit = context.system.field("proc/self/limits", line, f"has no line {name!r}")
    return float("inf") if limit == "unlimited" else int(limit)


def _may(context: Context, capability: str) -> bool:
    effective = context.system.field(
        "proc/self/status", r"^CapEff:\s*([0-9a-f]{16})$", "does not tell CapEff"
    )
    return bool(int(effective, 16) >> _CAPABILITIES[capability] & 1)


def _asked(
    context: Context, name: str, least: float, capability: str, unit: str, consequence: str
) -> Verdict:
    limit = _limit(context, name)
    seen = Evidence("/proc/self/limits", f"{name.lower()} {limit:.0f} {unit}".strip())
    if limit >= least:
        return ok(f"{name.lower()} is enough", seen)
    if _may(context, capability):
        return ok(
            f"this process is above limits of {name.lower()}",
            Evidence("/proc/self/status", f"CapEff has {capability}"),
        )
    return Verdict(
        Severity.WARNING,
        f"{name.lower()} is {limit:.0f} {unit}".strip() + f": {consequence}",
        (seen,),
        (
            "# for the group jepa; services have limits of their own (LimitRTPRIO, LimitMEMLOCK)",
            configs(context, "common"),
            "sudo systemd-sysusers",
            *join("jepa", context.system.facts.account()),
        ),
    )


def _priority(context: Context) -> Verdict:
    what = "the inference thread cannot run before others (fifo_priority)"
    return _asked(context, "Max realtime priority", 1, "CAP_SYS_NICE", "", what)


def _memlock(context: Context) -> Verdict:
    what = "the model cannot be kept in memory (lock_memory), which must be allowed all of it"
    return _asked(context, "Max locked memory", float("inf"), "CAP_IPC_LOCK", "bytes", what)


def _clock(context: Context) -> Verdict:
    system = context.system
    if system.facts.clock_synchronized():
        return ok("the clock follows a reference", Evidence(_SHOW_CLOCK, "NTPSynchronized=yes"))
    chrony = system.exists("run/chrony") or system.exists("usr/sbin/chronyd")
    return Verdict(
        Severity.WARNING,
        "the clock follows no reference: stamps of other machines do not fit, and signatures of updates may "
        "seem expired",
        (
            Evidence(_SHOW_CLOCK, "NTPSynchronized=no"),
            Evidence(
                "/run/systemd/timesync/synchronized",
                "is there" if system.exists("run/systemd/timesync/synchronized") else "no such file",
            ),
        ),
        ("sudo systemctl enable --now chrony",)
        if chrony
        else ("sudo apt-get install systemd-timesyncd", "sudo timedatectl set-ntp true"),
    )


CHECKS = (
    Check(
        "limits.priority",
        "a real-time priority may be asked for",
        "`/proc/self/limits`, `/proc/self/status`",
        "`configs apply --device common`",
        _priority,
    ),
    Check(
        "limits.memlock",
        "all memory may be locked",
        "`/proc/self/limits`, `/proc/self/status`",
        "`configs apply --device common`",
        _memlock,
    ),
    Check(
        "clock.synchronized",
        "the clock follows a reference",
        "adjtimex(2), `/run/systemd/timesync/synchronized`, `/run/chrony`",
        "systemd-timesyncd or chrony",
        _clock,
    ),
)
