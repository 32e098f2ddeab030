"""Clocks of the processor, heat, cores set aside, and what it computes INT8 with."""

from __future__ import annotations

import re

from jepa_runtime.backends.cpu_int8 import VNNI, adds_in_full
from jepa_runtime.doctor.finding import (
    Check,
    Context,
    Evidence,
    Severity,
    Verdict,
    configs,
    info,
    ok,
    service,
)
from jepa_runtime.errors import UndeterminedError

_CPU = "sys/devices/system/cpu"
# The share of the time since the start that a package may have spent throttled.
_THROTTLED = 0.01
# Trips at which the system acts. "passive" on a Jetson alone: on PCs, thermald uses such trips to be woken.
_TRIPS = {"jetson": ("passive", "hot", "critical")}
_PC_TRIPS = ("hot", "critical")


def _governor(context: Context) -> Verdict:
    system = context.system
    policies = [path.rpartition("/")[0] for path in system.find(f"{_CPU}/cpu[0-9]*/cpufreq/scaling_governor")]
    if not policies:
        raise UndeterminedError(
            f"no /{_CPU}/cpu*/cpufreq: this kernel, or a hypervisor, sets the clocks alone"
        )
    seen: dict[str, str] = {}
    slow = []
    for policy in policies:
        governor = system.text(f"{policy}/scaling_governor")
        low, high = (system.integer(f"{policy}/scaling_{end}_freq") for end in ("min", "max"))
        if not governor.isidentifier() or not 0 < low <= high:
            raise UndeterminedError(f"/{policy} has the governor {governor[:20]!r}, {low} to {high} kHz")
        held = governor == "performance" or low == high
        slow += [] if held else [policy]
        seen.setdefault(f"{governor}, {low} to {high} kHz", f"/{policy}")
    evidence = (Evidence(place, value) for value, place in seen.items())
    if not slow:
        return ok("the processor's clocks are held up", *evidence)
    kind = context.machine.kind
    if kind == "jetson":
        remedy = service(context, "jepa-clocks")
    else:
        remedy = (
            f"echo performance | sudo tee /{_CPU}/cpu*/cpufreq/scaling_governor > /dev/null",
            *(("# at each start:", configs(context, "intel_npu")) if kind == "intel_npu" else ()),
        )
    return Verdict(
        Severity.WARNING,
        f"the clocks of {len(slow)} of {len(policies)} cores follow the load: the first frames after a pause "
        "are slow",
        tuple(evidence),
        remedy,
    )


def _temperature(context: Context) -> Verdict:
    system, seen, hot, silent = context.system, [], [], []
    for zone in system.find("sys/class/thermal/thermal_zone*"):
        try:
            name, now = system.text(f"{zone}/type"), system.integer(f"{zone}/temp")
            limits = _limits(context, zone)
        except UndeterminedError as error:
            # Some zones answer with an error while what they measure sleeps.
            silent.append(str(error))
            continue
        at = min(limits, default=None)
        seen.append(
            Evidence(f"/{zone}/temp", f"{name} {now / 1000:g} °C" + (f" of {at / 1000:g}" if at else ""))
        )
        hot += [name] if at is not None and now >= at else []
    if hot:
        fan = service(context, "jepa-fan-profile") if context.machine.kind == "jetson" else ()
        return Verdict(
            Severity.WARNING,
            f"too hot, and slowed down for it: {', '.join(hot)}",
            tuple(seen),
            ("# clean the fan, give it air, or take a power mode that it can cool", *fan),
        )
    if not seen:
        raise UndeterminedError(silent[0] if silent else "no /sys/class/thermal/thermal_zone*")
    return ok("no part is at a temperature at which it is slowed down", *seen)


def _limits(context: Context, zone: str) -> list[int]:
    """The zone's trips in m°C; a trip that is switched off stands at or below 0."""
    system, kinds = context.system, _TRIPS.get(context.machine.kind, _PC_TRIPS)
    trips = [path.removesuffix("_type") for path in system.find(f"{zone}/trip_point_*_type")]
    found = [system.integer(f"{trip}_temp") for trip in trips if system.text(f"{trip}_type") in kinds]
    return [limit for limit in found if limit > 0]


