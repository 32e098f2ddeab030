"""Validation and expiry of a planner's candidates."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jepa_runtime.recording import messages
from jepa_runtime.recording.candidate_proposals import CandidateProposals
from jepa_runtime.ros_messages.definitions import build
from tests.runtime.fakes import HORIZON, NUM_SAMPLES, STEP_S, FakeModel

GOOD = np.full((2, HORIZON, 2), 0.5, np.float32)
STAMP_NS = 5_000_000_007


class Clock:
    """A settable clock in seconds."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def message(actions: np.ndarray, source: str = "planner", *, delay_s: float = 0.0) -> Any:
    fields = {
        "header": messages.header(STAMP_NS, ""),
        "delay_s": delay_s,
        "actions": messages.tensor("actions", actions),
        "source": source,
    }
    return build(messages.ACTION_CANDIDATES, fields)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def proposals(clock: Clock) -> CandidateProposals:
    created = CandidateProposals(clock)
    created.expect(FakeModel())
    return created


def test_newest_candidates_are_valid_until_the_timeout(proposals: CandidateProposals, clock: Clock) -> None:
    assert proposals.newest() is None
    assert proposals.offer(message(GOOD)) == ""
    assert proposals.offer(message(2 * GOOD, source="")) == ""
    newest = proposals.newest()
    assert newest is not None
    np.testing.assert_array_equal(newest.actions, 2 * GOOD)
    assert (newest.source, newest.stamp_ns) == ("candidates", STAMP_NS)
    proposals.timeout_s = 0.5
    clock.now_s = 100.5
    assert proposals.newest() is newest
    clock.now_s = 100.625
    assert proposals.newest() is None
    assert proposals.rejected == 0


@pytest.mark.parametrize(
    ("actions", "taken"),
    [
        (GOOD[:1], True),
        (np.zeros((NUM_SAMPLES, HORIZON, 2)), True),
        (np.full((1, HORIZON, 2), -1000.0), True),
        (GOOD[:0], False),
        (np.zeros((NUM_SAMPLES + 1, HORIZON, 2)), False),
        (np.zeros((2, HORIZON + 1, 2)), False),
        (np.zeros((2, HORIZON, 3)), False),
        (GOOD[0], False),
        (np.full((1, HORIZON, 2), -1000.5), False),
        (np.full((1, HORIZON, 2), 1e300), False),
        (np.where(np.arange(2) == 1, np.nan, GOOD), False),
    ],
)
def test_offer_accepts_finite_candidates_of_the_models_shape(
    proposals: CandidateProposals, actions: np.ndarray, taken: bool
) -> None:
    proposals.offer(message(GOOD, source="before"))
    reason = proposals.offer(message(actions))
    assert (reason == "") is taken and proposals.rejected == (not taken)
    newest = proposals.newest()
    assert newest is not None and newest.source == ("planner" if taken else "before")
    assert newest.actions.dtype == np.float32


@pytest.mark.parametrize(
    ("delay_s", "taken"),
    [(0.0, True), (0.25, True), (0.5, True), (0.51, False), (-0.1, False), (np.nan, False), (np.inf, False)],
)
def test_offer_accepts_a_delay_within_the_models_horizon(
    proposals: CandidateProposals, delay_s: float, taken: bool
) -> None:
    proposals.actuation_delay_s = HORIZON * STEP_S - 0.5
    proposals.expect(FakeModel())
    assert (proposals.offer(message(GOOD, delay_s=delay_s)) == "") is taken
    newest = proposals.newest()
    assert (newest is not None) is taken and (newest is None or newest.delay_ns == round(delay_s * 1e9))


def test_offer_of_a_recording_without_delays_starts_at_the_image(proposals: CandidateProposals) -> None:
    recorded = message(GOOD)
    older = SimpleNamespace(header=recorded.header, actions=recorded.actions, source=recorded.source)
    assert proposals.offer(older) == ""
    newest = proposals.newest()
    assert newest is not None and newest.delay_ns == 0


def test_offer_with_invalid_tensor_is_rejected(proposals: CandidateProposals) -> None:
    broken = message(GOOD)
    broken.actions.data = broken.actions.data[:-4]
    assert "cannot reshape" in proposals.offer(broken)
    assert proposals.rejected == 1 and proposals.newest() is None


@pytest.mark.parametrize("change", ["horizon", "most", None])
def test_expect_another_model_discards_candidates(proposals: CandidateProposals, change: str | None) -> None:
    proposals.offer(message(GOOD))
    other = FakeModel()
    if change == "horizon":
        other.manifest.horizon += 1
    elif change == "most":
        other.manifest.io.action.max_plausible /= 2
    proposals.expect(other)
    assert (proposals.newest() is None) is (change is not None)
