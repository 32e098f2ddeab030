"""The states of an update, and what follows what. Pure: no clock, no file, no network.

::

    CHECK RESOLVE DOWNLOAD VERIFY STAGE PROBE SHADOW ARMED SWITCH OBSERVE COMMIT REPORT GC   when all is well
    ... REJECTED REPORT GC                     refused, or given up, before the switch
    ... ROLLBACK REJECTED REPORT GC            after it

Rules:

1. A phase that failed is tried again, after a pause that doubles each time, or that the server asks for (up
   to :data:`MOST_ASKED_S`). Each phase has so many attempts (:data:`LIMITS`); after the last one the update
   is given up. VERIFY and STAGE start over from DOWNLOAD: the files that they work on may be at fault.
2. If the process died, the update goes on at its next start. Up to STAGE it starts over from CHECK, because
   the offer may have changed (what was fetched is still there); later, and in a RESOLVE that waits until the
   robot may go back, it repeats the phase. This counts as an attempt, unless the process was asked to stop,
   or the update to let somebody else act first.
3. So a candidate is tried at most three times in OBSERVE. After COMMIT no attempts are counted.
4. A release that was refused or given up is left alone for a while: longer each time that it was refused, or
   given up after the switch. It is not blamed for a network that failed, a robot that could not switch, or an
   approval that never came. One that the machine was too busy to judge is tried again after
   :data:`FIRST_UNDECIDED`, which doubles each time in a row up to :data:`FIRST_REFUSAL`.
5. After COMMIT nothing goes back, even if the report fails or old slots cannot be removed.
6. An update takes at most :data:`BUDGET` transitions, whatever happens; after a stop that was asked for they
   are counted anew.
7. Before the switch an update may be dropped: it ends at once, its release is not blamed, and the next look
   may find it again.
8. If an earlier update could not go back, the next one begins with that. It goes on even if that fails again:
   the release that it finds may be the cure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal

from jepa_runtime.ota.release import Release
from jepa_runtime.ota.state import Installed, Phase, Refusal, Result, State, Work

BUDGET = 40
WAIT_S = 30.0
MOST_ASKED_S = 120.0
_UNWATCHED_S = 1.0
MAX_WAITS = 2880
FIRST_UNDECIDED = timedelta(minutes=5)
FIRST_REFUSAL = timedelta(hours=1)
LONGEST_REFUSAL = timedelta(days=7)
_MAX_REFUSED = 64
_MAX_REASON = 1000
_NOTHING_LEFT = (
    "nothing serves: an update failed, and the model before it was revoked: publish another release"
)

_ROAD = (
    Phase.CHECK, Phase.RESOLVE, Phase.DOWNLOAD, Phase.VERIFY, Phase.STAGE, Phase.PROBE, Phase.SHADOW,
    Phase.ARMED, Phase.SWITCH, Phase.OBSERVE, Phase.COMMIT, Phase.REPORT, Phase.GC, Phase.IDLE,
)  # fmt: skip
_BEFORE_SLOT, _BEFORE_SWITCH = _ROAD[:5], _ROAD[1:8]
DROPPABLE, SWITCHED = _ROAD[:8], _ROAD[8:11]

NEXT: Mapping[Phase, Phase] = {
    **dict(pairwise(_ROAD)),
    Phase.ROLLBACK: Phase.REJECTED,
    Phase.REJECTED: Phase.REPORT,
}
_GIVEN_UP: Mapping[Phase, Phase] = {
    **NEXT,
    Phase.CHECK: Phase.IDLE,
    **dict.fromkeys(_BEFORE_SWITCH, Phase.REJECTED),
    **dict.fromkeys(SWITCHED, Phase.ROLLBACK),
}
_AGAIN: Mapping[Phase, Phase] = {Phase.VERIFY: Phase.DOWNLOAD, Phase.STAGE: Phase.DOWNLOAD}
_RESUMED: Mapping[Phase, Phase] = dict.fromkeys(_BEFORE_SLOT, Phase.CHECK)


@dataclass(frozen=True)
class Limit:
    """How many attempts a phase has, and the pause after the first of them."""

    attempts: int
    first_s: float = 1.0


LIMITS: Mapping[Phase, Limit] = dict.fromkeys(Phase, Limit(3)) | {
    Phase.CHECK: Limit(5, 2.0),
    Phase.DOWNLOAD: Limit(8, 5.0),
    Phase.VERIFY: Limit(2),
    Phase.REPORT: Limit(5, 2.0),
}


@dataclass(frozen=True)
class Done:
    """It did what it is for."""


@dataclass(frozen=True)
class NothingNew:
    """There is nothing to install, and why; ``refused``: because that is not for this robot as it is now, or
    was refused before; ``undecided``: because the machine was too busy to judge it, not long ago."""

    reason: str
    result: Literal["unchanged", "refused", "undecided"] = "unchanged"


@dataclass(frozen=True)
class Dropped:
    """The update ends before its switch, and its release is not to blame: it is not wanted any more or, if
    ``failed``, has used up what one update may take."""

    reason: str
    failed: bool = False


@dataclass(frozen=True)
class NotYet:
    """The phase has to wait: the robot cannot switch now, or has no approval yet; ``alone``: nobody is there
    meanwhile who could be watched."""

    reason: str
    alone: bool = False


@dataclass(frozen=True)
class Failed:
    """This attempt failed, another may succeed; ``after_s``: the server asks to wait for so long."""

    reason: str
    after_s: float = 0.0


@dataclass(frozen=True)
class Refused:
    """No attempt will succeed."""

    reason: str


@dataclass(frozen=True)
class Undecided:
    """The machine is too busy to judge the release, which is tried again soon."""

    reason: str


@dataclass(frozen=True)
class Unhealthy:
    """What was switched to does not serve well, or is not wanted any more."""

    reason: str


@dataclass(frozen=True)
class RolledBack:
    """What serves is to make way for an earlier release; ``for_good``: and is not to serve again."""

    to: Installed
    reason: str
    for_good: bool = True


@dataclass(frozen=True)
class Interrupted:
    """The process ended in the middle of it."""


Outcome = (
    Done | NothingNew | Dropped | NotYet | Failed | Refused | Undecided | Unhealthy | RolledBack | Interrupted
)


def start(state: State, *, looks: bool = False) -> State:
    """An update begins; with the way back where an earlier one could not go it, unless it only looks."""
    first = Phase.ROLLBACK if state.owes_way_back and not looks else Phase.CHECK
    return _enter(replace(state, result="none", reason=""), first)


def found(state: State, channel: str, release: Release) -> State:
    """A channel offers a release: attempts at another one count no more."""
    known = replace(state, work=Work(channel=channel, release=release), failed_looks=0)
    if state.work is None or state.work.release.manifest_sha256 == release.manifest_sha256:
        return known
    return replace(known, attempts={}, waits=0, transitions=0)


def compared(state: State) -> State:
    """The release in work was compared once more."""
    if state.work is None:
        return state
    key = state.work.release.manifest_sha256
    others = [(name, times) for name, times in state.comparisons.items() if name != key]
    once_more = (key, state.comparisons.get(key, 0) + 1)
    return replace(state, comparisons=dict([*others, once_more][-_MAX_REFUSED:]))


def follow(state: State, outcome: Outcome, now: datetime) -> State:
    """The state after ``outcome`` of the phase in which ``state`` is.

    Args:
        now: when refusals begin to count, if it is not before the latest signature seen; no other decision
            takes a clock.
    """
    now, outcome = max(now, state.signed_at or now), _as_text(outcome)
    if state.phase is Phase.SHADOW and not isinstance(outcome, Failed):
        # Also of one that was cut off nobody knows what it would have said.
        state = compared(state)
    after = _follow(state, outcome, now)
    over = after.transitions > BUDGET and state.phase in DROPPABLE + SWITCHED
    if over and after.phase is not _GIVEN_UP[state.phase]:
        return _give_up(state, "failed", f"it took more than {BUDGET} transitions", now)
    return after


def pause_s(before: State, outcome: Outcome, after: State) -> float:
    """How long to wait before what follows ``outcome``."""
    if isinstance(outcome, NotYet) and after.phase is before.phase:
        # What serves already is not left out of sight.
        return _UNWATCHED_S if before.phase is Phase.OBSERVE and not outcome.alone else WAIT_S
    if isinstance(outcome, Failed) and after.phase is _AGAIN.get(before.phase, before.phase):
        doubled = LIMITS[before.phase].first_s * 2.0 ** (after.attempts[before.phase] - 1)
        return max(doubled, min(outcome.after_s, MOST_ASKED_S))
    return 0.0


def blocks(refusal: Refusal, now: datetime, signed_at: datetime | None = None) -> bool:
    """Whether a refusal still holds. One that lies further ahead than any refusal lasts was made under a
    clock that has since been set back, and does not; but a clock behind ``signed_at``, the latest signature
    seen, was not set at all.
    """
    until = refusal.not_before
    if until is None:
        return True
    if signed_at is not None and now < signed_at:
        return signed_at < until
    return now < until <= now + LONGEST_REFUSAL


def _follow(state: State, outcome: Outcome, now: datetime) -> State:
    phase = state.phase
    match outcome:
        case Done():
            if phase is Phase.ROLLBACK and state.result == "none":
                return _enter(replace(_gained(state), attempts={}), Phase.CHECK)
            return _enter(_gained(state), NEXT[phase])
        case NothingNew(reason, result):
            return _enter(_ended(state, result, reason), Phase.IDLE)
        case Dropped(reason, failed):
            return _enter(_ended(state, "failed" if failed else "unchanged", reason), Phase.IDLE)
        case NotYet(reason, _):
            if state.waits + 1 < MAX_WAITS:
                return replace(state, waits=state.waits + 1, reason=reason)
            return _give_up(state, "failed", reason, now, at_fault=False)
        case Undecided(reason):
            return _enter(_put_off(_ended(state, "undecided", reason), reason, now), Phase.IDLE)
        case Refused(reason) | Unhealthy(reason):
            return _give_up(state, "failed" if phase is Phase.CHECK else "refused", reason, now)
        case RolledBack(to, reason, for_good):
            kept = _refuse(state, state.current, reason, None) if for_good else state
            earlier = state.previous if to == state.good else None
            kept = replace(kept, good=to, previous=earlier, work=None, attempts={})
            return _enter(_ended(kept, "reverted", reason), Phase.ROLLBACK)
        case Failed(reason):
            return _attempted(state, reason, _AGAIN, now)
        case Interrupted():
            # What is known to be revoked is to make way, whether or not anybody can be asked again.
            resumed = {} if state.waits_to_go_back else _RESUMED
            if state.stopped:
                return replace(state, stopped=False, transitions=0, phase=resumed.get(phase, phase))
            return _attempted(state, f"it was interrupted in {phase}", resumed, now)


def _as_text(outcome: Outcome) -> Outcome:
    """Its reason without bytes that are no UTF-8 (a folder's name, a terminal's umlaut): no state that holds
    them could be read."""
    if isinstance(outcome, Done | Interrupted):
        return outcome
    return replace(outcome, reason=outcome.reason.encode("utf-8", "replace").decode())


def _attempted(state: State, reason: str, then: Mapping[Phase, Phase], now: datetime) -> State:
    phase = state.phase
    count = state.attempts.get(phase, 0) + 1
    counted = replace(state, attempts={**state.attempts, phase: count})
    if count >= LIMITS[phase].attempts:
        return _give_up(counted, "failed", reason, now)
    to = then.get(phase, phase)
    return counted if to is phase else _enter(counted, to)


def _gained(state: State) -> State:
    """What a phase that is done has changed."""
    candidate = None if state.work is None else state.work.installed
    match state.phase:
        case Phase.ARMED:
            return replace(state, reason="", waits=0)
        case Phase.SWITCH:
            return replace(state, current=candidate)
        case Phase.ROLLBACK:
            alarm = _NOTHING_LEFT if state.alarm and state.good is None else ""
            return replace(state, current=state.good, alarm=alarm)
        case Phase.COMMIT:
            key = _sha256(candidate)
            return replace(
                state,
                result="updated",
                reason="",
                alarm="",
                good=candidate,
                previous=state.previous if _sha256(state.good) == key else state.good,
                refused={sha: told for sha, told in state.refused.items() if sha != key},
                comparisons={sha: times for sha, times in state.comparisons.items() if sha != key},
            )
        case _:
            return state


def _give_up(
    state: State, result: Result, reason: str, now: datetime, *, at_fault: bool | None = None
) -> State:
    phase, to = state.phase, _GIVEN_UP[state.phase]
    if phase is Phase.ROLLBACK:
        # The links are what they are, and a person has to look.
        told = replace(state, alarm=f"could not go back: {reason}")
        if state.result == "none":
            return _enter(replace(told, attempts={}), Phase.CHECK)
        return _enter(replace(told, result="failed"), to)
    if phase is Phase.CHECK:
        failed = replace(state, failed_looks=state.failed_looks + 1)
        return _enter(_ended(failed, result, reason), to)
    if phase not in _BEFORE_SWITCH + SWITCHED:
        return _enter(state, to)
    # Where a way back found no moment to switch, the release on offer is neither to blame nor refused.
    candidate = None if state.work is None or state.waits_to_go_back else state.work.installed
    if at_fault is None:
        at_fault = result == "refused" or phase in SWITCHED
    return _enter(_refuse(_ended(state, result, reason), candidate, reason, now, at_fault=at_fault), to)


def _refuse(
    state: State, candidate: Installed | None, reason: str, now: datetime | None, *, at_fault: bool = True
) -> State:
    """Remember not to install it: for a while from ``now`` on, or for good, which stays so."""
    if candidate is None:
        return state
    key = candidate.manifest_sha256
    before = state.refused.get(key)
    if before is not None and before.not_before is None:
        return state
    times = max(1, at_fault + (before.times if before is not None else 0))
    until = None if now is None else now + min(FIRST_REFUSAL * 2 ** min(times - 1, 16), LONGEST_REFUSAL)
    others = [(name, refusal) for name, refusal in state.refused.items() if name != key]
    refusal = Refusal(reason=reason[:_MAX_REASON], times=times, not_before=until)
    return replace(state, refused=dict([*others, (key, refusal)][-_MAX_REFUSED:]))


def _put_off(state: State, reason: str, now: datetime) -> State:
    """Remember for how long to leave the candidate alone that could not be judged."""
    key = _sha256(None if state.work is None else state.work.installed)
    if key is None:
        return state
    before = state.refused.get(key, Refusal(reason="", times=0, not_before=now))
    count = before.undecided + 1
    until = now + min(FIRST_UNDECIDED * 2 ** min(count - 1, 16), FIRST_REFUSAL)
    refusal = replace(before, reason=reason[:_MAX_REASON], not_before=until, undecided=count)
    others = [(name, one) for name, one in state.refused.items() if name != key]
    return replace(state, refused=dict([*others, (key, refusal)][-_MAX_REFUSED:]))


def _sha256(installed: Installed | None) -> str | None:
    return None if installed is None else installed.manifest_sha256


def _ended(state: State, result: Result, reason: str) -> State:
    return replace(state, result=result, reason=reason[:_MAX_REASON])


def _enter(state: State, phase: Phase) -> State:
    if phase is Phase.IDLE:
        ended = replace(state, work=None, attempts={}, waits=0, transitions=0, stopped=False)
        return replace(ended, phase=phase, approved="", watched=False)
    return replace(state, phase=phase, transitions=state.transitions + 1)
