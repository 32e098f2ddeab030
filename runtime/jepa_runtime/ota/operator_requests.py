"""Requests that an operator, a ROS service or a fleet server may make at any time.

They may come from any process or thread. Each takes the lock from an update in progress at a point at which
no operation is half done, within seconds (a probe ends first, see
:class:`~jepa_runtime.ota.steps.UpdateSteps`). The update then resumes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from jepa_runtime.errors import UpdateError
from jepa_runtime.ota import audit_log, state
from jepa_runtime.ota.health.serving_interface import Serving
from jepa_runtime.ota.robot import AUDIT, LOCK, STATE, UpdateComponents, open_client, release_facts, utc_now
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.state_machine import DROPPABLE, Dropped, next_state
from jepa_runtime.ota.storage import folder_owner
from jepa_runtime.util import atomic_files

# The longest wait for the lock.
WAIT_S = 600.0


def pin(root: Path, *, pinned: bool, now: Callable[[], datetime] = utc_now) -> State:
    """Pin the robot to its active model, or unpin it; pinning drops an update that has not switched yet.

    Returns:
        The stored state.

    Raises:
        UpdateError: The folder belongs to another account.
        StorageError: The lock was not released in time, or the state cannot be read or written.
    """

    def change(stored: State) -> tuple[State, str]:
        stored = replace(stored, pinned=pinned)
        if not pinned or stored.phase not in DROPPABLE:
            return stored, ""
        reason = "this robot was pinned to its active model"
        return next_state(stored, Dropped(reason), now()), reason

    return _change_state(root, "pinned" if pinned else "unpinned", change, wait_s=WAIT_S, now=now)


def approve(root: Path) -> State:
    """Approve the switch to the candidate that waits for it (``approval`` in config.json).

    Raises:
        UpdateError: No candidate waits.
        StorageError: As for :func:`pin`.
    """

    def change(stored: State) -> tuple[State, str]:
        if stored.phase is not Phase.ARMED or stored.candidate is None:
            raise UpdateError(
                f"{root}: no candidate waits for approval (phase {stored.phase}): check `jepa-runtime "
                "update status`",
                code="update.nothing_to_approve",
            )
        return replace(stored, approved=stored.candidate.release.manifest_sha256), ""

    return _change_state(root, "approved", change, wait_s=WAIT_S)


def cancel(
    root: Path, reason: str, *, wait_s: float = WAIT_S, now: Callable[[], datetime] = utc_now
) -> State:
    """Drop the update in progress; files that it downloaded stay for another update.

    Args:
        root: The robot's folder.
        reason: Reason for the audit log.
        wait_s: The longest wait for the lock.
        now: The time of day.

    Raises:
        UpdateError: No update is in progress, or it has switched already.
        StorageError: As for :func:`pin`.
    """

    def change(stored: State) -> tuple[State, str]:
        if stored.phase is Phase.IDLE:
            raise UpdateError(f"{root}: no update is in progress", code="update.nothing_to_cancel")
        if stored.phase not in DROPPABLE:
            raise UpdateError(
                f"{root}: the update cannot be cancelled after its switch (phase {stored.phase}): wait until "
                "it ends, then go back with `jepa-runtime update rollback`",
                code="update.too_late_to_cancel",
            )
        return next_state(stored, Dropped(reason), now()), reason

    return _change_state(root, "cancelled", change, wait_s=wait_s, now=now)


def rollback(
    root: Path,
    reason: str,
    *,
    serving: Serving | None = None,
    now: Callable[[], datetime] = utc_now,
) -> State:
    """Roll back to the previous model, and do not install the active one again; an update in progress ends.

    Args:
        root: The robot's folder.
        reason: Reason for the audit log.
        serving: The interface to the serving process; None: see
            :class:`~jepa_runtime.ota.robot.UpdateComponents`.
        now: The time of day.

    Raises:
        UpdateError: There is no earlier model.
        StorageError: As for :func:`pin`.
    """
    components = UpdateComponents(serving=serving, now=now)
    with open_client(root, components=components, wait_s=WAIT_S) as client:
        return client.rollback(reason)


def _change_state(
    root: Path,
    event: str,
    change: Callable[[State], tuple[State, str]],
    *,
    wait_s: float,
    now: Callable[[], datetime] = utc_now,
) -> State:
    """Change the state, and log the event with the reason that ``change`` returns."""
    folder_owner.require_owner(root)
    # An invalid request interrupts no update, and creates no lock file in a folder that is not provisioned.
    change(state.load(root / STATE))
    with atomic_files.locked(root / LOCK, purpose="an operator", wait_s=wait_s):
        before = state.load(root / STATE)
        after, reason = change(before)
        audit_log.AuditLog(root / AUDIT, now).append(event, **release_facts(before, after), reason=reason)
        state.save(root / STATE, after)
    return after
