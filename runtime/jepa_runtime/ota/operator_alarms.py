"""Alarms: conditions that need an operator, computed from the state and the folder of a robot on request."""

from __future__ import annotations

from pathlib import Path

from jepa_runtime.ota.health import serving_socket
from jepa_runtime.ota.health.trial_counter import TrialCounter
from jepa_runtime.ota.state import State
from jepa_runtime.ota.storage.folder_owner import account_name
from jepa_runtime.ota.storage.slots import SlotStore

# About four hours, with the pauses between failed checks (see daemon.py).
MAX_FAILED_CHECKS = 10
# Crashes of the serving process since boot, without an hour of service in between.
MAX_CRASHES = 5
# Files that updates write.
_WRITTEN = (
    "state.json", "audit.log", "lock", "lock.wanted", "meta", "meta/*", "meta/root_history/*", "slots",
    "slots/*", "staging", "trash",
)  # fmt: skip


def alarms(root: Path, state: State) -> list[str]:
    """Return the active alarms, one sentence each.

    Args:
        root: The robot's folder.
        state: The stored state.
    """
    found = [
        state.alarm, _failed_checks(state), _foreign_files(root), boots_alarm(root, state), crash_alarm(root,
        state),
    ]  # fmt: skip
    return [alarm for alarm in found if alarm]


def crash_alarm(root: Path, state: State) -> str:
    """Return an alarm if the active, last known good model crashes repeatedly, or an empty string."""
    current = state.current
    if current is None or current != state.good:
        return ""
    crashes = serving_socket.crashes(root, current.manifest_sha256)
    if crashes < MAX_CRASHES:
        return ""
    return (
        f"{current.model_id} {current.version}, the active model, has crashed {crashes} times since boot: "
        "check the log of the serving process (journalctl -u jepa-run), or go back to the previous model "
        "(`jepa-runtime update rollback`)"
    )


def boots_alarm(root: Path, state: State) -> str:
    """Return an alarm if the active, last known good model is no longer opened, or an empty string.

    It is no longer opened after its process or the machine stopped soon after opening it in too many
    consecutive boots.
    """
    current, earlier = state.current, state.previous
    if current is None or current != state.good:
        return ""
    trials = TrialCounter(SlotStore(root))
    if not (why := trials.exhausted(current.manifest_sha256)):
        return ""
    substitute = trials.substitute_for(current.manifest_sha256)
    if earlier is None or substitute != earlier.manifest_sha256 or trials.exhausted(substitute):
        active = "no model is active"
    else:
        active = f"{earlier.version} is active instead"
    return f"{active}: {current.model_id} {current.version}, the active model: {why}"


def _failed_checks(state: State) -> str:
    if state.failed_checks < MAX_FAILED_CHECKS:
        return ""
    last = "never" if state.checked_at is None else f"{state.checked_at:%Y-%m-%d %H:%M} UTC"
    why = f": {state.reason}" if state.result == "failed" and state.reason else ""
    count = state.failed_checks
    return f"the repository could not be used in the last {count} checks (last success: {last}){why}"


def _foreign_files(root: Path) -> str:
    try:
        owner = root.stat().st_uid
        for path in (path for pattern in _WRITTEN for path in sorted(root.glob(pattern))):
            if (uid := path.lstat().st_uid) != owner:
                name = account_name(owner)
                return (
                    f"{path}: belongs to {account_name(uid)}, and updates run as {name}, which cannot change "
                    f"it: run `sudo chown -R {name}: {root}`"
                )
    except FileNotFoundError:
        # A running update changes the folder, which shows that it can write.
        return ""
    except OSError as error:
        return f"{root}: cannot check the owner of its files: {error.strerror}"
    return ""
