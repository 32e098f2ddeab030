"""Whether what serves is to make way for an earlier release, and for which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jepa_runtime.errors import BundleError
from jepa_runtime.ota.health.trial_counter import TrialCounter
from jepa_runtime.ota.operator_alarms import boots_alarm, crash_alarm
from jepa_runtime.ota.state import State, Work
from jepa_runtime.ota.state_machine import RolledBack
from jepa_runtime.ota.storage.slots import SlotStore


def way_back(
    state: State, work: Work, store: SlotStore, note: Callable[..., None]
) -> tuple[State, RolledBack | None, str]:
    """What makes what serves make way: that it was revoked, or that the disk has damaged it.

    Args:
        note: writes to the audit log.

    Returns:
        The state without what may not be gone back to because it was revoked; the way back, if one is due;
        and the alarm, or an empty string.
    """
    if state.current is None:
        return state, None, state.alarm
    if state.previous is not None and work.revokes(state.previous):
        note("what served before was revoked", before=state.previous.version)
        state = replace(state, previous=None)
    current, earlier = state.current, state.previous
    # An update that owes the way back has begun with it: what it finds may be the cure.
    tried = state.owes_way_back and not work.revokes(state.good)
    if current is not None and work.revokes(current) and not tried:
        why = f"release {current.release_seq}, which serves, was revoked"
        if earlier not in (None, current):
            return state, RolledBack(earlier, why), ""
        # It serves until something replaces it; an update that fails does not bring it back.
        store.point("good", None)
        return replace(state, good=None), None, f"{why}, and there is no other to go back to: it serves on"
    if state.owes_way_back:
        return state, None, state.alarm
    return state, *(way_back_from_damage(state, store) if is_offered(state, work) else (None, ""))


def way_back_from_damage(state: State, store: SlotStore) -> tuple[RolledBack | None, str]:
    """The way back from what serves where the disk has damaged that, and the alarm where there is none."""
    current, earlier = state.current, state.previous
    if current is None or state.owes_way_back or not (harm := store.damage(current.manifest_sha256)):
        return None, ""
    why = f"{current.model_id} ({current.version}), which serves, is damaged: {harm}"
    if state.pinned or earlier in (None, current) or store.damage(earlier.manifest_sha256):
        return None, f"{why}; it serves on"
    # It serves again once it has been fetched again.
    return RolledBack(earlier, why, for_good=False), ""


def way_back_from_crashes(state: State, store: SlotStore, *, on_crashes: bool) -> RolledBack | None:
    """Return the way back from an active model that was found to be good and is not opened any more, since it
    took the machine down in too many boots; None: it is opened, or there is no other that could serve.

    Args:
        on_crashes: whether to go back from a model that crashes again and again in one boot, too.
    """
    current, earlier = state.current, state.previous
    why = boots_alarm(store.root, state) or (crash_alarm(store.root, state) if on_crashes else "")
    if not why or state.pinned or earlier in (None, current):
        return None
    sha256 = earlier.manifest_sha256
    if store.damage(sha256) or TrialCounter(store).exhausted(sha256):
        return None
    return RolledBack(earlier, why)


def is_offered(state: State, work: Work) -> bool:
    """Whether what serves is what is offered, under whatever number."""
    return state.current is not None and state.current.manifest_sha256 == work.release.manifest_sha256


def soundly_good(state: State, store: SlotStore, note: Callable[..., None]) -> State:
    """With what is good or, where the disk has damaged that, what was so before it.

    Args:
        note: writes to the audit log.

    Raises:
        BundleError: that is damaged too, or there is none.
    """
    if state.good is None or not (harm := store.damage(state.good.manifest_sha256)):
        return state
    earlier = state.previous
    if earlier in (None, state.good, state.current) or store.damage(earlier.manifest_sha256):
        raise BundleError(harm)
    note("what is good is damaged", reason=harm)
    return replace(state, good=earlier, previous=None)
