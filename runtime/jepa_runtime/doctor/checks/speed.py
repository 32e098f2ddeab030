"""Checks of the CPU: frequency scaling, temperature, throttling, core isolation, INT8 instructions."""

from __future__ import annotations

import re

from jepa_runtime.backends.cpu_int8 import VNNI, has_exact_sums
from jepa_runtime.doctor.finding import (
    Check,
    Context,
    Evidence,
    Severity,
    Verdict,
    apply_system_files,
    enable_jetson_service,
    info,
    ok,
)
from jepa_runtime.errors import UndeterminedError

_CPU = "sys/devices/system/cpu"
# The fraction of the uptime that a CPU package may have been throttled.
_MAX_THROTTLED = 0.01
# Trip points at which the system acts. "passive" only on a Jetson: on PCs, they merely wake up thermald.
_TRIPS = {"jetson": ("passive", "hot", "critical")}
_PC_TRIPS = ("hot", "critical")


def _governor(context: Context) -> Verdict:
    system = context.system
    policies = [path.rpartition("/")[0] for path in system.find(f"{_CPU}/cpu[0-9]*/cpufreq/scaling_governor")]
    if not policies:
        raise UndeterminedError(
            f"/{_CPU}/cpu*/cpufreq does not exist: the hypervisor or firmware controls the CPU clocks"
        )
    settings: dict[str, str] = {}
    slow = []
    for policy in policies:
        governor = system.text(f"{policy}/scaling_governor")
        low, high = (system.integer(f"{policy}/scaling_{end}_freq") for end in ("min", "max"))
        if not governor.isidentifier() or not 0 < low <= high:
            raise UndeterminedError(
                f"/{policy} has invalid settings: governor {governor[:20]!r}, {low} to {high} kHz",
                code="doctor.malformed",
            )
        constant = governor == "performance" or low == high
        slow += [] if constant else [policy]
        settings.setdefault(f"{governor}, {low} to {high} kHz", f"/{policy}")
    evidence = (Evidence(place, value) for value, place in settings.items())
    if not slow:
        return ok("the CPU clocks do not scale with the load", *evidence)
    kind = context.machine.kind
    if kind == "jetson":
        remedy = enable_jetson_service(context, "jepa-clocks")
    else:
        persist = ("# to apply it at each boot:", apply_system_files(context, "intel_npu"))
        remedy = (
            f"echo performance | sudo tee /{_CPU}/cpu*/cpufreq/scaling_governor > /dev/null",
            *(persist if kind == "intel_npu" else ()),
        )
    return Verdict(
        Severity.WARNING,
        f"the clocks of {len(slow)} of {len(policies)} cores scale with the load: the first frames after a "
        "pause are slow",
        tuple(evidence),
        remedy,
    )


def _temperature(context: Context) -> Verdict:
    system, evidence, hot, unreadable = context.system, [], [], []
    for zone in system.find("sys/class/thermal/thermal_zone*"):
        try:
            name, now = system.text(f"{zone}/type"), system.integer(f"{zone}/temp")
            limits = _limits(context, zone)
        except UndeterminedError as error:
            # Some zones report an error while the device they measure is suspended.
            unreadable.append(str(error))
            continue
        at = min(limits, default=None)
        evidence.append(
            Evidence(f"/{zone}/temp", f"{name} {now / 1000:g} °C" + (f" of {at / 1000:g}" if at else ""))
        )
        hot += [name] if at is not None and now >= at else []
    if hot:
        fan = enable_jetson_service(context, "jepa-fan-profile") if context.machine.kind == "jetson" else ()
        return Verdict(
            Severity.WARNING,
            f"the temperature is at a trip point, which slows the machine down: {', '.join(hot)}",
            tuple(evidence),
            ("# clean the fan, improve the airflow, or select a power mode that can be cooled", *fan),
        )
    if not evidence:
        raise UndeterminedError(
            unreadable[0] if unreadable else "/sys/class/thermal/thermal_zone* does not exist"
        )
    return ok("all temperatures are below their trip points", *evidence)


def _limits(context: Context, zone: str) -> list[int]:
    """Return the zone's trip points in m°C; a value of 0 or less is a disabled trip point."""
    system, kinds = context.system, _TRIPS.get(context.machine.kind, _PC_TRIPS)
    trips = [path.removesuffix("_type") for path in system.find(f"{zone}/trip_point_*_type")]
    found = [system.integer(f"{trip}_temp") for trip in trips if system.text(f"{trip}_type") in kinds]
    return [limit for limit in found if limit > 0]


