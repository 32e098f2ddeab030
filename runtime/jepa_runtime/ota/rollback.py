"""Decides whether the active model must be rolled back, and to which one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jepa_runtime.errors import BundleError
from jepa_runtime.ota.health.trial_counter import TrialCounter
from jepa_runtime.ota.operator_alarms import boots_alarm, crash_alarm
from jepa_runtime.ota.state import ChannelRelease, State
from jepa_runtime.ota.state_machine import RolledBack
from jepa_runtime.ota.storage.slots import SlotStore


def find_rollback(
    state: State, offer: ChannelRelease, store: SlotStore, note: Callable[..., None]
) -> tuple[State, RolledBack | None, str]:
    """Return the rollback if the active model was revoked or is damaged.

    Args:
        state: The stored state.
        offer: The release that the channel offers.
        store: The slots.
        note: Writes to the audit log.

    Returns:
        The state without a previous model that was revoked; the rollback, or None; and the alarm, or an empty
        string.
    """
    if state.current is None:
        return state, None, state.alarm
    if state.previous is not None and offer.revokes(state.previous):
        note("the previous model was revoked", before=state.previous.version)
        state = replace(state, previous=None)
    current, previous = state.current, state.previous
    # With a rollback pending, the update has begun with it already: the offered release may be the remedy.
    retrying = state.rollback_pending and not offer.revokes(state.good)
    if current is not None and offer.revokes(current) and not retrying:
        why = f"release {current.release_seq}, the active model, was revoked"
        if previous not in (None, current):
            return state, RolledBack(previous, why), ""
        # It stays active until another release replaces it; a failed update does not restore it.
        store.point("good", None)
        alarm = f"{why}, and there is no other model to go back to: it stays active"
        return replace(state, good=None), None, alarm
    if state.rollback_pending:
        return state, None, state.alarm
    return state, *(rollback_from_damage(state, store) if is_offered(state, offer) else (None, ""))


def rollback_from_damage(state: State, store: SlotStore) -> tuple[RolledBack | None, str]:
    """Return the rollback if the active model is damaged on disk, or the alarm if none is possible."""
    current, previous = state.current, state.previous
    if current is None or state.rollback_pending or not (damage := store.damage(current.manifest_sha256)):
        return None, ""
    why = f"{current.model_id} {current.version}, the active model, is damaged: {damage}"
    if state.pinned or previous in (None, current) or store.damage(previous.manifest_sha256):
        return None, f"{why}; it stays active"
    # It may be active again once it has been downloaded again.
    return RolledBack(previous, why, permanent=False), ""


def rollback_from_crashes(state: State, store: SlotStore, *, on_crashes: bool) -> RolledBack | None:
    """Return the rollback from a last known good model that is no longer opened, or None.

    A model is no longer opened after it took the machine down in too many boots. None means that it is
    opened, or that there is no other model to use.

    Args:
        state: The stored state.
        store: The slots.
        on_crashes: Whether to roll back from a model that crashes repeatedly in one boot, too.
    """
    current, previous = state.current, state.previous
    why = boots_alarm(store.root, state) or (crash_alarm(store.root, state) if on_crashes else "")
    if not why or state.pinned or previous in (None, current):
        return None
    sha256 = previous.manifest_sha256
    if store.damage(sha256) or TrialCounter(store).exhausted(sha256):
        return None
    return RolledBack(previous, why)


def is_offered(state: State, offer: ChannelRelease) -> bool:
    """Return whether the active model has the bytes of the offered release, under any release number."""
    return state.current is not None and state.current.manifest_sha256 == offer.release.manifest_sha256


def with_usable_good(state: State, store: SlotStore, note: Callable[..., None]) -> State:
    """Return the state with a last known good model that is not damaged.

    Args:
        state: The stored state.
        store: The slots.
        note: Writes to the audit log.

    Raises:
        BundleError: The last known good model and the previous one are damaged or missing.
    """
    if state.good is None or not (damage := store.damage(state.good.manifest_sha256)):
        return state
    previous = state.previous
    if previous in (None, state.good, state.current) or store.damage(previous.manifest_sha256):
        raise BundleError(damage, code="update.no_usable_model")
    note("the last known good model is damaged", reason=damage)
    return replace(state, good=previous, previous=None)
