"""Checks of the account's resource limits and of the clock."""

from __future__ import annotations

from jepa_runtime.doctor.checks.access import join_group
from jepa_runtime.doctor.finding import Check, Context, Evidence, Severity, Verdict, apply_system_files, ok

# From <linux/capability.h>: a process with these capabilities is exempt from the limits.
_CAPABILITIES = {"CAP_IPC_LOCK": 14, "CAP_SYS_NICE": 23}
# Shows the state that adjtimex(2) returns.
_SHOW_CLOCK = "timedatectl show --property NTPSynchronized"


def _limit(context: Context, name: str) -> float:
    """Return the soft limit of this process."""
    line = rf"^{name}\s+([0-9]{{1,20}}|unlimited)\s"
    limit = context.system.field("proc/self/limits", line, name)
    return float("inf") if limit == "unlimited" else int(limit)


def _has_capability(context: Context, capability: str) -> bool:
    effective = context.system.field("proc/self/status", r"^CapEff:\s*([0-9a-f]{16})$", "CapEff")
    return bool(int(effective, 16) >> _CAPABILITIES[capability] & 1)


def _check_limit(
    context: Context, name: str, least: float, capability: str, unit: str, consequence: str
) -> Verdict:
    limit = _limit(context, name)
    evidence = Evidence("/proc/self/limits", f"{name.lower()} {limit:.0f} {unit}".strip())
    if limit >= least:
        return ok(f"{name.lower()} is sufficient", evidence)
    if _has_capability(context, capability):
        return ok(
            f"{name.lower()} does not apply to this process",
            Evidence("/proc/self/status", f"CapEff contains {capability}"),
        )
    return Verdict(
        Severity.WARNING,
        f"{name.lower()} is {limit:.0f} {unit}".strip() + f": {consequence}",
        (evidence,),
        (
            "# raises the limits of the group jepa; services set their own (LimitRTPRIO, LimitMEMLOCK)",
            apply_system_files(context, "common"),
            "sudo systemd-sysusers",
            *join_group("jepa", context.system.facts.account()),
        ),
    )


def _priority(context: Context) -> Verdict:
    consequence = "the inference thread cannot get a real-time priority (fifo_priority)"
    return _check_limit(context, "Max realtime priority", 1, "CAP_SYS_NICE", "", consequence)


def _memlock(context: Context) -> Verdict:
    consequence = "the model cannot be locked into memory (lock_memory), which needs an unlimited value"
    return _check_limit(context, "Max locked memory", float("inf"), "CAP_IPC_LOCK", "bytes", consequence)


def _clock(context: Context) -> Verdict:
    system = context.system
    if system.facts.clock_synchronized():
        return ok("the clock is synchronized", Evidence(_SHOW_CLOCK, "NTPSynchronized=yes"))
    chrony = system.exists("run/chrony") or system.exists("usr/sbin/chronyd")
    return Verdict(
        Severity.WARNING,
        "the clock is not synchronized: time stamps from other machines do not match, and update metadata "
        "may be rejected as expired",
        (
            Evidence(_SHOW_CLOCK, "NTPSynchronized=no"),
            Evidence(
                "/run/systemd/timesync/synchronized",
                "present" if system.exists("run/systemd/timesync/synchronized") else "not found",
            ),
        ),
        ("sudo systemctl enable --now chrony",)
        if chrony
        else ("sudo apt-get install systemd-timesyncd", "sudo timedatectl set-ntp true"),
    )


CHECKS = (
    Check(
        "limits.priority",
        "the account may use a real-time priority",
        "`/proc/self/limits`, `/proc/self/status`",
        "`configs apply --device common`",
        _priority,
    ),
    Check(
        "limits.memlock",
        "the account may lock an unlimited amount of memory",
        "`/proc/self/limits`, `/proc/self/status`",
        "`configs apply --device common`",
        _memlock,
    ),
    Check(
        "clock.synchronized",
        "the clock is synchronized to a reference",
        "adjtimex(2), `/run/systemd/timesync/synchronized`, `/run/chrony`",
        "systemd-timesyncd or chrony",
        _clock,
    ),
)