def _throttling(context: Context) -> Verdict:
    """Check the time throttled since boot (Intel; kernel: therm_throt.c) or power supply events (Orin)."""
    system = context.system
    if events := system.find("sys/class/hwmon/hwmon*/oc*_event_cnt"):
        counts = [(path, system.integer(path)) for path in events]
        evidence = [Evidence(f"/{path}", str(count)) for path, count in counts]
        if any(count > 0 for _, count in counts):
            return info("undervoltage or overcurrent has throttled this Jetson since boot", *evidence)
        return ok("neither undervoltage nor overcurrent has throttled this Jetson since boot", *evidence)
    path = next(iter(system.find(f"{_CPU}/cpu[0-9]*/thermal_throttle/package_throttle_total_time_ms")), None)
    if path is None:
        raise UndeterminedError(f"neither /{_CPU}/cpu*/thermal_throttle nor oc*_event_cnt (Orin) exists")
    throttled = system.integer(path) / 1000
    up = float(system.field("proc/uptime", r"\A([0-9]{1,15}\.[0-9]+) ", "uptime"))
    if not 0 <= throttled <= up:
        raise UndeterminedError(
            f"/{path} reports {throttled:g} s of throttling in {up:g} s of uptime", code="doctor.malformed"
        )
    throttling = (Evidence(f"/{path}", f"{throttled:g} s"), Evidence("/proc/uptime", f"{up:g} s"))
    if throttled > _MAX_THROTTLED * up:
        return Verdict(
            Severity.WARNING,
            f"heat throttled the CPU for {100 * throttled / up:.0f} % of the uptime: frames may be late",
            throttling,
            ("# clean the fan, improve the airflow, or stop other programs",),
        )
    if throttled:
        return info("heat throttled the CPU for less than 1 % of the uptime", *throttling)
    return ok("heat has not throttled the CPU since boot", *throttling)


def _isolation(context: Context) -> Verdict:
    path = f"{_CPU}/isolated"
    if not context.system.exists(path):
        raise UndeterminedError(f"/{path} does not exist")
    isolated = context.system.text(path, may_be_empty=True)
    if not re.fullmatch(r"[0-9,-]*", isolated):
        raise UndeterminedError(f"/{path} is not a list of cores", code="doctor.malformed")
    summary = f"cores {isolated} are isolated from the scheduler" if isolated else "no core is isolated"
    return info(summary, Evidence(f"/{path}", isolated or "none"))


def _int8(context: Context) -> Verdict:
    in_full = has_exact_sums(context.system.text("proc/cpuinfo"))
    if in_full is None:
        raise UndeterminedError("/proc/cpuinfo has no CPU flags", code="doctor.malformed")
    flags = Evidence("/proc/cpuinfo", f"flags: {'one' if in_full else 'none'} of {', '.join(VNNI)}")
    if in_full:
        return ok("the CPU accumulates INT8 products without saturation (VNNI)", flags)
    return info(
        "the CPU has no VNNI and would saturate sums of INT8 products: INT8 models are computed in fp32 with "
        "the same quantized values; `jepa-runtime profile` shows whether the fp32 variant is faster",
        flags,
    )


CHECKS = (
    Check(
        "cpu.governor",
        "the CPU clocks do not scale with the load: governor performance, or equal minimum and maximum",
        f"`/{_CPU}/cpu*/cpufreq`",
        "jepa-clocks, governor performance, `configs apply`",
        _governor,
    ),
    Check(
        "cpu.temperature",
        "no thermal zone has reached a trip point",
        "`/sys/class/thermal/thermal_zone*`",
        "cooling; `configs apply --device jetson`, jepa-fan-profile",
        _temperature,
    ),
    Check(
        "cpu.throttling",
        "throttled for less than 1 % of the uptime; supply events of a Jetson are informational",
        f"`/{_CPU}/cpu*/thermal_throttle`, `/sys/class/hwmon/hwmon*/oc*_event_cnt`",
        "cooling",
        _throttling,
    ),
    Check("cpu.isolation", "informational: the isolated cores", f"`/{_CPU}/isolated`", "none", _isolation),
    Check(
        "cpu.int8",
        "informational: whether INT8 runs natively (VNNI) or is computed in fp32",
        "`/proc/cpuinfo`",
        "none",
        _int8,
        applies=lambda context: context.machine.architecture == "x86_64",
    ),
)
