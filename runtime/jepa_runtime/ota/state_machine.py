"""The state machine of an update. Pure: no clock, no file, no network.

::

    CHECK RESOLVE DOWNLOAD VERIFY STAGE PROBE SHADOW ARMED SWITCH OBSERVE COMMIT REPORT GC   success
    ... REJECTED REPORT GC                     rejected, or given up, before the switch
    ... ROLLBACK REJECTED REPORT GC            rejected, or given up, after the switch

Rules:

1. A failed phase is retried, after a pause that doubles each time, or that the server requests (at most
   :data:`MAX_RETRY_AFTER_S`). Each phase has a limited number of attempts (:data:`LIMITS`); after the last
   one the update is given up. VERIFY and STAGE restart from DOWNLOAD: their input files may be damaged.
2. If the process died, the update resumes at the next start. Up to STAGE it restarts from CHECK, because the
   offer may have changed (downloaded files are still present). In later phases, and in a RESOLVE that waits
   for a rollback, it repeats the phase. This counts as an attempt, unless the process was asked to stop, or
   the update yielded the lock.
3. Therefore a candidate is tried at most three times in OBSERVE. After COMMIT no attempts are counted.
4. A rejected or given-up release is not retried for a while. The delay grows with each rejection, and with
   each update that was given up after the switch. A network failure, a robot that could not switch and a
   missing approval do not count against a release. A release that the machine was too busy to assess is
   retried after :data:`FIRST_UNDECIDED`, which doubles each time in a row up to :data:`FIRST_REJECTION`.
5. After COMMIT there is no rollback, even if the report fails or old slots cannot be removed.
6. An update takes at most :data:`MAX_TRANSITIONS` transitions; a requested stop resets the count.
7. Before the switch an update may be dropped: it ends at once, its release is not rejected, and the next
   check may find it again.
8. If an earlier update could not roll back, the next one begins with that rollback. It continues even if the
   rollback fails again: the offered release may be the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal

from jepa_runtime.ota.release import Release
from jepa_runtime.ota.state import ChannelRelease, Installed, Phase, Rejection, Result, State

MAX_TRANSITIONS = 40
WAIT_S = 30.0
MAX_RETRY_AFTER_S = 120.0
_OBSERVE_RETRY_S = 1.0
MAX_WAITS = 2880
FIRST_UNDECIDED = timedelta(minutes=5)
FIRST_REJECTION = timedelta(hours=1)
MAX_REJECTION = timedelta(days=7)
_MAX_REMEMBERED = 64
_MAX_REASON = 1000
_NO_MODEL = (
    "no model is active: an update failed, and the previous model was revoked: publish another release"
)

_SUCCESS_PATH = (
    Phase.CHECK, Phase.RESOLVE, Phase.DOWNLOAD, Phase.VERIFY, Phase.STAGE, Phase.PROBE, Phase.SHADOW,
    Phase.ARMED, Phase.SWITCH, Phase.OBSERVE, Phase.COMMIT, Phase.REPORT, Phase.GC, Phase.IDLE,
)  # fmt: skip
_BEFORE_SLOT, _BEFORE_SWITCH = _SUCCESS_PATH[:5], _SUCCESS_PATH[1:8]
DROPPABLE, SWITCHED = _SUCCESS_PATH[:8], _SUCCESS_PATH[8:11]

NEXT: Mapping[Phase, Phase] = {
    **dict(pairwise(_SUCCESS_PATH)),
    Phase.ROLLBACK: Phase.REJECTED,
    Phase.REJECTED: Phase.REPORT,
}
_AFTER_GIVING_UP: Mapping[Phase, Phase] = {
    **NEXT,
    Phase.CHECK: Phase.IDLE,
    **dict.fromkeys(_BEFORE_SWITCH, Phase.REJECTED),
    **dict.fromkeys(SWITCHED, Phase.ROLLBACK),
}
_RETRY_FROM: Mapping[Phase, Phase] = {Phase.VERIFY: Phase.DOWNLOAD, Phase.STAGE: Phase.DOWNLOAD}
_RESUME_FROM: Mapping[Phase, Phase] = dict.fromkeys(_BEFORE_SLOT, Phase.CHECK)


@dataclass(frozen=True)
class Limit:
    """The number of attempts of a phase, and the pause after the first of them in seconds."""

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
    """The phase is complete."""


@dataclass(frozen=True)
class NothingNew:
    """There is nothing to install.

    Attributes:
        reason: Why not.
        result: ``rejected``: the release does not fit this robot as it is now, or was rejected before;
            ``undecided``: the machine was recently too busy to assess it.
    """

    reason: str
    result: Literal["unchanged", "rejected", "undecided"] = "unchanged"


@dataclass(frozen=True)
class Dropped:
    """The update ends before its switch, and its release is not rejected.

    Attributes:
        reason: Why.
        failed: Whether the update exceeded its transfer limits; otherwise the release is no longer wanted.
    """

    reason: str
    failed: bool = False


@dataclass(frozen=True)
class Waiting:
    """The phase has to wait: the robot does not allow a switch now, or an approval is missing.

    Attributes:
        reason: What it waits for.
        unobserved: Whether no serving process can be observed in the meantime.
    """

    reason: str
    unobserved: bool = False


@dataclass(frozen=True)
class Failed:
    """The attempt failed, another may succeed.

    Attributes:
        reason: Why.
        after_s: The delay that the server requests before the next attempt, in seconds.
    """

    reason: str
    after_s: float = 0.0


@dataclass(frozen=True)
class Rejected:
    """No attempt will succeed."""

    reason: str


@dataclass(frozen=True)
class Undecided:
    """The machine is too busy to assess the release, which is retried soon."""

    reason: str


@dataclass(frozen=True)
class Unhealthy:
    """The new model does not serve correctly, or an operator rejects it."""

    reason: str


@dataclass(frozen=True)
class RolledBack:
    """The active model is replaced by an earlier one.

    Attributes:
        to: The earlier model.
        reason: Why.
        permanent: Whether the active model is never installed again.
    """

    to: Installed
    reason: str
    permanent: bool = True


@dataclass(frozen=True)
class Interrupted:
    """The process ended during the phase."""


Outcome = (
    Done
    | NothingNew
    | Dropped
    | Waiting
    | Failed
    | Rejected
    | Undecided
    | Unhealthy
    | RolledBack
    | Interrupted
)


def start(state: State, *, only_check: bool = False) -> State:
    """Return the first state of an update, which begins with a pending rollback unless it only checks."""
    first = Phase.ROLLBACK if state.rollback_pending and not only_check else Phase.CHECK
    return _enter(replace(state, result="none", reason=""), first)


def with_offer(state: State, channel: str, release: Release) -> State:
    """Return the state with an offered release; attempts at another release are reset."""
    known = replace(state, candidate=ChannelRelease(channel=channel, release=release), failed_checks=0)
    if state.candidate is None or state.candidate.release.manifest_sha256 == release.manifest_sha256:
        return known
    return replace(known, attempts={}, waits=0, transitions=0)


def count_comparison(state: State) -> State:
    """Return the state with one more shadow test of the release in progress."""
    if state.candidate is None:
        return state
    key = state.candidate.release.manifest_sha256
    others = [(name, times) for name, times in state.comparisons.items() if name != key]
    counted = (key, state.comparisons.get(key, 0) + 1)
    return replace(state, comparisons=dict([*others, counted][-_MAX_REMEMBERED:]))


def next_state(state: State, outcome: Outcome, now: datetime) -> State:
    """Return the state after an outcome of the phase that ``state`` is in.

    Args:
        state: The state.
        outcome: The outcome of its phase.
        now: The start of rejections, if it is not before the latest signature seen; no other decision depends
            on a clock.
    """
    now, outcome = max(now, state.signed_at or now), _sanitized(outcome)
    if state.phase is Phase.SHADOW and not isinstance(outcome, Failed):
        # An interrupted shadow test counts as well: its result is unknown.
        state = count_comparison(state)
    after = _next_state(state, outcome, now)
    over = after.transitions > MAX_TRANSITIONS and state.phase in DROPPABLE + SWITCHED
    if over and after.phase is not _AFTER_GIVING_UP[state.phase]:
        return _give_up(state, "failed", f"the update took more than {MAX_TRANSITIONS} transitions", now)
    return after


def pause_s(before: State, outcome: Outcome, after: State) -> float:
    """Return the pause before the next step, in seconds."""
    if isinstance(outcome, Waiting) and after.phase is before.phase:
        # A new model in service is observed without long gaps.
        return _OBSERVE_RETRY_S if before.phase is Phase.OBSERVE and not outcome.unobserved else WAIT_S
    if isinstance(outcome, Failed) and after.phase is _RETRY_FROM.get(before.phase, before.phase):
        doubled = LIMITS[before.phase].first_s * 2.0 ** (after.attempts[before.phase] - 1)
        return max(doubled, min(outcome.after_s, MAX_RETRY_AFTER_S))
    return 0.0


def blocks(refusal: Rejection, now: datetime, signed_at: datetime | None = None) -> bool:
    """Return whether a rejection is still in effect.

    A rejection that lies further ahead than the longest one was made under a clock that has since been set
    back, and is ignored. A clock behind ``signed_at``, the latest signature seen, is not set; that time is
    used instead.
    """
    until = refusal.not_before
    if until is None:
        return True
    if signed_at is not None and now < signed_at:
        return signed_at < until
    return now < until <= now + MAX_REJECTION


def _next_state(state: State, outcome: Outcome, now: datetime) -> State:
    phase = state.phase
    match outcome:
        case Done():
            if phase is Phase.ROLLBACK and state.result == "none":
                return _enter(replace(_with_result_of(state), attempts={}), Phase.CHECK)
            return _enter(_with_result_of(state), NEXT[phase])
        case NothingNew(reason, result):
            return _enter(_with_result(state, result, reason), Phase.IDLE)
        case Dropped(reason, failed):
            return _enter(_with_result(state, "failed" if failed else "unchanged", reason), Phase.IDLE)
        case Waiting(reason, _):
            if state.waits + 1 < MAX_WAITS:
                return replace(state, waits=state.waits + 1, reason=reason)
            return _give_up(state, "failed", reason, now, at_fault=False)
        case Undecided(reason):
            return _enter(_postpone(_with_result(state, "undecided", reason), reason, now), Phase.IDLE)
        case Rejected(reason) | Unhealthy(reason):
            return _give_up(state, "failed" if phase is Phase.CHECK else "rejected", reason, now)
        case RolledBack(to, reason, permanent):
            remembered = _reject(state, state.current, reason, None) if permanent else state
            earlier = state.previous if to == state.good else None
            remembered = replace(remembered, good=to, previous=earlier, candidate=None, attempts={})
            return _enter(_with_result(remembered, "rolled_back", reason), Phase.ROLLBACK)
        case Failed(reason):
            return _count_attempt(state, reason, _RETRY_FROM, now)
        case Interrupted():
            # A pending rollback needs no further check of the repository.
            resumed = {} if state.waits_to_roll_back else _RESUME_FROM
            if state.stopped:
                return replace(state, stopped=False, transitions=0, phase=resumed.get(phase, phase))
            return _count_attempt(state, f"the update was interrupted in phase {phase}", resumed, now)


def _sanitized(outcome: Outcome) -> Outcome:
    """Return the outcome with a reason in valid UTF-8, without which the state file could not be read."""
    if isinstance(outcome, Done | Interrupted):
        return outcome
    return replace(outcome, reason=outcome.reason.encode("utf-8", "replace").decode())


def _count_attempt(state: State, reason: str, then: Mapping[Phase, Phase], now: datetime) -> State:
    phase = state.phase
    count = state.attempts.get(phase, 0) + 1
    counted = replace(state, attempts={**state.attempts, phase: count})
    if count >= LIMITS[phase].attempts:
        return _give_up(counted, "failed", reason, now)
    to = then.get(phase, phase)
    return counted if to is phase else _enter(counted, to)


def _with_result_of(state: State) -> State:
    """Return the state with the changes that its completed phase made."""
    candidate = None if state.candidate is None else state.candidate.installed
    match state.phase:
        case Phase.ARMED:
            return replace(state, reason="", waits=0)
        case Phase.SWITCH:
            return replace(state, current=candidate)
        case Phase.ROLLBACK:
            alarm = _NO_MODEL if state.alarm and state.good is None else ""
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
                rejections={sha: record for sha, record in state.rejections.items() if sha != key},
                comparisons={sha: times for sha, times in state.comparisons.items() if sha != key},
            )
        case _:
            return state


def _give_up(
    state: State, result: Result, reason: str, now: datetime, *, at_fault: bool | None = None
) -> State:
    phase, to = state.phase, _AFTER_GIVING_UP[state.phase]
    if phase is Phase.ROLLBACK:
        # The links stay as they are, and an operator has to check the robot.
        record = replace(state, alarm=f"the rollback failed: {reason}")
        if state.result == "none":
            return _enter(replace(record, attempts={}), Phase.CHECK)
        return _enter(replace(record, result="failed"), to)
    if phase is Phase.CHECK:
        failed = replace(state, failed_checks=state.failed_checks + 1)
        return _enter(_with_result(failed, result, reason), to)
    if phase not in _BEFORE_SWITCH + SWITCHED:
        return _enter(state, to)
    # If a rollback found no moment to switch, the offered release is neither at fault nor rejected.
    candidate = None if state.candidate is None or state.waits_to_roll_back else state.candidate.installed
    if at_fault is None:
        at_fault = result == "rejected" or phase in SWITCHED
    return _enter(_reject(_with_result(state, result, reason), candidate, reason, now, at_fault=at_fault), to)


def _reject(
    state: State, candidate: Installed | None, reason: str, now: datetime | None, *, at_fault: bool = True
) -> State:
    """Remember a rejection: from ``now`` for a limited time, or permanently if ``now`` is None."""
    if candidate is None:
        return state
    key = candidate.manifest_sha256
    before = state.rejections.get(key)
    if before is not None and before.not_before is None:
        return state
    times = max(1, at_fault + (before.times if before is not None else 0))
    until = None if now is None else now + min(FIRST_REJECTION * 2 ** min(times - 1, 16), MAX_REJECTION)
    others = [(name, refusal) for name, refusal in state.rejections.items() if name != key]
    refusal = Rejection(reason=reason[:_MAX_REASON], times=times, not_before=until)
    return replace(state, rejections=dict([*others, (key, refusal)][-_MAX_REMEMBERED:]))


def _postpone(state: State, reason: str, now: datetime) -> State:
    """Remember when to retry a candidate that was not assessed; a permanent rejection stays permanent."""
    key = _sha256(None if state.candidate is None else state.candidate.installed)
    if key is None:
        return state
    before = state.rejections.get(key, Rejection(reason="", times=0, not_before=now))
    if before.not_before is None:
        return state
    count = before.undecided + 1
    until = now + min(FIRST_UNDECIDED * 2 ** min(count - 1, 16), FIRST_REJECTION)
    refusal = replace(before, reason=reason[:_MAX_REASON], not_before=until, undecided=count)
    others = [(name, one) for name, one in state.rejections.items() if name != key]
    return replace(state, rejections=dict([*others, (key, refusal)][-_MAX_REMEMBERED:]))


def _sha256(installed: Installed | None) -> str | None:
    return None if installed is None else installed.manifest_sha256


def _with_result(state: State, result: Result, reason: str) -> State:
    return replace(state, result=result, reason=reason[:_MAX_REASON])


def _enter(state: State, phase: Phase) -> State:
    if phase is Phase.IDLE:
        ended = replace(state, candidate=None, attempts={}, waits=0, transitions=0, stopped=False)
        return replace(ended, phase=phase, approved="", serving_observed=False)
    return replace(state, phase=phase, transitions=state.transitions + 1)
