"""What needs a person: found in the state and the folder of a robot each time that it is asked for."""

from __future__ import annotations

from pathlib import Path

from jepa_runtime.ota.health import serving_socket
from jepa_runtime.ota.health.trial_counter import TrialCounter
from jepa_runtime.ota.state import State
from jepa_runtime.ota.storage.folder_owner import account_name
from jepa_runtime.ota.storage.slots import SlotStore

# With the pauses between failed looks (see daemon.py) some four hours.
MOST_FAILED_LOOKS = 10
# Of the process that serves, since the last start of the machine and without an hour of service between them.
MOST_CRASHES = 5
# What updates have to write.
_WRITTEN = (
    "state.json", "audit.log", "lock", "lock.wanted", "meta", "meta/*", "meta/root_history/*", "slots",
    "slots/*", "staging", "trash",
)  # fmt: skip


def alarms(root: Path, state: State) -> list[str]:
    """Return what needs a person, one sentence each; empty: nothing does.

    Args:
        root: the robot's folder.
        state: as it was stored last.
    """
    found = [
        state.alarm, _failed_looks(state), _foreign(root), boots_alarm(root, state), crash_alarm(root, state),
    ]  # fmt: skip
    return [alarm for alarm in found if alarm]


def crash_alarm(root: Path, state: State) -> str:
    """Say that the active model, which was found to be good, crashes again and again; empty: it does not."""
    current = state.current
    if current is None or current != state.good:
        return ""
    crashes = serving_socket.crashes(root, current.manifest_sha256)
    if crashes < MOST_CRASHES:
        return ""
    return (
        f"{current.model_id} {current.version}, the active model, has crashed {crashes} times since the last "
        "start of the machine: look at the log of its process (journalctl -u jepa-run), or go back to the "
        "model before it (`jepa-runtime update rollback`)"
    )


def boots_alarm(root: Path, state: State) -> str:
    """Say that the active model, which was found to be good, is not opened any more, since the machine or its
    process stopped soon after that in too many boots in a row; empty: it is opened."""
    current, earlier = state.current, state.previous
    if current is None or current != state.good:
        return ""
    trials = TrialCounter(SlotStore(root))
    if not (why := trials.exhausted(current.manifest_sha256)):
        return ""
    instead = trials.instead_of(current.manifest_sha256)
    if earlier is None or instead != earlier.manifest_sha256 or trials.exhausted(instead):
        serves = "no model is served"
    else:
        serves = f"{earlier.version} is served instead"
    return f"{serves}: {current.model_id} {current.version}, the active model: {why}"


def _failed_looks(state: State) -> str:
    if state.failed_looks < MOST_FAILED_LOOKS:
        return ""
    last = "never" if state.checked_at is None else f"at {state.checked_at:%Y-%m-%d %H:%M} UTC"
    why = f": {state.reason}" if state.result == "failed" and state.reason else ""
    return (
        f"updates stand still: the repository could not be used {state.failed_looks} times in a row, and "
        f"last was {last}{why}"
    )


def _foreign(root: Path) -> str:
    try:
        owner = root.stat().st_uid
        for path in (path for pattern in _WRITTEN for path in sorted(root.glob(pattern))):
            if (uid := path.lstat().st_uid) != owner:
                name = account_name(owner)
                return (
                    f"{path}: belongs to {account_name(uid)}, and updates run as {name}, which cannot change "
                    f"it: `sudo chown -R {name}: {root}`"
                )
    except FileNotFoundError:
        # An update is at it, which says that it can.
        return ""
    except OSError as error:
        return f"{root}: cannot be looked through: {error.strerror}"
    return ""
