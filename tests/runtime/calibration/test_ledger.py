"""Ledger: a latent meets what was foreseen for its moment, of the actions that were executed, or nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.calibration import Errors, Ledger
from jepa_runtime.history import History

STEP_NS = 200
TOLERANCE_NS = 25
HORIZON = 3
STATED = np.array([1.0, 2.0, 3.0])


def make(capacity: int = 8, horizon: int = HORIZON) -> Ledger:
    return Ledger(horizon, STEP_NS, tolerance_ns=TOLERANCE_NS, action_tolerance=0.1, capacity=capacity)


def executed(_start_ns: int, _end_ns: int) -> np.ndarray:
    return np.zeros(1, np.float32)


def latent(value: float) -> np.ndarray:
    return np.full((1, 1), value, np.float32)


def foresee(ledger: Ledger, stamp_ns: int, *, first: float = 0.0, actions: list[float] | None = None) -> bool:
    """Candidate k holds ``actions[k]``, and at step h sees ``first + 100 k + h``."""
    chosen = [0.0] if actions is None else actions
    held = np.tile(np.array(chosen, np.float32)[:, None, None], (1, ledger.horizon, 1))
    seen = first + 100 * np.arange(len(chosen))[:, None] + np.arange(1, ledger.horizon + 1)
    return ledger.foresee(
        stamp_ns, held, seen[..., None, None].astype(np.float32), np.arange(1.0, ledger.horizon + 1)
    )


def came(errors: Errors) -> dict[int, float]:
    return {row + 1: float(error) for row, error in enumerate(errors.errors) if not np.isnan(error)}


def test_a_latent_meets_what_was_foreseen_for_its_moment_at_every_horizon() -> None:
    ledger = make()
    for step in range(4):
        if step:
            found = ledger.arrive(step * STEP_NS, latent(0), executed)
        foresee(ledger, step * STEP_NS, first=10 * step)
    assert came(found) == {1: 21.0, 2: 12.0, 3: 3.0}
    assert found.stated.tolist() == STATED.tolist()
    assert found.foreseen_ns == (2 * STEP_NS, STEP_NS, 0)
    assert found.stamp_ns == 3 * STEP_NS


def test_the_candidate_that_was_executed_is_the_one_compared() -> None:
    ledger = make()
    foresee(ledger, 0, actions=[1.0, 0.05, -1.0])
    assert came(ledger.arrive(STEP_NS, latent(101), executed)) == {1: 0.0}


def test_a_candidate_is_left_when_another_action_is_executed_in_a_later_step() -> None:
    history = History(1, STEP_NS, action_size=1, tolerance_ns=TOLERANCE_NS, max_gap_ns=2 * STEP_NS)
    history.add_action(0, np.array([1.0]))
    history.add_action(STEP_NS, np.array([-1.0]))
    ledger = make()
    foresee(ledger, 0, actions=[1.0])
    assert came(ledger.arrive(STEP_NS, latent(1), history.mean_action)) == {1: 0.0}
    assert came(ledger.arrive(2 * STEP_NS, latent(2), history.mean_action)) == {}
    assert len(ledger) == 0


def test_nothing_is_compared_where_it_is_not_known_what_was_executed() -> None:
    ledger = make()
    foresee(ledger, 0)
    assert came(ledger.arrive(STEP_NS, latent(1), lambda _start, _end: None)) == {}
    assert len(ledger) == 0


def test_the_others_are_given_back_once_one_step_shows_what_is_executed() -> None:
    ledger = make()
    actions = np.tile(np.arange(64, dtype=np.float32)[:, None, None], (1, HORIZON, 1))
    latents = np.zeros((64, HORIZON, 1, 1), np.float32)
    ledger.foresee(0, actions, latents, STATED)
    ledger.arrive(STEP_NS, latent(0), executed)
    (held,) = ledger._foreseen
    assert held.latents.shape[0] == 1
    assert not np.shares_memory(held.latents, latents)


def test_a_dropped_frame_leaves_the_later_horizons_to_be_judged() -> None:
    ledger = make()
    foresee(ledger, 0)
    assert came(ledger.arrive(2 * STEP_NS, latent(2), executed)) == {2: 0.0}


@pytest.mark.parametrize(("late_ns", "meets"), [(25, True), (26, False), (-25, True), (-26, False)])
def test_a_moment_is_met_within_the_tolerance(late_ns: int, meets: bool) -> None:
    ledger = make()
    foresee(ledger, 0)
    assert (came(ledger.arrive(STEP_NS + late_ns, latent(1), executed)) == {1: 0.0}) == meets


def test_of_two_predictions_for_about_this_moment_the_nearer_is_met() -> None:
    ledger = make()
    foresee(ledger, 0)
    foresee(ledger, 20, first=50)
    assert came(ledger.arrive(STEP_NS + 15, latent(51), executed)) == {1: 0.0}


def test_a_second_prediction_of_a_stamp_replaces_the_first() -> None:
    ledger = make()
    foresee(ledger, 0)
    foresee(ledger, 0, first=50)
    assert len(ledger) == 1
    assert came(ledger.arrive(STEP_NS, latent(51), executed)) == {1: 0.0}


def test_time_set_back_empties_the_ledger() -> None:
    ledger = make()
    foresee(ledger, 1000)
    ledger.arrive(999, latent(0), executed)
    assert len(ledger) == 0


def test_what_is_forgotten_meets_nothing() -> None:
    ledger = make()
    foresee(ledger, 0)
    ledger.forget()
    assert came(ledger.arrive(STEP_NS, latent(1), executed)) == {}


def test_a_full_ledger_refuses_what_is_new_and_counts_it() -> None:
    ledger = make(capacity=2)
    assert [foresee(ledger, stamp) for stamp in (0, 1, 2)] == [True, True, False]
    assert (len(ledger), ledger.refused) == (2, 1)
    assert came(ledger.arrive(3 * STEP_NS, latent(3), executed)) == {3: 0.0}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["frame", "drop", "forget", "unknown"]),
            st.one_of(st.integers(0, 2 * STEP_NS), st.just(STEP_NS), st.integers(-1500, 0)),
        ),
        max_size=60,
    )
)
def test_whatever_comes_no_pair_is_wrong_and_memory_is_bounded(events: list[tuple[str, int]]) -> None:
    """Of stamps in any order, with drops and resets: a pair is of one course of events, one horizon's time
    apart, and of a latent made of its own stamp; none is met twice.
    """
    ledger, capacity = make(capacity=4), 4
    now, newest, course = 10_000, 0, 0
    made: dict[int, int] = {}
    met: set[tuple[int, int, int]] = set()
    for kind, passed in events:
        now += passed
        if kind == "drop":
            continue
        if kind == "forget":
            ledger.forget()
        course += kind == "forget" or now < newest
        newest = now
        known = executed if kind != "unknown" else lambda _start, _end: None
        found = ledger.arrive(now, latent(0), known)
        for row, foreseen_ns in enumerate(found.foreseen_ns):
            assert (foreseen_ns is None) == bool(np.isnan(found.errors[row]))
            if foreseen_ns is None:
                continue
            assert kind != "unknown"
            assert abs(now - foreseen_ns - (row + 1) * STEP_NS) <= TOLERANCE_NS
            assert made[foreseen_ns] == course
            assert found.errors[row] == foreseen_ns + row + 1
            assert (course, foreseen_ns, row) not in met
            met.add((course, foreseen_ns, row))
        if foresee(ledger, now, first=now):
            made[now] = course
        assert len(ledger) <= capacity


@pytest.mark.parametrize(
    "wrong",
    [
        {"horizon": 0},
        {"step_ns": 0},
        {"capacity": 0},
        {"tolerance_ns": 100},
        {"action_tolerance": float("nan")},
    ],
)
def test_arguments_out_of_range_are_named(wrong: dict[str, float]) -> None:
    right = {"horizon": 3, "step_ns": 200, "tolerance_ns": 25, "action_tolerance": 0.1, "capacity": 4}
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=name):
        Ledger(**{**right, **wrong})


def test_a_prediction_of_another_horizon_is_refused() -> None:
    with pytest.raises(ValueError, match="must be"):
        make().foresee(0, np.zeros((1, 2, 1), np.float32), np.zeros((1, 2, 1, 1), np.float32), STATED)
