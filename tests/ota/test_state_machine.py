"""The update state machine: pauses, rejections, rollbacks, and its records of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.state_machine import (
    DROPPABLE,
    FIRST_REJECTION,
    LIMITS,
    MAX_REJECTION,
    MAX_TRANSITIONS,
    MAX_WAITS,
    NEXT,
    Done,
    Dropped,
    Failed,
    Interrupted,
    NothingNew,
    Outcome,
    Rejected,
    RolledBack,
    Unhealthy,
    Waiting,
    blocks,
    next_state,
    pause_s,
    start,
    with_offer,
)
from tests.ota.robots import release
from tests.ota.states import LETTER, LETTERS, NEW, NOW, OLD, before_update, installed


def at(phase: Phase, **fields: object) -> State:
    work = with_offer(before_update(), "stable", release()).candidate
    return replace(before_update(), phase=phase, candidate=work, transitions=3, **fields)  # type: ignore[arg-type]


def test_retry_pause_doubles_up_to_its_limit() -> None:
    state, pauses = at(Phase.DOWNLOAD), []
    for _ in range(LIMITS[Phase.DOWNLOAD].attempts - 1):
        before, outcome = state, Failed("cut")
        state = next_state(state, outcome, NOW)
        pauses.append(pause_s(before, outcome, state))
    assert pauses == [5, 10, 20, 40, 80, 160, 320]
    assert pause_s(state, Failed("cut"), next_state(state, Failed("cut"), NOW)) == 0


@pytest.mark.parametrize(("asked_s", "pause"), [(0, 5), (7, 7), (86400, 120)])
def test_retry_pause_follows_the_server_within_limits(asked_s: float, pause: float) -> None:
    state, outcome = at(Phase.DOWNLOAD), Failed("busy", asked_s)
    assert pause_s(state, outcome, next_state(state, outcome, NOW)) == pause


@pytest.mark.parametrize(
    ("phase", "outcome", "pause"),
    [
        (Phase.ARMED, Waiting("arm is raised"), 30),
        (Phase.OBSERVE, Waiting("the serving process is not there", unobserved=True), 30),
        # The model is active, and may fail at any moment.
        (Phase.OBSERVE, Waiting("no images"), 1),
        # Its files are fetched again first, from the source of the wrong ones.
        (Phase.VERIFY, Failed("damaged"), 1),
        (Phase.VERIFY, Done(), 0),
    ],
)
def test_retried_phase_is_preceded_by_a_pause(phase: Phase, outcome: Outcome, pause: float) -> None:
    assert pause_s(at(phase), outcome, next_state(at(phase), outcome, NOW)) == pause


def test_requested_stop_is_no_failed_attempt() -> None:
    state = next_state(at(Phase.OBSERVE, stopped=True), Interrupted(), NOW)
    assert (state.phase, state.attempts, state.stopped) == (Phase.OBSERVE, {}, False)
    assert next_state(at(Phase.DOWNLOAD, stopped=True), Interrupted(), NOW).phase is Phase.CHECK


def test_download_can_be_stopped_any_number_of_times() -> None:
    state = start(before_update())
    for _ in range(MAX_TRANSITIONS):
        state = next_state(replace(state, stopped=True), Interrupted(), NOW)
        for phase in (Phase.CHECK, Phase.RESOLVE):
            assert state.phase is phase
            state = next_state(state, Done(), NOW)
    assert (state.phase, state.attempts) == (Phase.DOWNLOAD, {})


@pytest.mark.parametrize("phase", DROPPABLE)
def test_dropped_update_ends_immediately_without_blaming_its_release(phase: Phase) -> None:
    state = at(phase, attempts={phase: 1}, waits=3, approved=NEW)
    ended = next_state(state, Dropped("not on a Friday"), NOW)
    cut_off = {NEW: 1} if phase is Phase.SHADOW else {}
    assert ended == replace(
        before_update(), result="unchanged", reason="not on a Friday", comparisons=cut_off
    )


def test_phases_before_the_switch_can_be_dropped() -> None:
    assert {LETTER[phase] for phase in DROPPABLE} == set("CRDVSPHA")


def test_approval_and_safe_moment_expire_with_the_wait() -> None:
    state = at(Phase.ARMED, reason="it waits for approval", waits=2, approved=NEW)
    switching = next_state(state, Done(), NOW)
    assert (switching.phase, switching.reason, switching.approved) == (Phase.SWITCH, "", NEW)
    assert switching.waits == 0
    assert next_state(replace(switching, phase=Phase.GC), Done(), NOW).approved == ""


def test_wait_for_a_safe_moment_is_no_failed_attempt_but_is_limited() -> None:
    state = at(Phase.ARMED)
    for _ in range(MAX_WAITS - 1):
        state = next_state(state, Waiting("arm is raised"), NOW)
    assert (state.phase, state.attempts) == (Phase.ARMED, {})
    state = next_state(state, Waiting("arm is raised"), NOW)
    assert (state.phase, state.result, state.reason) == (Phase.REJECTED, "failed", "arm is raised")


@pytest.mark.parametrize(
    ("phase", "outcome"),
    [(Phase.PROBE, Rejected("slow")), (Phase.OBSERVE, Failed("it took the machine down"))],
)
def test_rejection_lasts_longer_each_time_up_to_a_week(phase: Phase, outcome: Outcome) -> None:
    state, lasted = before_update(), []
    for _ in range(12):
        last = {phase: LIMITS[phase].attempts - 1}
        state = replace(with_offer(state, "stable", release()), phase=phase, attempts=last)
        state = next_state(state, outcome, NOW)
        until = state.rejections[NEW].not_before
        assert until is not None
        lasted.append(until - NOW)
    assert lasted[:3] == [FIRST_REJECTION, 2 * FIRST_REJECTION, 4 * FIRST_REJECTION]
    assert lasted[-1] == MAX_REJECTION
    assert state.rejections[NEW].times == 12


def test_latest_rejections_are_stored_with_their_reasons() -> None:
    state = before_update()
    for seq in range(70):
        state = replace(with_offer(state, "stable", release(2 + seq, f"{seq:064x}")), phase=Phase.SHADOW)
        state = next_state(state, Rejected("/models/caf\udce9: worse" + 2000 * "!"), NOW)
    assert [*state.rejections] == [*state.comparisons] == [f"{seq:064x}" for seq in range(6, 70)]
    reasons = {state.reason, *(refusal.reason for refusal in state.rejections.values())}
    assert reasons == {"/models/caf?: worse" + 981 * "!"}


def test_failure_not_caused_by_the_release_does_not_extend_its_rejection() -> None:
    state = before_update()
    for _ in range(5):
        state = replace(with_offer(state, "stable", release()), phase=Phase.ARMED, waits=MAX_WAITS)
        state = next_state(state, Waiting("it stands in its dock"), NOW)
        assert state.rejections[NEW].not_before == NOW + FIRST_REJECTION
    state = next_state(
        replace(with_offer(state, "stable", release()), phase=Phase.PROBE), Rejected("slow"), NOW
    )
    assert state.rejections[NEW].times == 2


def test_update_that_started_with_a_rollback_continues_when_it_is_impossible() -> None:
    state = start(replace(before_update(), current=installed(NEW, 2)))
    assert state.phase is Phase.ROLLBACK
    state = next_state(replace(state, attempts={Phase.ROLLBACK: 2}), Failed("damaged"), NOW)
    assert (state.phase, state.attempts) == (Phase.CHECK, {})
    assert state.alarm == "the rollback failed: damaged"


def test_update_that_started_with_a_rollback_continues_after_it() -> None:
    state = start(replace(before_update(), current=installed(NEW, 2)))
    state = next_state(replace(state, attempts={Phase.ROLLBACK: 2}), Done(), NOW)
    assert (state.phase, state.current, state.attempts) == (Phase.CHECK, installed(), {})


def test_stationary_robot_during_observation_is_not_blamed_on_the_release() -> None:
    state = before_update()
    for _ in range(3):
        state = replace(with_offer(state, "stable", release()), phase=Phase.OBSERVE, waits=MAX_WAITS)
        state = next_state(state, Waiting("no images"), NOW)
        assert (state.phase, state.result) == (Phase.ROLLBACK, "failed")
        assert state.rejections[NEW].not_before == NOW + FIRST_REJECTION


def test_rejection_with_the_clock_set_back_does_not_block() -> None:
    refusal = next_state(at(Phase.PROBE), Rejected("slow"), NOW).rejections[NEW]
    assert blocks(refusal, NOW)
    assert not blocks(refusal, NOW + FIRST_REJECTION)
    assert not blocks(refusal, NOW - timedelta(days=3650))
    assert blocks(replace(refusal, not_before=NOW + MAX_REJECTION), NOW)
    assert blocks(replace(refusal, not_before=None), NOW + timedelta(days=3650))


def test_commit_clears_the_rejection_and_records_the_good_model() -> None:
    rejected = next_state(at(Phase.PROBE), Rejected("slow"), NOW).rejections
    state = next_state(at(Phase.COMMIT, rejections=rejected, alarm="old"), Done(), NOW)
    assert state.good == installed(NEW, 2) and state.previous == installed()
    assert (state.rejections, state.alarm, state.result) == ({}, "", "updated")


@pytest.mark.parametrize(
    ("outcome", "stopped", "counted"),
    [
        (Rejected("worse"), False, 1),
        (Done(), False, 1),
        (Interrupted(), False, 1),
        (Interrupted(), True, 1),
        (Failed("no camera"), False, 0),
    ],
)
def test_uncertain_comparison_counts_until_its_release_is_committed(
    outcome: Outcome, stopped: bool, counted: int
) -> None:
    state = next_state(at(Phase.SHADOW, stopped=stopped, comparisons={OLD: 4, NEW: 2}), outcome, NOW)
    assert state.comparisons == {OLD: 4, NEW: 2 + counted}
    assert next_state(replace(state, phase=Phase.COMMIT), Done(), NOW).comparisons == {OLD: 4}


def test_revoked_active_model_is_rolled_back_and_not_retried() -> None:
    now_serving = replace(at(Phase.RESOLVE), current=installed(NEW, 2), good=installed(NEW, 2))
    now_serving = replace(now_serving, previous=installed(), attempts={Phase.ROLLBACK: 2})
    state = next_state(now_serving, RolledBack(installed(), "release 2 was revoked"), NOW)
    assert (state.phase, state.good, state.candidate) == (Phase.ROLLBACK, installed(), None)
    assert (state.previous, state.attempts) == (None, {})
    assert state.rejections[NEW].not_before is None
    state = next_state(state, Done(), NOW)
    assert (state.phase, state.current, state.result) == (Phase.REJECTED, installed(), "rolled_back")


def test_offer_of_another_release_resets_the_counters() -> None:
    state = at(Phase.CHECK, attempts={Phase.DOWNLOAD: 5}, waits=7)
    same, other = with_offer(state, "stable", release()), with_offer(state, "stable", release(3, "3" * 64))
    assert (same.attempts, same.waits) == ({Phase.DOWNLOAD: 5}, 7)
    assert (other.attempts, other.waits, other.transitions) == ({}, 0, 0)


def test_untrusted_repository_rejects_no_release() -> None:
    state = next_state(at(Phase.CHECK), Rejected("expired"), NOW)
    assert (state.phase, state.result, state.reason, state.rejections) == (
        Phase.IDLE,
        "failed",
        "expired",
        {},
    )


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.IDLE])
def test_update_beyond_the_transition_limit_is_abandoned_and_can_leave_every_phase(phase: Phase) -> None:
    last = replace(at(phase), transitions=MAX_TRANSITIONS - 1, result="rejected")
    assert next_state(last, Done(), NOW).phase is NEXT[phase]
    state = next_state(replace(last, transitions=MAX_TRANSITIONS), Done(), NOW)
    before = phase in (LETTERS[letter] for letter in "RDVSPHA")
    after = phase in (LETTERS[letter] for letter in "WOK")
    expected = Phase.REJECTED if before else Phase.ROLLBACK if after else NEXT[phase]
    assert state.phase is (Phase.IDLE if phase is Phase.CHECK else expected)


OUTCOMES = st.sampled_from(
    [Done(), Done(), Done(), Failed("f"), Rejected("r"), Unhealthy("u"), Interrupted(), Waiting("n")]
)
LOOKED = st.sampled_from(
    [
        NothingNew("same"),
        NothingNew("rejected", "rejected"),
        Dropped("d"),
        RolledBack(installed("2" * 64), "b"),
    ]
)


@given(st.data())
def test_update_with_any_outcomes_ends_and_rolls_back_only_before_its_commit(data: st.DataObject) -> None:
    state, changes, committed = start(before_update()), 0, False
    for _ in range(sum(limit.attempts for limit in LIMITS.values()) + MAX_TRANSITIONS):
        if state.phase is Phase.IDLE:
            break
        if state.phase is Phase.CHECK:
            state = with_offer(state, "stable", release())
        looks = state.phase is Phase.RESOLVE and data.draw(st.integers(0, 9)) == 0
        outcome = data.draw(LOOKED if looks else OUTCOMES)
        if isinstance(outcome, Waiting) and state.phase is not Phase.ARMED:
            outcome = Done()
        after = next_state(state, outcome, NOW)
        changes += after.phase is not state.phase
        committed |= state.phase is Phase.COMMIT and after.phase is Phase.REPORT
        assert not (committed and after.phase is Phase.ROLLBACK)
        state = after
    assert state.phase is Phase.IDLE or state.waits
    assert changes <= MAX_TRANSITIONS + len(
        (Phase.ROLLBACK, Phase.REJECTED, Phase.REPORT, Phase.GC, Phase.IDLE)
    )
    assert not committed or state.result == "updated"