def _throttling(context: Context) -> Verdict:
    """Intel: time throttled since the start (kernel: therm_throt.c). Orin: events of its supply."""
    system = context.system
    if events := system.find("sys/class/hwmon/hwmon*/oc*_event_cnt"):
        counts = [(path, system.integer(path)) for path in events]
        evidence = [Evidence(f"/{path}", str(count)) for path, count in counts]
        if any(count > 0 for _, count in counts):
            return info("the power supply has limited this Jetson since the start", *evidence)
        return ok("the power supply has not limited this Jetson", *evidence)
    path = next(iter(system.find(f"{_CPU}/cpu[0-9]*/thermal_throttle/package_throttle_total_time_ms")), None)
    if path is None:
        raise UndeterminedError(
            "neither /sys/devices/system/cpu/cpu*/thermal_throttle nor oc*_event_cnt (Orin)"
        )
    throttled = system.integer(path) / 1000
    up = float(system.field("proc/uptime", r"\A([0-9]{1,15}\.[0-9]+) ", "holds no time"))
    if not 0 <= throttled <= up:
        raise UndeterminedError(f"/{path} tells {throttled:g} s of {up:g} s since the start")
    seen = (Evidence(f"/{path}", f"{throttled:g} s"), Evidence("/proc/uptime", f"{up:g} s"))
    if throttled > _THROTTLED * up:
        return Verdict(
            Severity.WARNING,
            f"heat has slowed the processor down {100 * throttled / up:.0f} % of the time since the start",
            seen,
            ("# clean the fan, give it air, or limit what else runs",),
        )
    if throttled:
        return info("heat has slowed the processor down at times since the start", *seen)
    return ok("heat has not slowed the processor down", *seen)


def _isolation(context: Context) -> Verdict:
    path = f"{_CPU}/isolated"
    if not context.system.exists(path):
        raise UndeterminedError(f"no /{path}")
    isolated = context.system.text(path, may_be_empty=True)
    if not re.fullmatch(r"[0-9,-]*", isolated):
        raise UndeterminedError(f"/{path} holds no list of cores")
    seen = Evidence(f"/{path}", isolated or "none")
    return info(
        "these cores are set aside for whom asks for them" if isolated else "no core is set aside", seen
    )


def _int8(context: Context) -> Verdict:
    in_full = adds_in_full(context.system.text("proc/cpuinfo"))
    if in_full is None:
        raise UndeterminedError("/proc/cpuinfo tells no flags")
    flags = Evidence("/proc/cpuinfo", f"flags: {'one' if in_full else 'none'} of {', '.join(VNNI)}")
    if in_full:
        return ok("INT8 products are added in full", flags)
    return info(
        "this processor has no VNNI and cuts off sums of INT8 products: models in INT8 are computed in fp32 "
        "with the same rounded numbers; `jepa-runtime profile` tells whether fp32 itself is faster",
        flags,
    )


CHECKS = (
    Check(
        "cpu.governor",
        "the processor's clocks are held up: governor performance, or least and greatest frequency equal",
        f"`/{_CPU}/cpu*/cpufreq`",
        "jepa-clocks, governor performance, `configs apply`",
        _governor,
    ),
    Check(
        "cpu.temperature",
        "no part has reached a trip point",
        "`/sys/class/thermal/thermal_zone*`",
        "cooling; `configs apply --device jetson`, jepa-fan-profile",
        _temperature,
    ),
    Check(
        "cpu.throttling",
        "less than 1 % of the time since the start throttled; events of a Jetson's supply are told only",
        f"`/{_CPU}/cpu*/thermal_throttle`, `/sys/class/hwmon/hwmon*/oc*_event_cnt`",
        "cooling",
        _throttling,
    ),
    Check("cpu.isolation", "told only: which cores are set aside", f"`/{_CPU}/isolated`", "none", _isolation),
    Check(
        "cpu.int8",
        "told only: whether INT8 products are added in full (VNNI), or INT8 is computed in fp32",
        "`/proc/cpuinfo`",
        "none",
        _int8,
        applies=lambda context: context.machine.architecture == "x86_64",
    ),
)
