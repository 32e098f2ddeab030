"""What a person, a ROS service or a fleet server may ask of a robot at any time, from any process or thread.

Each takes the lock from an update in work at a moment at which nothing is half done, within seconds (a probe
ends first, see :class:`~jepa_runtime.ota.steps.UpdateSteps`); the update then goes on with what is left for
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from jepa_runtime.errors import UpdateError
from jepa_runtime.ota import audit_log, state
from jepa_runtime.ota.health.serving_interface import Serving
from jepa_runtime.ota.robot import AUDIT, LOCK, STATE, facts, open_client, utc_now
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.state_machine import DROPPABLE, Dropped, follow
from jepa_runtime.ota.storage import folder_owner
from jepa_runtime.util import atomic_files

# At most, for the lock.
WAIT_S = 600.0


def pin(root: Path, *, pinned: bool, now: Callable[[], datetime] = utc_now) -> State:
    """Stay with what serves, or no longer. An update in work that has not switched yet is dropped.

    Returns:
        What was kept.

    Raises:
        UpdateError: the folder belongs to another account.
        StorageError: the lock was not let go in time, or the state cannot be read or written.
    """

    def change(kept: State) -> tuple[State, str]:
        kept = replace(kept, pinned=pinned)
        if not pinned or kept.phase not in DROPPABLE:
            return kept, ""
        reason = "this robot was pinned to what it has"
        return follow(kept, Dropped(reason), now()), reason

    return _changed(root, "pinned" if pinned else "unpinned", change, wait_s=WAIT_S, now=now)


def approve(root: Path) -> State:
    """Let the candidate that waits for it be switched to (``approval`` in config.json).

    Raises:
        UpdateError: none waits.
        StorageError: as :func:`pin`.
    """

    def change(kept: State) -> tuple[State, str]:
        if kept.phase is not Phase.ARMED or kept.work is None:
            raise UpdateError(f"{root}: no candidate waits for approval ({kept.phase}): look again later")
        return replace(kept, approved=kept.work.release.manifest_sha256), ""

    return _changed(root, "approved", change, wait_s=WAIT_S)


def cancel(
    root: Path, reason: str, *, wait_s: float = WAIT_S, now: Callable[[], datetime] = utc_now
) -> State:
    """Drop the update in work; what it has fetched stays for another one.

    Args:
        wait_s: at most, for the lock.

    Raises:
        UpdateError: there is none, or it is too late: it has switched, or has ended.
        StorageError: as :func:`pin`.
    """

    def change(kept: State) -> tuple[State, str]:
        if kept.phase is Phase.IDLE:
            raise UpdateError(f"{root}: no update is in work")
        if kept.phase not in DROPPABLE:
            raise UpdateError(
                f"{root}: it is too late to cancel the update ({kept.phase}): it will end soon; what "
                "serves then makes way with `jepa-runtime update rollback`"
            )
        return follow(kept, Dropped(reason), now()), reason

    return _changed(root, "cancelled", change, wait_s=wait_s, now=now)


def rollback(
    root: Path,
    reason: str,
    *,
    serving: Serving | None = None,
    now: Callable[[], datetime] = utc_now,
) -> State:
    """Go back to what served before, and do not install again what serves now; an update in work ends.

    Args:
        serving: is told; None: see :func:`open_client`.

    Raises:
        UpdateError: there is nothing to go back to.
        StorageError: as :func:`pin`.
    """
    with open_client(root, serving=serving, now=now, wait_s=WAIT_S) as client:
        return client.rollback(reason)


def _changed(
    root: Path,
    event: str,
    change: Callable[[State], tuple[State, str]],
    *,
    wait_s: float,
    now: Callable[[], datetime] = utc_now,
) -> State:
    """Change the state, and log it with the reason that comes with it."""
    folder_owner.require_owner(root)
    # What is refused interrupts nobody; where no robot was set up not even the file of the lock is made.
    change(state.load(root / STATE))
    with atomic_files.locked(root / LOCK, purpose="an operator", wait_s=wait_s):
        before = state.load(root / STATE)
        after, reason = change(before)
        audit_log.AuditLog(root / AUDIT, now).append(event, **facts(before, after), reason=reason)
        state.save(root / STATE, after)
    return after
