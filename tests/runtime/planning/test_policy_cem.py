"""CEM that starts from the action sequences of a policy."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.planning.policy_cem import PolicyCEM, PolicyCEMConfig

LIMITS = ActionLimits(low=np.full(2, -1, np.float32), high=np.ones(2, np.float32))
TARGET = np.float32([0.7, -0.4])
SETTINGS = {"num_samples": 32, "horizon": 6, "topk": 6, "constant_fraction": 0.0}


def search(**settings: float) -> PolicyCEM:
    return PolicyCEM(PolicyCEMConfig(**(SETTINGS | settings)), LIMITS, seed=3)


def costs_of(actions: np.ndarray) -> np.ndarray:
    return np.square(actions - TARGET).sum(axis=(1, 2))


def test_search_without_proposals_is_cem() -> None:
    ours, cem = search(), CEM(CEMConfig(**SETTINGS), LIMITS, seed=3)
    for each in (ours, cem):
        each.tell(costs_of(each.ask()))
    np.testing.assert_array_equal(ours.mean, cem.mean)


def test_candidates_are_drawn_around_the_first_proposal() -> None:
    ours = search(policy_std=0.01)
    ours.set_proposals(np.full((3, 4, 2), 0.5, np.float32))
    candidates = ours.ask()
    np.testing.assert_array_equal(candidates[0], np.zeros((6, 2)))
    np.testing.assert_array_equal(candidates[-3:], np.full((3, 6, 2), 0.5))
    assert np.abs(candidates[1:-3] - 0.5).max() < 0.1


def test_candidates_are_drawn_around_proposals_once_per_step() -> None:
    """A policy that sends others for each image must not replace the plan, which images improve."""
    ours, proposals = search(policy_std=0.01), np.full((3, 6, 2), 0.5, np.float32)

    def distance(value: float) -> float:
        ours.set_proposals(np.full((3, 6, 2), value, np.float32))
        candidates = ours.ask()
        np.testing.assert_array_equal(candidates[-3:], proposals + np.float32(value - 0.5))
        return float(np.abs(candidates[1:-3] - value).max())

    assert distance(0.5) < 0.1 and distance(0.75) > 0.5, "in between around the plan, which is zero"
    ours.shift()
    assert distance(0.75) < 0.1


def test_proposals_that_arrive_within_a_step_are_used_at_once() -> None:
    ours = search(policy_std=0.01)
    ours.ask()
    ours.set_proposals(np.full((1, 6, 2), 0.5, np.float32))
    assert np.abs(ours.ask()[1:-1] - 0.5).max() < 0.1


def test_plan_is_executed_until_costs_are_known() -> None:
    ours = search()
    ours.tell(costs_of(ours.ask()))
    plan = ours.mean.copy()
    ours.set_proposals(np.full((1, 6, 2), -0.9, np.float32))
    ours.ask()
    np.testing.assert_array_equal(ours.mean, plan)


def test_good_proposal_helps_and_a_bad_one_is_outvoted() -> None:
    def cost(proposal: float | None) -> float:
        ours = search()
        if proposal is not None:
            ours.set_proposals(np.repeat((TARGET * proposal)[None, None], 6, axis=1))
        for _ in range(4):
            ours.tell(costs_of(ours.ask()))
        return float(costs_of(ours.mean[None])[0])

    assert cost(0.95) < 0.5 * cost(None)
    assert cost(-1.0) < costs_of(np.repeat(-TARGET[None, None], 6, axis=1))[0] / 2


def test_proposals_stay_within_the_limits_and_end_with_reset() -> None:
    ours = search()
    ours.set_proposals(np.full((40, 9, 2), 5.0, np.float32))
    candidates = ours.ask()
    assert candidates.shape == (32, 6, 2) and candidates.max() <= 1
    assert (candidates[-8:] == 1).all()
    ours.reset()
    assert not (ours.ask()[-8:] == 1).all()


@pytest.mark.parametrize("shape", [(6, 2), (1, 6, 3), (0, 6, 2)])
def test_proposals_of_another_shape_are_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="proposals must be"):
        search().set_proposals(np.zeros(shape, np.float32))


@pytest.mark.parametrize("wrong", [{"policy_fraction": 0.0}, {"policy_std": -1.0}])
def test_invalid_settings_are_rejected(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PolicyCEMConfig(**wrong)
