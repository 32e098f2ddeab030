"""Action sequences of a policy in another process, as proposals for a search."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jepa_runtime.control import PolicyProposals

STEP_S, TIMEOUT_S = 0.2, 0.5
SEQUENCES = np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def proposals(clock: Clock) -> PolicyProposals:
    return PolicyProposals(action_size=3, step_s=STEP_S, timeout_s=TIMEOUT_S, clock=clock)


def test_without_a_message_there_are_no_proposals(proposals: PolicyProposals, clock: Clock) -> None:
    clock.now_s += 3.0
    assert proposals.remaining() is None and proposals.age_s == pytest.approx(3.0)


@pytest.mark.parametrize(("age_s", "dropped"), [(0.0, 0), (0.19, 0), (0.21, 1), (0.45, 2)])
def test_actions_whose_time_has_passed_are_dropped(
    proposals: PolicyProposals, clock: Clock, age_s: float, dropped: int
) -> None:
    proposals.offer(SEQUENCES)
    clock.now_s += age_s
    remaining = proposals.remaining()
    assert remaining is not None
    np.testing.assert_array_equal(remaining, SEQUENCES[:, dropped:])


@pytest.mark.parametrize(("sequences", "age_s"), [(SEQUENCES, 0.51), (SEQUENCES[:, :1], 0.21)])
def test_old_or_finished_sequences_are_no_proposals(
    proposals: PolicyProposals, clock: Clock, sequences: np.ndarray, age_s: float
) -> None:
    proposals.offer(sequences)
    clock.now_s += age_s
    assert proposals.remaining() is None
    proposals.offer(sequences)
    assert proposals.remaining() is not None and proposals.age_s == 0.0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (SEQUENCES[0], "must be"),
        (SEQUENCES[..., :2], "must be"),
        (SEQUENCES[:0], "must be"),
        (SEQUENCES[:, :0], "must be"),
        (SEQUENCES * math.nan, "finite"),
        (SEQUENCES.astype(np.float64) + 1e300, "finite"),
    ],
)
def test_invalid_sequences_are_rejected_and_the_last_ones_retained(
    proposals: PolicyProposals, wrong: np.ndarray, words: str
) -> None:
    proposals.offer(SEQUENCES)
    with pytest.raises(ValueError, match=words):
        proposals.offer(wrong)
    remaining = proposals.remaining()
    assert remaining is not None
    np.testing.assert_array_equal(remaining, SEQUENCES)


def test_offered_array_may_be_changed_later(proposals: PolicyProposals) -> None:
    given = SEQUENCES.copy()
    proposals.offer(given)
    given[:] = 0
    remaining = proposals.remaining()
    assert remaining is not None
    np.testing.assert_array_equal(remaining, SEQUENCES)
