"""Messages and diagnostics of the update state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from builtin_interfaces.msg import Time
from jepa_msgs.action import UpdateModel
from jepa_msgs.msg import ModelInfo, ModelRelease, UpdateEvent, UpdateStatus
from std_msgs.msg import Header

from jepa_ros.common.conversions import to_time
from jepa_runtime.backends import split_engine
from jepa_runtime.ota import Config, Installed, Phase, State
from jepa_runtime.telemetry import Level, Verdict

# Intervals without a successful check of the repository after which the diagnostics warn.
_MAX_MISSED_POLLS = 2


def release(installed: Installed | None) -> ModelRelease:
    """Return the message of an installed release, or an empty one for None."""
    if installed is None:
        return ModelRelease()
    return ModelRelease(
        channel=installed.channel,
        model_id=installed.model_id,
        version=installed.version,
        release_seq=installed.release_seq,
        sha256=installed.manifest_sha256,
    )


def event(state: State, reason: str, *, stamp_ns: int) -> UpdateEvent:
    """Return the event of a state that was entered."""
    return UpdateEvent(
        header=Header(stamp=to_time(stamp_ns)),
        state=str(state.phase),
        reason=reason,
        release=release(_candidate(state)),
        result=state.result,
        current=release(state.current),
    )


def status(state: State, settings: Config) -> UpdateStatus:
    """Return the current update status."""
    candidate = _candidate(state)
    awaits_approval = (
        settings.approval
        and state.phase is Phase.ARMED
        and candidate is not None
        and candidate.manifest_sha256 != state.approved
    )
    return UpdateStatus(
        state=str(state.phase),
        result=state.result,
        reason=state.reason,
        alarm=state.alarm,
        candidate=release(candidate),
        current=release(state.current),
        last_known_good=release(state.good),
        awaits_approval=awaits_approval,
        pinned=state.pinned,
        checked=Time() if state.checked_at is None else to_time(int(state.checked_at.timestamp() * 1e9)),
    )


def result(state: State) -> UpdateModel.Result:
    """Return the result of an update that has ended."""
    current = release(state.current)
    return UpdateModel.Result(
        result=state.result,
        reason=state.reason,
        version=current.version,
        release_seq=current.release_seq,
        sha256=current.sha256,
    )


def verdict(
    state: State,
    settings: Config,
    alarms: Sequence[str],
    *,
    info: ModelInfo | None,
    polls: bool,
    now: datetime,
    free_bytes: int,
) -> tuple[Verdict, dict[str, Any]]:
    """Return the verdict on updates and the values behind it.

    Args:
        state: Saved update state.
        settings: Contents of config.json.
        alarms: Conditions that require an operator.
        info: Description of the active model, or None if the node is gone or unknown.
        polls: Whether the robot looks for updates periodically.
        now: Current time.
        free_bytes: Free space on its disk.
    """
    checked_s = None if state.checked_at is None else (now - state.checked_at).total_seconds()
    values = {
        "state": state.phase,
        "result": state.result,
        "reason": state.reason,
        "alarm": "; ".join(alarms),
        "current": name(state.current),
        "last_known_good": name(state.good),
        "candidate": name(_candidate(state)),
        "pinned": state.pinned,
        "metadata_age_s": "never" if checked_s is None else round(checked_s),
        "clock_floor": "none" if state.signed_at is None else state.signed_at.isoformat(timespec="seconds"),
        "clock": now.isoformat(timespec="seconds"),
        "free_mb": round(free_bytes / 1e6),
    }
    if alarms:
        return Verdict(Level.ERROR, "; ".join(alarms)), values
    if free_bytes < settings.fetch.free_bytes:
        return Verdict(
            Level.WARN,
            f"disk space is too low to download a release: {free_bytes / 1e6:.0f} MB free,"
            f" {settings.fetch.free_bytes / 1e6:.0f} MB required",
        ), values
    if state.signed_at is not None and now < state.signed_at:
        return Verdict(
            Level.WARN,
            f"the system clock is behind the signature time {state.signed_at:%Y-%m-%d %H:%M} UTC: set it",
        ), values
    if state.phase is Phase.IDLE and info is not None and info.sha256 != release(state.current).sha256:
        return Verdict(Level.WARN, f"the node serves {info.sha256[:12]}, not {name(state.current)}"), values
    if polls and checked_s is None and state.result == "failed":
        return Verdict(Level.WARN, f"the repository was never reached: {state.reason}"), values
    if polls and checked_s is not None and checked_s > _MAX_MISSED_POLLS * settings.poll_s:
        why = f": {state.reason}" if state.result == "failed" else ""
        return Verdict(Level.WARN, f"the repository was last reached {checked_s:.0f} s ago{why}"), values
    if info is not None and (mismatch := _engine_mismatch(info, settings)):
        return Verdict(Level.WARN, mismatch), values
    return Verdict(Level.OK, str(state.phase)), values


def _engine_mismatch(info: ModelInfo, settings: Config) -> str:
    """Return a warning if candidates are tested on another engine than the node's, or an empty string."""
    engine, precisions = f"{info.engine}:{info.device}", (None, info.precision)
    if (info.engine, info.device) == split_engine(settings.engine) and settings.precision in precisions:
        return ""
    tested = settings.engine + ("" if settings.precision is None else f" in {settings.precision}")
    return (
        f"the node serves on {engine} in {info.precision}, but candidates are tested on {tested}: set the "
        "same engine and precision in config.json and in the parameters of the node"
    )


def name(installed: Installed | None) -> str:
    """Return a readable name of an installed release."""
    if installed is None:
        return "none"
    return f"{installed.model_id} {installed.version} ({installed.release_seq})"


def _candidate(state: State) -> Installed | None:
    return None if state.candidate is None else state.candidate.installed
